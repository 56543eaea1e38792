"""One W&B run: Lightning's logger, resumed under the same id, with pictures, tables and artifacts."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from pspnet_lightning.data import DataSpec
from pspnet_lightning.loggers.boards import BEST_VALUES, NO_CLASS, Board, as_pictures
from pspnet_lightning.visualize import SheetItem

# The x-axis of all curves: optimiser steps, counted from 0 as Lightning's loggers do.
STEP = "trainer/global_step"
# Seconds after which W&B's own process writes what it was told to the disk. Its default, 15, is what SIGKILL loses.
FLUSH_INTERVAL = 0.1
# An interactive matrix of more classes than this is slow and cannot be read; the picture is there for any number.
CHART_CLASSES = 40
# Which checkpoints are kept as artifacts: see `loggers.wandb_logger`.
ARTIFACTS = ("best", "last", "all")
# Where tables wait for being sent: the run folder. W&B's default is the home folder, which a container loses.
_DATA_DIR_IS_OURS = "WANDB_DATA_DIR" not in os.environ


class WandbRun(WandbLogger, Board):
    """Lightning's W&B logger. A resumed run has the id that its checkpoint names.

    After a kill the steps since the checkpoint are trained and sent again. Resuming is exact, so they are the same
    points; ``metrics.csv`` is the record that holds each step once.
    """

    def __init__(self, *, save_dir: str, artifacts: str | None, resume: bool, free: bool, **init: Any) -> None:
        """``artifacts``: see ``loggers.wandb_logger``; ``free``: the user did not say whether to send at once."""
        super().__init__(save_dir=save_dir, **init)
        self._wandb_init.pop("anonymous")  # W&B warns of it
        self.artifacts = artifacts
        self._resume = resume
        self._free = free
        self._written: dict[bool, str] = {}  # the checkpoints: the best one, the last one

    # ------------------------------------------------------------------ beginning, resuming, ending

    @property
    def experiment(self) -> Any:
        """The ``wandb.Run``, begun when first asked for."""
        if self._experiment is None and getattr(rank_zero_only, "rank", 0) == 0:
            self._begin()
        return super().experiment

    def _begin(self) -> None:
        import wandb

        settings = wandb.Settings(quiet=True, x_transaction_log_flush_interval=FLUSH_INTERVAL)
        run = wandb.init(**self._wandb_init, settings=settings, reinit="finish_previous")
        if _DATA_DIR_IS_OURS:
            os.environ["WANDB_DATA_DIR"] = str(self._folder.resolve())
        self._experiment = run
        run.define_metric(STEP, hidden=True)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        for key, rule in BEST_VALUES.items():
            run.define_metric(key, step_metric=STEP, step_sync=True, summary=rule)

    @property
    def _folder(self) -> Path:
        assert self._save_dir is not None
        return Path(self._save_dir) / "wandb"

    def resume_from(self, state: Mapping[str, Any] | None, checkpoint: Path, step: int) -> None:
        """Goes on with the checkpoint's run. While its first part waits to be sent the rest stays offline too."""
        if not self._resume or state is None:
            return
        self._id = self._wandb_init["id"] = state["id"]
        if self._free and self._unsent(checkpoint.resolve().parent.parent / "wandb"):
            self._offline = True
            self._wandb_init["mode"] = "offline"

    def _unsent(self, folder: Path) -> list[Path]:
        """The offline parts of this run that `wandb sync` has not sent, the oldest first: their names hold the time."""
        files = sorted(folder.glob(f"offline-run-*-{self.version}/run-{self.version}.wandb"))
        return [path.parent for path in files if not path.with_name(f"{path.name}.synced").exists()]

    def state(self) -> dict[str, Any] | None:
        return None if self._experiment is None else {"id": self._experiment.id}

    def end(self, *, failed: bool) -> None:
        """Ends the run, as failed or not; offline, prints the command that sends it."""
        if self._experiment is None:
            return
        self._experiment.finish(exit_code=int(failed))
        self._id, self._experiment = self._experiment.id, None
        if _DATA_DIR_IS_OURS:
            os.environ.pop("WANDB_DATA_DIR", None)
        if self._offline:
            # All parts in one command: W&B sends those of one run in the order in which they are named.
            print(f"send it to W&B:  wandb sync {' '.join(map(_shown, self._unsent(self._folder)))}", flush=True)

    # ------------------------------------------------------------------ what is shown

    @rank_zero_only
    def _show(self, values: Mapping[str, Any], step: int) -> None:
        self.experiment.log({**values, STEP: step})

    def show_pictures(self, key: str, items: Sequence[SheetItem], sheet: np.ndarray, spec: DataSpec, step: int) -> None:
        """Images whose truth, prediction and errors are masks that the page switches on and off; and the sheet."""
        import wandb

        classes = {**dict(enumerate(spec.classes)), spec.ignore_index: "ignored"}
        verdicts = {0: "right", 1: "wrong", spec.ignore_index: "ignored"}
        images = []
        for picture in as_pictures(items, spec.ignore_index):
            verdict = (picture.prediction != picture.label).astype(np.uint8)
            verdict[picture.label == spec.ignore_index] = spec.ignore_index
            masks = {
                "prediction": {"mask_data": picture.prediction, "class_labels": classes},
                "truth": {"mask_data": picture.label, "class_labels": classes},
                "errors": {"mask_data": verdict, "class_labels": verdicts},
            }
            images.append(wandb.Image(picture.rgb, caption=picture.caption, masks=masks, file_type="jpg"))
        # W&B chooses the masks' colours by itself; the sheet has the data set's.
        self._show({key: images, f"{key}_sheet": wandb.Image(sheet, file_type="png")}, step)

    def show_classes(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """A curve for each class, and one table, whole again each time, so that it is whole after a resumption too."""
        import wandb

        # log_mode="INCREMENTAL" begins anew in an offline part, and the page shows the last 100 increments only.
        table = wandb.Table(columns=list(columns), data=[list(row) for row in rows], log_mode="MUTABLE")
        newest = zip(columns, rows[-1], strict=True)
        curves = {f"{key}/{name}": value for name, value in newest if name not in NO_CLASS and value is not None}
        self._show({key: table, **curves}, step)

    def show_confusion(
        self, key: str, shares: np.ndarray, picture: np.ndarray, classes: Sequence[str], step: int
    ) -> None:
        """The picture, and up to ``CHART_CLASSES`` classes W&B's own chart, whose cells can be pointed at."""
        import wandb

        values: dict[str, Any] = {key: wandb.Image(picture, file_type="png")}
        if len(classes) <= CHART_CLASSES:
            fields = ("Actual", "Predicted", "nPredictions")
            cells = [
                [truth, prediction, round(100 * float(shares[row, column]), 2)]
                for row, truth in enumerate(classes)
                for column, prediction in enumerate(classes)
            ]
            values[f"{key}_chart"] = wandb.plot_table(
                vega_spec_name="wandb/confusion_matrix/v1",
                data_table=wandb.Table(columns=list(fields), data=cells),
                fields={name: name for name in fields},
                string_fields={"title": "per cent of each true class"},
            )
        self._show(values, step)

    @rank_zero_only
    def show_config(self, config: Mapping[str, Any]) -> None:
        """The config, and the bins as a text: lists are no axis of W&B's charts."""
        bins = config.get("model", {}).get("bins")
        label = {} if bins is None else {"bins": " ".join(map(str, bins)) or "none"}
        self.log_hyperparams({**config, **label})

    def show_best(self, values: Mapping[str, float], step: int) -> None:
        """In the run's summary only: a curve of one point would be a panel for nothing."""
        self.experiment.summary.update(dict(values))

    # ------------------------------------------------------------------ artifacts

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Lightning's message that a checkpoint was written."""
        self._written[checkpoint_callback.monitor is not None] = checkpoint_callback.best_model_path
        self.keep_checkpoint(checkpoint_callback, final=False)

    def keep_checkpoint(self, callback: ModelCheckpoint, *, final: bool) -> None:
        """The checkpoint that a ModelCheckpoint wrote last, if ``log_model`` asks for it."""
        best = callback.monitor is not None
        wanted = {"best": final and best, "last": final, "all": final != best}
        # `trainer.validate` has set the callbacks back to what they were when the best checkpoint was saved.
        path, score = Path(self._written.get(best) or callback.best_model_path), callback.best_model_score
        if not self.artifacts or not wanted[self.artifacts] or not path.is_file():
            return
        metadata = {"monitor": callback.monitor, "score": float(score)} if score is not None else {}
        self.keep_file(
            path,
            name=f"model-{self.experiment.id}",
            kind="model",
            aliases=["best" if best else "last"],
            metadata={**metadata, "file": path.name},
        )

    @rank_zero_only
    def keep_file(self, path: Path, *, name: str, kind: str, aliases: Sequence[str], metadata: dict[str, Any]) -> None:
        """Makes an artifact of one file; it may be replaced or removed afterwards."""
        import wandb

        # A second name for it, not a copy: our files are replaced, never written over.
        kept = self._folder / "kept" / f"{time.time_ns()}-{path.name}"
        kept.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, kept)
        except OSError:  # a file system without links
            shutil.copyfile(path, kept)
        artifact = wandb.Artifact(name, type=kind, metadata=metadata)
        artifact.add_file(str(kept.resolve()), name=path.name, policy="immutable", skip_cache=True)
        self.experiment.log_artifact(artifact, aliases=list(aliases))


def _shown(path: Path) -> str:
    """A path relative to where the user stands, if it lies below."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
