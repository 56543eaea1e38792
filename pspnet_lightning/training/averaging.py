"""An exponential moving average of the weights, validated and kept in their place."""

from __future__ import annotations

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ExponentialMovingAverage(WeightAveraging):
    """``average += (1 - decay) * (weights - average)`` after optimiser steps, BatchNorm's statistics too.

    The average is what is validated and what checkpoints hold as the network; the weights that go on being trained lie
    beside it, so that a resumed run continues exactly. Lightning's own callback computes ``decay * average +
    (1 - decay) * weights``, which rounds what never changes a little further from it at every step: the normalisation's
    mean and deviation, which are in no checkpoint. ``device="cpu"`` saves the accelerator's memory.

    Raises ValueError for a decay outside 0..1.
    """

    def __init__(
        self,
        decay: float = 0.999,
        *,
        every_n_steps: int = 1,
        first_step: int = 0,
        device: str | None = None,
    ) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"callbacks.ema.decay={decay} must lie in 0..1")
        if every_n_steps < 1:
            raise ValueError(f"callbacks.ema.every_n_steps={every_n_steps} must be at least 1")
        super().__init__(
            device=None if device is None else torch.device(device), multi_avg_fn=get_ema_multi_avg_fn(decay)
        )
        self.every_n_steps = every_n_steps
        self.first_step = first_step

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and step_idx >= self.first_step and step_idx % self.every_n_steps == 0
