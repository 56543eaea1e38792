"""Means over the valid pixels, weighted by class: what cross-entropy and its relatives are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from pspnet_lightning.models.upsampling import LowLogits, sum_over_pixels
from pspnet_lightning.training.losses.criterion import LossOfSums, Sums
from pspnet_lightning.training.losses.ranks import ALONE, Ranks


class PixelMean(LossOfSums):
    """``sum w(y) l / sum w(y)`` over the valid pixels, of a subclass's ``pixel_sum``; 0 where none is valid.

    Probabilities are computed in float32, under autocast too, and ``LowLogits`` part by part. Raises ValueError for
    weights that are negative or all zero, and in a call for another number of them than there are classes.
    """

    class_weights: Tensor | None

    def __init__(
        self, *, ignore_index: int = 255, class_weights: Sequence[Annotated[float, Ge(0)]] | None = None
    ) -> None:
        super().__init__(ignore_index)
        if class_weights is not None and (min(class_weights) < 0 or max(class_weights) <= 0):
            raise ValueError(f"class_weights={list(class_weights)} must not be negative, nor all 0")
        # Not in the state dict: it belongs to the training set, not to the network.
        weights = None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def pixel_sum(self, logits: Tensor, target: Tensor, *maps: Tensor) -> Tensor:
        """The pixels' losses, weighted by class, added up: logits (B, K, ...), target (B, ...)."""
        raise NotImplementedError

    def sums(self, logits: Tensor | LowLogits, target: Tensor, ranks: Ranks = ALONE) -> Sums:
        return self._sums(logits, target)

    def _sums(self, logits: Tensor | LowLogits, target: Tensor, *maps: Tensor) -> Sums:
        """``maps`` (N, H, W) are further weights of the pixels, handed on to ``pixel_sum``."""
        classes = (logits.values if isinstance(logits, LowLogits) else logits).shape[1]
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise ValueError(f"class_weights has {len(self.class_weights)} values for {classes} classes")
        total = sum_over_pixels(logits, self.pixel_sum, target, *maps)
        weights = self._class_weights_of(target, total.dtype)
        for each in maps:
            weights = weights * each
        return {"loss": total, "weight": weights.sum()}

    def value(self, sums: Sums) -> Tensor:
        return sums["loss"] / sums["weight"].clamp_min(torch.finfo(sums["weight"].dtype).tiny)

    def weights_like(self, logits: Tensor) -> Tensor | None:
        """The class weights in the logits' precision."""
        return None if self.class_weights is None else self.class_weights.to(logits.dtype)

    def _class_weights_of(self, target: Tensor, dtype: torch.dtype) -> Tensor:
        """The weight of each pixel's true class, 0 where ignored."""
        valid = target != self.ignore_index
        if self.class_weights is None:
            return valid.to(dtype)
        return self.class_weights.to(dtype)[target.where(valid, 0)] * valid
