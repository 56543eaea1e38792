"""Where figures and pictures go: CSV, TensorBoard, Weights & Biases; one function each makes the logger."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.loggers import Logger

from pspnet_lightning.loggers.boards import Board, boards
from pspnet_lightning.loggers.metrics_file import MetricsFile
from pspnet_lightning.loggers.tensorboard_run import TensorBoardRun
from pspnet_lightning.loggers.wandb_run import ARTIFACTS, WandbRun
from pspnet_lightning.runs.fields import node, texts
from pspnet_lightning.runs.plain_files import read_yaml


def csv_logger(save_dir: str) -> Logger:
    """``<save_dir>/metrics.csv``, over all attempts of a run."""
    return MetricsFile(save_dir)


def tensorboard_logger(save_dir: str) -> Logger:
    """Event files in ``<save_dir>/tensorboard``. Raises ValueError where TensorBoard is not installed."""
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise ValueError("logger=tensorboard needs TensorBoard: pip install 'pspnet-lightning[tensorboard]'") from error
    return TensorBoardRun(save_dir, name="", version="tensorboard", default_hp_metric=False)


def wandb_logger(
    save_dir: str,
    project: str = "pspnet-lightning",
    entity: str | None = None,
    name: str | None = None,
    group: str | None = None,
    job_type: str = "train",
    tags: list[str] | None = None,
    notes: str | None = None,
    offline: bool | None = None,
    log_model: Literal["best", "last", "all", False] | None = "best",
    resume: bool = True,
) -> Logger:
    """A W&B run in ``save_dir``; offline unless there is a login (or ``offline`` says otherwise), never a prompt.

    In a sweep, ``group`` is the sweep's folder and ``name`` what the job has of its own, ``model.bins=[1,2]``, unless
    they are given. ``log_model``: which checkpoints become artifacts: none (False), at the end the best one ("best" or
    True) or the best and the last one ("last"), or each new best one while training and the last ("all"). With
    ``resume`` a run that resumes a checkpoint goes on in that checkpoint's W&B run, otherwise in one of its own.

    Raises ValueError for another ``log_model``.
    """
    import wandb

    artifacts = log_model if isinstance(log_model, str) else "best" if log_model else None
    if artifacts not in (None, *ARTIFACTS):
        raise ValueError(f"logger.wandb.log_model={log_model!r} must be false or one of {', '.join(ARTIFACTS)}")
    chosen = offline is not None
    if offline is None:
        mode = os.environ.get("WANDB_MODE", "")
        offline = mode in ("offline", "dryrun") or (mode == "" and not wandb.login(prompt=False, verify=False))
    folder = Path(save_dir)
    sweep = _sweep_of(folder)
    return WandbRun(
        save_dir=save_dir,
        artifacts=artifacts,
        resume=resume,
        free=not chosen,
        project=project,
        entity=entity,
        name=name or (_own_overrides(folder, sweep) if sweep else _label(folder)),
        group=group or (_label(sweep) if sweep else None),
        job_type=job_type,
        tags=tags or None,
        notes=notes,
        offline=offline,
        mode="offline" if offline else "online",
    )


def _sweep_of(folder: Path) -> Path | None:
    """The folder of the sweep that a job's folder is part of: Hydra puts a multirun.yaml there."""
    above = folder.resolve().parents
    return next((parent for parent in above[:3] if (parent / "multirun.yaml").is_file()), None)


def _own_overrides(folder: Path, sweep: Path) -> str:
    """What distinguishes a job from the sweep's others: its overrides less those that all have."""
    common = {_canonical(word) for word in _overrides(sweep / "multirun.yaml", "hydra", "overrides", "task")}
    own = [word for word in _overrides(folder / ".hydra" / "overrides.yaml") if _canonical(word) not in common]
    return " ".join(own)[:128] or _label(folder)


def _canonical(word: str) -> str:
    """Hydra writes a job's values its own way: False for false, 0.001 for 1e-3."""
    key, _, value = word.partition("=")
    try:
        return f"{key}={float(value):g}"
    except ValueError:
        return re.sub(r"[\s'\"]", "", word).lower()


def _overrides(path: Path, *keys: str) -> Sequence[str]:
    if not path.is_file():
        return []
    content = read_yaml(path)
    for key in keys:
        content = node(content).get(key)
    return texts(content)


def _label(folder: Path) -> str:
    """A folder's name; of Hydra's dated ones the last two, 2026-11-24/08-22-47."""
    parts = folder.resolve().parts
    dated = len(parts) > 1 and re.fullmatch(r"\d{4}-\d\d-\d\d", parts[-2])
    return "/".join(parts[-2:] if dated else parts[-1:])[-128:]


def resume_from(loggers: Sequence[Logger], content: dict[str, Any], checkpoint: str | Path) -> None:
    """Tells the loggers, before their first row, which checkpoint (``content`` as read) the run goes on from."""
    for logger in loggers:
        if isinstance(logger, Board):
            logger.resume_from(content.get("wandb"), Path(checkpoint), int(content["global_step"]))


def log_config(trainer: L.Trainer, config: dict[str, Any]) -> None:
    """Sends the resolved config to every logger; the run folder holds config.yaml."""
    for board in boards(trainer):
        board.show_config(config)


def finish(loggers: Sequence[Logger], *, failed: bool = False) -> None:
    """Ends the loggers' runs, so that the next job of a sweep begins one of its own."""
    for logger in loggers:
        if isinstance(logger, Board):
            logger.end(failed=failed)
