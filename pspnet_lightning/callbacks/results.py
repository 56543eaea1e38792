"""What a run leaves behind: results.json, curves, the confusion matrix and the table of classes on the screen."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from pspnet_lightning.callbacks.gather import gather_arrays
from pspnet_lightning.data import DataSpec
from pspnet_lightning.data.folds import group_names
from pspnet_lightning.disk import despite_full_disk
from pspnet_lightning.metrics import Answer, Further, ImageScore, count_pairs, further_scores
from pspnet_lightning.runs.evaluation import Counted, image_counts, packed, unpacked, write_results
from pspnet_lightning.visualize import plot_curves


class RunResults(Callback):
    """Writes ``curves.png`` (at most once a minute, and at the end) and, after ``trainer.validate``, the results.

    ``results.json`` holds mIoU, mAcc, aAcc, per-class IoU and accuracy, the rule by which absent
    classes are treated, the same confusion matrix under the other code bases' rules, and 95 % intervals over the
    images. ``images.npz`` holds each image's own confusion matrix. ``group`` is ``data.group``, see ``FoldSource``:
    intervals are over whole groups where it is given. ``metrics`` names what else is scored.
    """

    def __init__(self, dirpath: str, group: str | None = None, metrics: Sequence[Further] = ()) -> None:
        self.folder = Path(dirpath)
        self._drawn = time.monotonic()
        self.group = group
        self.metrics = metrics
        self._images: dict[int, Counted] = {}
        self._further: Sequence[ImageScore] = ()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.metrics:
            # Also before the training, so that a score of other data is told at once.
            spec = DataSpec.from_dict(cast(Any, pl_module).description["spec"])
            self._further = further_scores(self.metrics, spec.num_classes, spec.ignore_index)
            cast(Any, pl_module).with_probabilities = stage != "fit" and any(
                score.needs_probabilities for score in self._further
            )
        if self.group is not None and trainer.datamodule is not None:  # type: ignore[attr-defined]
            # A pattern that does not fit is told before any time is spent.
            data = trainer.datamodule.split("test" if stage == "test" else "val")  # type: ignore[attr-defined]
            group_names([data.name(index) for index in range(len(data))], self.group)

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

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.state.fn not in ("validate", "test"):
            return
        spec = DataSpec.from_dict(cast(Any, pl_module).description["spec"])
        told = outputs.get("probabilities") or [[None] * len(group["name"]) for group in batch]
        for group, predictions, chances in zip(batch, outputs["predictions"], told, strict=True):
            for index, name, prediction, target, own in zip(
                group["index"].tolist(), group["name"], predictions, group["label"], chances, strict=True
            ):
                confusion = count_pairs(prediction, target, spec.num_classes, spec.ignore_index).cpu()
                self._images[index] = Counted.of(name, confusion)
                self._image(index, confusion, prediction, target, own)

    on_validation_batch_end = on_test_batch_end

    def _image(
        self, index: int, confusion: Tensor, prediction: Tensor, target: Tensor, probabilities: Tensor | None
    ) -> None:
        """One image has been counted."""
        if self._further:
            own = None if probabilities is None else probabilities.float().cpu().numpy()
            answer = Answer(prediction.cpu().numpy(), target.cpu().numpy(), own)
            for score in self._further:
                score.add(index, answer)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._results(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._results(trainer, pl_module, "test")

    def _results(self, trainer: L.Trainer, pl_module: Any, split: str) -> None:
        for score in self._further:
            score.gather(list(gather_arrays(score.arrays(), pl_module.device)))
        confusion = pl_module.confusion.compute().cpu()
        images: dict[int, Counted] = {}
        for part in gather_arrays(packed(self._images), pl_module.device):
            images.update(unpacked(part))
        self._images = {}
        if trainer.is_global_zero:
            spec = DataSpec.from_dict(pl_module.description["spec"])
            counts = image_counts(images, spec.classes, self.group)
            write_results(self.folder, split, spec, confusion, counts, self.details())

    def details(self) -> dict[str, Any]:
        """What else ``results.json`` holds."""
        return {key: value for score in self._further for key, value in score.results().items()}
