"""TensorBoard with the pictures, the confusion matrix, per-class IoU and the hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from pspnet_lightning.data import DataSpec
from pspnet_lightning.loggers.boards import NO_CLASS, Board
from pspnet_lightning.visualize import SheetItem


class TensorBoardRun(TensorBoardLogger, Board):
    """Lightning's TensorBoard logger and what a ``Board`` shows. A resumed run hides what it does again."""

    def show_pictures(self, key: str, items: Sequence[SheetItem], sheet: np.ndarray, spec: DataSpec, step: int) -> None:
        self.experiment.add_image(key, sheet, step, dataformats="HWC")

    def show_classes(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """A curve for each class, and the newest row as a table of text."""
        newest = dict(zip(columns, rows[-1], strict=True))
        for name, value in newest.items():
            if name not in NO_CLASS and value is not None:
                self.experiment.add_scalar(f"{key}/{name}", value, step)
        lines = [f"| {name} | {'absent' if value is None else f'{value:.4g}'} |" for name, value in newest.items()]
        self.experiment.add_text(key, "\n".join(["| | |", "| --- | --- |", *lines]), step)

    def show_confusion(
        self, key: str, shares: np.ndarray, picture: np.ndarray, classes: Sequence[str], step: int
    ) -> None:
        self.experiment.add_image(key, picture, step, dataformats="HWC")

    @rank_zero_only
    def show_config(self, config: Mapping[str, Any]) -> None:
        """The HParams page: the flattened config against the curves ``val/miou`` and ``val/loss``."""
        from torch.utils.tensorboard.summary import hparams

        self.log_hyperparams(dict(config))  # hparams.yaml
        # Not with metrics: Lightning would log a made-up first value of each.
        for summary in hparams(_flat(config), {"val/miou": 0.0, "val/loss": 0.0}):
            self.experiment._get_file_writer().add_summary(summary)

    def show_best(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self.experiment.add_scalar(key, value, step)

    def state(self) -> dict[str, Any] | None:
        self.experiment.flush()
        return None

    def resume_from(self, state: Mapping[str, Any] | None, checkpoint: Path, step: int) -> None:
        # TensorBoard then forgets what the killed part wrote from this step on.
        self._kwargs["purge_step"] = step

    def end(self, *, failed: bool) -> None:
        self.experiment.flush()


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
