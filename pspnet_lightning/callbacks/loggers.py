"""Where figures and pictures go: CSV, TensorBoard, Weights & Biases; one function each, one `log_image` for all."""

from __future__ import annotations

import os
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from pspnet_lightning.callbacks.metrics_file import MetricsFile


def csv_logger(save_dir: str) -> Logger:
    """``<save_dir>/metrics.csv``, over all attempts of a run."""
    return MetricsFile(save_dir)


def tensorboard_logger(save_dir: str) -> Logger:
    """Event files in ``<save_dir>/tensorboard``. Raises ValueError where TensorBoard is not installed."""
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise ValueError("logger=tensorboard needs TensorBoard: pip install 'pspnet-lightning[tensorboard]'") from error
    return TensorBoardLogger(save_dir, name="", version="tensorboard", default_hp_metric=False)


def wandb_logger(
    save_dir: str,
    project: str = "pspnet-lightning",
    name: str | None = None,
    group: str | None = None,
    job_type: str = "train",
    tags: list[str] | None = None,
    notes: str | None = None,
    offline: bool | None = None,
    log_model: bool = False,
) -> Logger:
    """A W&B run in ``save_dir``; offline unless there is a login (or ``offline`` says otherwise), never a prompt.

    ``wandb sync <save_dir>/wandb/offline-run-*`` sends an offline run later.
    """
    import wandb

    if offline is None:
        mode = os.environ.get("WANDB_MODE", "")
        offline = mode in ("offline", "dryrun") or (mode == "" and not wandb.login(prompt=False, verify=False))
    return WandbLogger(
        project=project,
        name=name,
        save_dir=save_dir,
        group=group,
        job_type=job_type,
        tags=tags or None,
        notes=notes,
        offline=offline,
        mode="offline" if offline else "online",
        log_model=log_model and not offline,
    )


def finish(loggers: list[Logger]) -> None:
    """Ends W&B runs, so that the next job of a sweep begins one of its own."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def log_image(trainer: L.Trainer, key: str, image: np.ndarray, step: int) -> None:
    """Sends one uint8 (H, W, 3) picture to every logger that shows pictures."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, [image], step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, image, step, dataformats="HWC")


def log_config(trainer: L.Trainer, config: dict[str, Any]) -> None:
    """Sends the resolved config to every logger."""
    for logger in trainer.loggers:
        if not isinstance(logger, MetricsFile):  # the run folder holds config.yaml
            logger.log_hyperparams(config)
