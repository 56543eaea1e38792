"""Sheets of validation pictures: the same images every epoch, and the hardest ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import numpy as np
import torch
from annotated_types import Interval
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from pspnet_lightning.callbacks.gather import gather_arrays
from pspnet_lightning.data import DataSpec
from pspnet_lightning.disk import despite_full_disk
from pspnet_lightning.loggers.boards import boards, logged_step
from pspnet_lightning.metrics import scores
from pspnet_lightning.visualize import SheetItem, cell_notes, prediction_sheet, save_png

_ARRAYS = ("image", "label", "prediction")  # of a SheetItem


class ValidationPictures(Callback):
    """Writes ``validation.png`` and ``hardest.png`` (image, truth, prediction, errors) after each validation.

    The first shows ``count`` images, spread evenly over rank 0's share of the validation set; the second the
    ``hardest`` images of all ranks: those with the lowest mIoU of their own, over the classes that an image's truth or
    prediction has. Both go to the loggers that show pictures, under ``val/``, those of the best checkpoint under
    ``best/``.
    """

    def __init__(
        self,
        dirpath: str,
        count: Annotated[int, Interval(ge=1, le=1000)] = 6,
        hardest: Annotated[int, Interval(ge=0, le=1000)] = 6,
    ) -> None:
        if count < 1 or hardest < 0:
            raise ValueError(
                f"callbacks.pictures.count={count} must be at least 1 and hardest={hardest} at least 0; "
                f"remove the callback instead with callbacks.pictures=null"
            )
        self.folder = Path(dirpath)
        self.count = count
        self.hardest = hardest
        self._items: list[SheetItem] = []
        self._worst: list[tuple[float, SheetItem]] = []
        self._seen = 0
        self._chosen: set[int] = set()

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loaders = zip(_flat(trainer.val_dataloaders), trainer.num_val_batches, strict=True)
        # trainer.limit_val_batches may leave some out.
        total = sum(min(len(loader.sampler), int(count * (loader.batch_size or 1))) for loader, count in loaders)
        self._items, self._worst, self._seen = [], [], 0
        self._chosen = {round(position) for position in np.linspace(0, max(total - 1, 0), self.count)}

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for group, predictions in zip(batch, outputs["predictions"], strict=True):
            for position, prediction in enumerate(predictions):
                label = group["label"][position]
                if self._seen in self._chosen:
                    name = group["name"][position]
                    self._items.append(_item(group["image"][position], label, prediction, name))
                self._seen += 1
                if self.hardest:
                    miou = image_miou(prediction, label, pl_module.confusion.num_classes, pl_module.ignore_index)
                    if len(self._worst) < self.hardest or miou < self._worst[-1][0]:
                        name = f"{group['name'][position]}  mIoU {100 * miou:.1f} %"
                        self._add(miou, _item(group["image"][position], label, prediction, name))

    def _add(self, miou: float, item: SheetItem) -> None:
        if not math.isnan(miou):  # every pixel is ignored
            self._worst = _hardest([*self._worst, (miou, item)], self.hardest)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        worst = _hardest(_gathered(self._worst, self.hardest, pl_module.device), self.hardest)  # on all ranks
        if not trainer.is_global_zero:
            return
        spec = DataSpec.from_dict(pl_module.description["spec"])
        prefix = "best" if trainer.state.fn == "validate" else "val"
        hardest = [item for _, item in worst]
        for name, items, file in (("pictures", self._items, "validation"), ("hardest", hardest, "hardest")):
            if items:
                sheet = prediction_sheet(items, spec)
                path = self.folder / f"{file}.png"
                with despite_full_disk(path):
                    save_png(sheet, path, notes=cell_notes(items))
                for board in boards(trainer):
                    board.show_pictures(f"{prefix}/{name}", items, sheet, spec, logged_step(trainer))


def image_miou(prediction: Tensor, label: Tensor, num_classes: int, ignore_index: int) -> float:
    """mIoU of one image, label maps (H, W), over the classes that occur in either; not-a-number without any pixel."""
    valid = label != ignore_index
    pairs = label[valid].long() * num_classes + prediction[valid]
    matrix = torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)
    return scores(matrix.cpu()).miou


def _item(image: Tensor, label: Tensor, prediction: Tensor, name: str) -> SheetItem:
    return SheetItem(
        image=image.permute(1, 2, 0).cpu().numpy(),
        label=label.cpu().numpy(),
        prediction=prediction.to(torch.uint8).cpu().numpy(),
        name=name,
    )


def _hardest(found: list[tuple[float, SheetItem]], count: int) -> list[tuple[float, SheetItem]]:
    return sorted(found, key=lambda pair: (pair[0], pair[1].name))[:count]


def _gathered(found: list[tuple[float, SheetItem]], count: int, device: torch.device) -> list[tuple[float, SheetItem]]:
    """The ``count`` hardest that all ranks found, and others that are as hard, on every rank."""
    scores_of_all = gather_arrays({"miou": np.array([miou for miou, _ in found], np.float64)}, device)
    limit = np.sort(np.concatenate([part["miou"] for part in scores_of_all]))[:count]
    sent = [(miou, item) for miou, item in found if len(limit) and miou <= limit[-1]]
    arrays = {
        "miou": np.array([miou for miou, _ in sent], np.float64),
        "name": np.array([item.name for _, item in sent]),
    }
    for place, (_, item) in enumerate(sent):
        for kind in _ARRAYS:
            arrays[f"{kind}{place}"] = getattr(item, kind)
    return [
        (float(miou), SheetItem(**{kind: part[f"{kind}{place}"] for kind in _ARRAYS}, name=str(part["name"][place])))
        for part in gather_arrays(arrays, device)
        for place, miou in enumerate(part["miou"])
    ]


def _flat(loaders: Any) -> list[Any]:
    return list(loaders) if isinstance(loaders, list | tuple) else [loaders]
