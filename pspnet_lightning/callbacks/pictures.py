"""A sheet of validation pictures, the same images every epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback

from pspnet_lightning.callbacks.disk import despite_full_disk
from pspnet_lightning.callbacks.loggers import log_image
from pspnet_lightning.data import DataSpec
from pspnet_lightning.visualize import SheetItem, prediction_sheet, save_png


class ValidationPictures(Callback):
    """Writes ``validation.png`` (image, truth, prediction, error map) into ``dirpath`` after each validation.

    ``count`` images, spread evenly over rank 0's share of the validation set; they go to the loggers
    that show pictures as well.
    """

    def __init__(self, dirpath: str, count: int = 6) -> None:
        if count < 1:
            raise ValueError(f"callbacks.pictures.count={count} must be at least 1; remove the callback instead")
        self.path = Path(dirpath) / "validation.png"
        self.count = count
        self._items: list[SheetItem] = []
        self._seen = 0
        self._chosen: set[int] = set()

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        total = sum(len(loader.sampler) for loader in _flat(trainer.val_dataloaders))
        self._items, self._seen = [], 0
        self._chosen = {round(position) for position in np.linspace(0, max(total - 1, 0), self.count)}

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for group, predictions in zip(batch, outputs["predictions"], strict=True):
            for position in range(len(predictions)):
                if self._seen in self._chosen:
                    self._items.append(
                        SheetItem(
                            image=group["image"][position].permute(1, 2, 0).cpu().numpy(),
                            label=group["label"][position].cpu().numpy(),
                            prediction=predictions[position].cpu().numpy(),
                            name=group["name"][position],
                        )
                    )
                self._seen += 1

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or not self._items:
            return
        spec = DataSpec.from_dict(pl_module.description["spec"])  # type: ignore[index,arg-type]
        sheet = prediction_sheet(self._items, spec)
        with despite_full_disk(self.path):
            save_png(sheet, self.path)
        log_image(trainer, "val/pictures", sheet, trainer.global_step)


def _flat(loaders: Any) -> list[Any]:
    return list(loaders) if isinstance(loaders, list | tuple) else [loaders]
