"""Progress on the screen: a bar for a person, one line an epoch for a log, and the rate in images a second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import RichProgressBarTheme
from rich import get_console

from pspnet_lightning.terminal import animated

# What the bar calls the figures.
_NAMES = {
    "train/loss": "loss",
    "lr/backbone": "lr",
    "lr/all": "lr",
    "images_per_second": "images/s",
    "val/miou": "mIoU",
}
# Narrower terminals get a short bar without times, and the loss and the last mIoU only.
_WIDE = 110


class _TrainingBar(RichProgressBar):
    """The bar with loss, learning rate, images a second and the last mIoU; epochs that are over leave their line."""

    def __init__(self, refresh_rate: int) -> None:
        super().__init__(refresh_rate=refresh_rate, leave=False, theme=RichProgressBarTheme(metrics_format=".3g"))
        self._lines = EpochLines(self._say)

    def _init_progress(self, trainer: L.Trainer) -> None:
        super()._init_progress(trainer)
        if self.progress is not None:
            self.progress.live.transient = True  # what is over has left its line or its table

    def _say(self, line: str) -> None:
        # Through the bar's own console: above it, not into it.
        get_console().print(line, highlight=False)

    def _is_wide(self) -> bool:
        return get_console().width >= _WIDE

    def _get_train_description(self, current_epoch: int) -> str:
        total = self.trainer.max_epochs
        return f"epoch {current_epoch + 1}/{total}" if total and total > 0 else f"epoch {current_epoch + 1}"

    @property
    def validation_description(self) -> str:
        return "validation"

    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        description, bar, batches, times, _ = super().configure_columns(trainer)
        bar.bar_width = 20 if self._is_wide() else 12
        return [description, bar, batches, times] if self._is_wide() else [description, bar, batches]

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        shown = {short: metrics[key] for key, short in _NAMES.items() if key in metrics}
        return shown if self._is_wide() else {key: shown[key] for key in ("loss", "mIoU") if key in shown}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        self._lines.on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self._lines.on_train_epoch_end(trainer, pl_module)


def progress_bar(refresh_rate: int = 1) -> Callback:
    """A rich bar on a terminal; one line an epoch in pipes, under CI (``CI=true``) and on dumb terminals."""
    return _TrainingBar(refresh_rate) if animated(sys.stdout) else EpochLines()


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


def _print(line: str) -> None:
    print(line, flush=True)


class EpochLines(Callback):
    """One line an epoch on standard output, for pipes, log files and CI."""

    def __init__(self, say: Callable[[str], None] = _print) -> None:
        self._say = say
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
        self._say(f"epoch {trainer.current_epoch + 1}/{total}, step {trainer.global_step}: {', '.join(shown)}")
