"""An exponential moving average of the weights, validated and kept in their place."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Interval
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ExponentialMovingAverage(WeightAveraging):
    """``average += (1 - decay) * (weights - average)`` after optimiser steps, BatchNorm's statistics too.

    The average is what is validated and what checkpoints hold as the network; the weights that go on being trained lie
    beside it, so that a resumed run continues exactly. Lightning's own callback computes ``decay * average +
    (1 - decay) * weights``, which rounds what never changes a little further from it at every step: the normalisation's
    mean and deviation, which are in no checkpoint. ``device="cpu"`` saves the accelerator's memory.

    Up to and with the step ``first_step``, counted from 0, the average is the weights themselves, so that a validation
    before it sees the network in training and not the one that training began with.

    Raises ValueError for a decay outside 0..1, ``every_n_steps`` below 1 and ``first_step`` below 0.
    """

    def __init__(
        self,
        decay: Annotated[float, Interval(ge=0, le=1)] = 0.999,
        *,
        every_n_steps: Annotated[int, Ge(1)] = 1,
        first_step: Annotated[int, Ge(0)] = 0,
        device: str | None = None,
    ) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"callbacks.ema.decay={decay} must lie in 0..1")
        if every_n_steps < 1:
            raise ValueError(f"callbacks.ema.every_n_steps={every_n_steps} must be at least 1")
        if first_step < 0:
            raise ValueError(f"callbacks.ema.first_step={first_step} must be at least 0")
        super().__init__(
            device=None if device is None else torch.device(device), multi_avg_fn=get_ema_multi_avg_fn(decay)
        )
        self.every_n_steps = every_n_steps
        self.first_step = first_step

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if step_idx is None:
            return False
        if step_idx <= self.first_step:
            assert self._average_model is not None
            self._average_model.n_averaged.zero_()  # AveragedModel copies what it is given first
            return True
        return step_idx % self.every_n_steps == 0
