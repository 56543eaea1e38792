"""Faults on order: callbacks that a test adds to a run (``+callbacks.fault._target_=faulty.SignalAt``)."""

from __future__ import annotations

import os
import resource
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.experimental.callback import Callback as HydraCallback
from lightning.pytorch.callbacks import Callback, Timer


class SignalAt(Callback):
    """Sends a signal to this process, or to its whole group, at one place of a run that was not resumed.

    ``where``: ``batch`` (its end), ``validation`` (its ``val_batch``-th batch), ``epoch_end``, ``setup``, ``final``
    (the validation after the training).
    """

    def __init__(
        self,
        name: str,
        step: int,
        where: str = "batch",
        val_batch: int = 0,
        rank: int = 0,
        group: bool = False,
    ) -> None:
        self.number = getattr(signal, name)
        self.step = step
        self.where = where
        self.val_batch = val_batch
        self.rank = rank
        self.group = group

    def _send(self, trainer: L.Trainer, where: str) -> None:
        if where == self.where and trainer.global_rank == self.rank and trainer.global_step == self.step:
            if trainer.ckpt_path is not None and where != "final":
                return
            if self.group:
                os.killpg(os.getpgrp(), self.number)
            else:
                os.kill(os.getpid(), self.number)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._send(trainer, "setup")

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._send(trainer, "batch")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._send(trainer, "epoch_end")

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == self.val_batch:
            self._send(trainer, "validation" if trainer.state.fn == "fit" else "final")


class RaiseAt(Callback):
    """Raises RuntimeError in one rank at one step."""

    def __init__(self, step: int, rank: int = 0) -> None:
        self.step = step
        self.rank = rank

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            raise RuntimeError(f"a fault on order in rank {self.rank}")


class HangAt(Callback):
    """One rank waits for what does not come, as NCCL does for a peer that has gone; ``file`` says since when."""

    def __init__(self, step: int, file: str, rank: int = 0, seconds: float = 300) -> None:
        self.step = step
        self.file = Path(file)
        self.rank = rank
        self.seconds = seconds

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            self.file.touch()
            time.sleep(self.seconds)


class CountGraphs(Callback):
    """Says at the end of each training epoch how many graphs torch.compile has made in this process."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        count = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        print(f"graphs of rank {trainer.global_rank} after epoch {trainer.current_epoch + 1}: {count}", flush=True)


class LimitFileSize(Callback):
    """No file may grow beyond ``size`` bytes until step ``until``: writing more fails as on a full disk."""

    def __init__(self, size: int, begin: int = 0, until: int = 1 << 30) -> None:
        self.size = size
        self.begin = begin
        self.until = until

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        limited = self.begin <= trainer.global_step < self.until
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size if limited else most, most))


class SpoilWeights(Callback):
    """Makes one weight of one rank's network NaN after one step."""

    def __init__(self, step: int, rank: int = 0) -> None:
        self.step = step
        self.rank = rank

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            with torch.no_grad():
                next(pl_module.model.head.classifier.parameters()).view(-1)[0] = float("nan")


class TimeIsUpAt(Timer):
    """``trainer.max_time`` that runs out at one step of the first attempt."""

    def __init__(self, step: int) -> None:
        super().__init__(timedelta(days=1))
        self.step = step
        self.up = False

    def time_remaining(self, stage: str = "train") -> float | None:
        return 0.0 if self.up else 1.0

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        if trainer.global_step == self.step:
            self.up = trainer.should_stop = True


class InterruptRun(HydraCallback):
    """Ctrl-C when the config is composed and nothing has begun."""

    def on_run_start(self, config: Any, **_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
