"""What a run leaves behind: results.json, curves, the confusion matrix and the table of classes on the screen."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from pspnet_lightning.data import DataSpec
from pspnet_lightning.disk import despite_full_disk
from pspnet_lightning.metrics import all_conventions, scores
from pspnet_lightning.runs.json_files import write_json
from pspnet_lightning.visualize import class_table, confusion_picture, confusion_shares, plot_curves, save_png


class RunReport(Callback):
    """Writes ``curves.png`` (at most once a minute, and at the end) and, after ``trainer.validate``, the results.

    ``results.json`` holds mIoU, mAcc, aAcc, per-class IoU and accuracy, the rule by which absent
    classes are treated, and the same confusion matrix under the other code bases' rules.
    """

    def __init__(self, dirpath: str) -> None:
        self.folder = Path(dirpath)
        self._drawn = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Drawing takes a second: too much after each epoch of a small run.
        if time.monotonic() - self._drawn >= 60:
            self._curves(trainer)
            self._drawn = time.monotonic()

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._curves(trainer)

    def _curves(self, trainer: L.Trainer) -> None:
        metrics = self.folder / "metrics.csv"
        if trainer.is_global_zero and metrics.is_file():
            with metrics.open(newline="") as file:
                rows: list[dict[str, Any]] = list(csv.DictReader(file))
            with despite_full_disk(self.folder / "curves.png"):
                plot_curves(rows, self.folder / "curves.png")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._results(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._results(trainer, pl_module, "test")

    def _results(self, trainer: L.Trainer, pl_module: Any, split: str) -> None:
        confusion = pl_module.confusion.compute().cpu()
        if not trainer.is_global_zero:
            return
        spec = DataSpec.from_dict(pl_module.description["spec"])
        result = scores(confusion)
        content = {
            "split": split,
            "data": spec.name,
            **result.to_dict(),
            "classes": list(spec.classes),
            "palette": [list(colour) for colour in spec.palette],
            "conventions": all_conventions(confusion),
            "confusion": confusion.tolist(),
            **self.details(),
        }
        write_json(content, self.folder / "results.json")
        shares = confusion_shares(confusion.numpy())
        save_png(confusion_picture(shares, spec.classes), self.folder / "confusion.png")
        from rich import get_console  # the bar's own: above it, not into it

        get_console().print(class_table(result, spec.classes))

    def details(self) -> dict[str, Any]:
        """What else ``results.json`` holds."""
        return {}
