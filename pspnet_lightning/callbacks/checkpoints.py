"""When checkpoints are written: the best, the last, in mid-epoch; and what a failed write leaves behind."""

from __future__ import annotations

import copy
import math
from typing import Annotated, Any

import lightning as L
from annotated_types import Ge
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

_STATE = (
    *("best_k_models", "kth_best_model_path", "kth_value", "best_model_path", "best_model_score", "current_score"),
    *("last_model_path", "_last_global_step_saved", "_last_checkpoint_saved"),
)


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint; a write that failed (``checkpoint.on_error=continue``) is tried again next time.

    Lightning would take it for done: a best score whose weights are nowhere.
    """

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.monitor is not None and self.monitor not in trainer.callback_metrics and epoch_is_cut(trainer):
            return  # no score yet: Lightning would warn of it
        super().on_train_epoch_end(trainer, pl_module)

    def _save_topk_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        before = {name: copy.copy(getattr(self, name)) for name in _STATE if hasattr(self, name)}
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        # Only rank 0 has written.
        if trainer.strategy.reduce_boolean_decision(
            getattr(trainer.strategy.checkpoint_io, "failed", False), all=False
        ):
            for name, value in before.items():
                setattr(self, name, value)


class StepCheckpoint(RunCheckpoint):
    """Rewrites ``last.ckpt`` every ``every_n_train_steps`` optimiser steps.

    Between two batches: when the figures of the one are logged and the next has not begun. Not at the end of an
    epoch and not between a batch and its validation, but one batch later: resuming there would skip that validation.
    """

    def __init__(self, dirpath: str, every_n_train_steps: Annotated[int, Ge(1)]) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="last",
            every_n_train_steps=every_n_train_steps,
            save_top_k=1,
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )
        self._boundary = StepBoundary()
        self._due = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._boundary.validated()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._boundary.batch_done()
        self._due |= trainer.global_step % self._every_n_train_steps == 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._due and self._boundary.reached(trainer, batch_idx):
            if not self._should_skip_saving_checkpoint(trainer):
                self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
            self._due = False

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        as_between_batches(checkpoint)


class StepBoundary:
    """Whether ``on_train_batch_start`` is a place from which a run can be continued exactly.

    It is not right after a validation or at an epoch's start, where Lightning would repeat or skip what belongs to
    the batch before, nor while gradients are being accumulated: they are not in a checkpoint.
    """

    def __init__(self) -> None:
        self._validated = False

    def validated(self) -> None:
        self._validated = True

    def batch_done(self) -> None:
        self._validated = False

    def reached(self, trainer: L.Trainer, batch_idx: int) -> bool:
        return batch_idx > 0 and not self._validated and batch_idx % trainer.accumulate_grad_batches == 0


def epoch_is_cut(trainer: L.Trainer) -> bool:
    """Whether the current epoch has batches left: at its end, that max_steps, max_time or a callback has ended it."""
    batches = trainer.num_training_batches
    return math.isfinite(batches) and 0 < trainer.fit_loop.epoch_loop.batch_progress.current.completed < batches


def as_mid_epoch(checkpoint: dict[str, Any]) -> None:
    """Takes back that the epoch is over, in a checkpoint made at the end of one that was cut.

    Lightning counts it like a whole one, and a run resumed from there would go on in the midst of the next. Other
    checkpoints are left as they are.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts["processed"] = counts["completed"] = min(counts["completed"], counts["started"] - 1)


def as_between_batches(checkpoint: dict[str, Any]) -> None:
    """Takes back that the next batch is ready (and perhaps the last), in a checkpoint made in ``on_train_batch_start``.

    So Lightning sees a run that stopped after a batch was done and logged. Other checkpoints are left as they are.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    if progress["total"]["ready"] == progress["total"]["started"] + 1:
        for counts in (progress["total"], progress["current"]):
            counts["ready"] -= 1
        progress["is_last_batch"] = False
