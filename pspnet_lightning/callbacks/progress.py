"""Progress on the screen: a bar for a person, one line an epoch for a log, and the rate in images a second."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme


class _TrainingBar(RichProgressBar):
    """The bar with the loss, the backbone's learning rate, images a second and the last mIoU; no version number."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


def progress_bar(refresh_rate: int = 1) -> Callback:
    """A rich bar on a terminal, otherwise one line an epoch."""
    if sys.stdout.isatty():
        theme = RichProgressBarTheme(metrics_format=".4g")
        return _TrainingBar(refresh_rate=refresh_rate, leave=False, theme=theme)
    return EpochLines()


class Throughput(Callback):
    """Logs ``images_per_second`` over all ranks and ``data_wait`` (share of the epoch spent waiting for batches).

    Rates are of the current epoch so far, validation not counted. On a CUDA device also ``gpu_memory``, GiB that
    this rank's tensors took at most since the start.
    """

    def __init__(self) -> None:
        self._images = 0
        self._waited = 0.0
        self._started = self._last_end = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._images, self._waited = 0, 0.0
        self._started = self._last_end = time.perf_counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._waited += time.perf_counter() - self._last_end

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._last_end = time.perf_counter()
        size = len(batch["index"])
        self._images += size * trainer.world_size
        elapsed = max(self._last_end - self._started, 1e-9)
        pl_module.log("images_per_second", self._images / elapsed, prog_bar=True, batch_size=size)
        pl_module.log("data_wait", self._waited / elapsed, batch_size=size)
        if pl_module.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
            pl_module.log("gpu_memory", memory, batch_size=size)


class EpochLines(Callback):
    """One line an epoch on standard output, for pipes, log files and CI."""

    def __init__(self) -> None:
        self._validated = -1

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._validated = trainer.current_epoch
            self._line(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._validated != trainer.current_epoch:
            self._line(trainer)

    def _line(self, trainer: L.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        metrics = trainer.callback_metrics
        shown = [
            f"{label} {float(metrics[key]):{form}}"
            for key, label, form in (
                ("train/loss", "loss", ".4f"),
                ("val/loss", "val loss", ".4f"),
                ("val/miou", "val mIoU", ".4f"),
                ("lr/backbone", "lr", ".3g"),
                ("images_per_second", "images/s", ".1f"),
            )
            # Without a validation this epoch, its scores are of an earlier one.
            if key in metrics and (self._validated == trainer.current_epoch or not key.startswith("val/"))
        ]
        total = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        print(
            f"epoch {trainer.current_epoch + 1}/{total}, step {trainer.global_step}: {', '.join(shown)}",
            flush=True,
        )
