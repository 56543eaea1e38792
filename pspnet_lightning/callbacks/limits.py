"""The limits by which a user ends a run before its last epoch."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import Timer


def limit_reached(trainer: L.Trainer) -> str | None:
    """Which of ``trainer.max_steps`` and ``trainer.max_time`` has ended the training; None if neither."""
    if trainer.max_steps is not None and 0 < trainer.max_steps <= trainer.global_step:
        return f"trainer.max_steps={trainer.max_steps}"
    for callback in vars(trainer)["callbacks"]:
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None and left <= 0:
            return "trainer.max_time"
    return None
