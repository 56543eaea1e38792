"""What an evaluation leaves behind beside its scores: each image's own, the worst and the best, and label maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from pspnet_lightning.callbacks.gather import gather_arrays
from pspnet_lightning.callbacks.results import RunResults
from pspnet_lightning.data import SegmentationDataset
from pspnet_lightning.data.submission import PredictionFiles
from pspnet_lightning.metrics import CalibrationScores, ImageScore
from pspnet_lightning.runs.evaluation import ImageScores, Kept
from pspnet_lightning.runs.json_files import write_json
from pspnet_lightning.visualize import save_png


class EvaluationResults(RunResults):
    """``RunResults`` and, for each image, its mIoU and aAcc in ``images.csv``; ``worst.png`` and ``best.png``.

    ``data`` is the split that is evaluated, ``record`` what ``results.json`` holds besides the scores (protocol,
    checkpoint), ``pictures`` the number of images on each sheet, ``further`` what else is scored. Images are ranked
    by their own mIoU. Over several devices every image must have been counted once; anything else is an error.
    """

    def __init__(
        self,
        dirpath: str,
        data: SegmentationDataset,
        record: dict[str, Any],
        pictures: int = 4,
        group: str | None = None,
        further: Sequence[ImageScore] = (),
    ) -> None:
        super().__init__(dirpath, group)
        self.data = data
        self.record = record
        self._own = ImageScores(data, pictures)
        self._further = further

    def _image(
        self, index: int, confusion: Tensor, prediction: Tensor, target: Tensor, probabilities: Tensor | None
    ) -> None:
        self._own.add(index, confusion, prediction)
        super()._image(index, confusion, prediction, target, probabilities)

    def _results(self, trainer: L.Trainer, pl_module: Any, split: str) -> None:
        # Each image belongs to one rank: the sum over ranks is the whole table.
        if trainer.world_size > 1:
            self._own.table = trainer.strategy.reduce(self._own.table.to(pl_module.device), reduce_op="sum").cpu()
        self._own.keep(_gathered(self._own.kept, pl_module.device))
        self._own.check()
        if self.data.labelled:
            super()._results(trainer, pl_module, split)
        if not trainer.is_global_zero:
            return
        if self.data.labelled:
            self._own.write(self.folder)
        else:
            content = {"split": split, "data": self.data.spec.name, "classes": list(self.data.spec.classes)}
            write_json({**content, **self.details()}, self.folder / "results.json")

    def temperature(self) -> dict[str, float]:
        """What the calibration among the further scores fits; see ``CalibrationScores.fit``."""
        return next(score.fit() for score in self._further if isinstance(score, CalibrationScores))

    def details(self) -> dict[str, Any]:
        return {**self.record, **self._own.details(), **super().details()}


class SavePredictions(Callback):
    """Writes every prediction as an index PNG, each by the rank that made it, into rank 0's ``dirpath``."""

    def __init__(self, dirpath: str, files: PredictionFiles) -> None:
        self.folder = Path(dirpath)
        self.files = files

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for index, prediction, _ in images_of(batch, outputs):
            path = self.folder / self.files.paths[index]
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(self.files.values[prediction.cpu().numpy()], path, self.files.palette)

    on_validation_batch_end = on_test_batch_end


def images_of(batch: Any, outputs: Any) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Index in the data set, prediction and label (H, W) of each image of a validation batch."""
    for group, predictions in zip(batch, outputs["predictions"], strict=True):
        yield from zip(group["index"].tolist(), predictions, group["label"], strict=True)


def _gathered(items: list[Kept], device: torch.device) -> list[Kept]:
    """The items of all ranks, on every rank."""
    arrays = {f"prediction{place}": kept.prediction for place, kept in enumerate(items)}
    arrays["miou"] = np.array([kept.miou for kept in items], np.float64)
    arrays["number"] = np.array([kept.number for kept in items], np.int64)
    return [
        Kept(float(miou), int(number), part[f"prediction{place}"])
        for part in gather_arrays(arrays, device)
        for place, (miou, number) in enumerate(zip(part["miou"], part["number"], strict=True))
    ]
