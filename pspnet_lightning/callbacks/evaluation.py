"""What an evaluation leaves behind beside its scores: each image's own, the worst and the best, and label maps."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from pspnet_lightning.callbacks.gather import gather_arrays
from pspnet_lightning.callbacks.report import RunReport
from pspnet_lightning.data import SegmentationDataset
from pspnet_lightning.data.submission import PredictionFiles
from pspnet_lightning.disk import replacing
from pspnet_lightning.metrics import count_pairs, scores
from pspnet_lightning.runs.fields import cell
from pspnet_lightning.runs.json_files import write_json
from pspnet_lightning.visualize import SheetItem, prediction_sheet, save_png

# Columns of the table of images.
_TIMES, _LABELLED, _IGNORED, _MIOU, _AACC = range(5)


class _Kept(NamedTuple):
    """An image whose prediction may be shown."""

    miou: float
    number: int  # in the data set
    prediction: np.ndarray


class EvaluationReport(RunReport):
    """``RunReport`` and, for each image, its mIoU and aAcc in ``images.csv``; ``worst.png`` and ``best.png``.

    ``data`` is the split that is evaluated, ``record`` what ``results.json`` holds besides the scores (protocol,
    checkpoint), ``pictures`` the number of images on each sheet. Images are ranked by their own mIoU. Over several
    devices every image must have been counted once; anything else is an error.
    """

    def __init__(self, dirpath: str, data: SegmentationDataset, record: dict[str, Any], pictures: int = 4) -> None:
        if pictures < 0:
            raise ValueError(f"evaluation.pictures={pictures} must be at least 0")
        super().__init__(dirpath)
        self.data = data
        self.record = record
        self.pictures = pictures
        self._table = torch.zeros(len(data), 5, dtype=torch.float64)
        self._worst: list[_Kept] = []
        self._best: list[_Kept] = []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        spec = self.data.spec
        for index, prediction, target in images_of(batch, outputs):
            confusion = count_pairs(prediction, target, spec.num_classes, spec.ignore_index).cpu()
            result = scores(confusion)
            labelled = int(confusion.sum())
            row = self._table[index]
            row += torch.tensor(
                [1, labelled, target.numel() - labelled, np.nan_to_num(result.miou), np.nan_to_num(result.aacc)]
            )
            if labelled and self.pictures:
                self._keep(_Kept(result.miou, index, prediction.to(torch.uint8).cpu().numpy()))

    on_validation_batch_end = on_test_batch_end

    def _keep(self, kept: _Kept) -> None:
        self._worst = sorted([*self._worst, kept], key=lambda one: (one.miou, one.number))[: self.pictures]
        self._best = sorted([*self._best, kept], key=lambda one: (-one.miou, one.number))[: self.pictures]

    def _results(self, trainer: L.Trainer, pl_module: Any, split: str) -> None:
        # Each image belongs to one rank: the sum over ranks is the whole table.
        if trainer.world_size > 1:
            self._table = trainer.strategy.reduce(self._table.to(pl_module.device), reduce_op="sum").cpu()
        for kept in _gathered([*self._worst, *self._best], pl_module.device):
            if not any(kept.number == own.number for own in (*self._worst, *self._best)):
                self._keep(kept)
        twice = (self._table[:, _TIMES] > 1).nonzero().flatten().tolist()
        if twice:
            raise RuntimeError(f"images were counted more than once: {[self.data.name(index) for index in twice]}")
        if self.data.labelled:
            super()._results(trainer, pl_module, split)
        if not trainer.is_global_zero:
            return
        if not self.data.labelled:
            content = {"split": split, "data": self.data.spec.name, "classes": list(self.data.spec.classes)}
            write_json({**content, **self.details()}, self.folder / "results.json")
            return
        self._write_table()
        for name, chosen in (("worst", self._worst), ("best", self._best)):
            if chosen:
                save_png(prediction_sheet([self._item(kept) for kept in chosen], self.data.spec), self._path(name))

    def details(self) -> dict[str, Any]:
        counts = self._table.sum(0)
        return {
            **self.record,
            "counts": {
                "images": int(counts[_TIMES]),
                "pixels": int(counts[_LABELLED]),
                "ignored_pixels": int(counts[_IGNORED]),
            },
            **{
                name: [
                    {
                        "name": self.data.name(kept.number),
                        "miou": kept.miou,
                        "aacc": float(self._table[kept.number, _AACC]),
                    }
                    for kept in chosen
                ]
                for name, chosen in (("worst", self._worst), ("best", self._best))
            },
        }

    def _write_table(self) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["name", "miou", "aacc", "pixels", "ignored_pixels"])
        for index, row in enumerate(self._table.tolist()):
            if row[_TIMES]:
                # An image without any labelled pixel has no score.
                values = [f"{row[column]:.6f}" if row[_LABELLED] else "" for column in (_MIOU, _AACC)]
                writer.writerow([cell(self.data.name(index)), *values, int(row[_LABELLED]), int(row[_IGNORED])])
        with replacing(self.folder / "images.csv") as part:
            part.write_text(text.getvalue())

    def _item(self, kept: _Kept) -> SheetItem:
        image, label = self.data.read(kept.number)
        name = f"{Path(self.data.name(kept.number)).name}   mIoU {100 * kept.miou:.1f} %,"
        return SheetItem(image, label, kept.prediction, name)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.png"


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


def _gathered(items: list[_Kept], device: torch.device) -> list[_Kept]:
    """The items of all ranks, on every rank."""
    arrays = {f"prediction{place}": kept.prediction for place, kept in enumerate(items)}
    arrays["miou"] = np.array([kept.miou for kept in items], np.float64)
    arrays["number"] = np.array([kept.number for kept in items], np.int64)
    return [
        _Kept(float(miou), int(number), part[f"prediction{place}"])
        for part in gather_arrays(arrays, device)
        for place, (miou, number) in enumerate(zip(part["miou"], part["number"], strict=True))
    ]
