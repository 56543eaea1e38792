"""Cross-entropy, the paper's loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge, Interval
from torch import Tensor

from pspnet_lightning.training.losses.pixel_mean import PixelMean


class CrossEntropy(PixelMean):
    """Mean cross-entropy over the valid pixels, weighted by class if ``class_weights`` are given, as torch defines it.

    ``label_smoothing`` in [0, 1). Where no pixel is valid the loss is 0 with zero gradients (torch: not a number), so
    that a crop of nothing but padding does not end a run.

    Raises ValueError for smoothing outside its range, and as ``PixelMean`` does.
    """

    def __init__(
        self,
        *,
        ignore_index: int = 255,
        class_weights: Sequence[Annotated[float, Ge(0)]] | None = None,
        label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__(ignore_index=ignore_index, class_weights=class_weights)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} must lie in [0, 1)")
        self.label_smoothing = label_smoothing

    def pixel_sum(self, logits: Tensor, target: Tensor, *maps: Tensor) -> Tensor:
        return self._cross_entropy(logits, target, "sum")

    def _cross_entropy(self, logits: Tensor, target: Tensor, reduction: str) -> Tensor:
        return F.cross_entropy(
            logits,
            target,
            weight=self.weights_like(logits),
            ignore_index=self.ignore_index,
            reduction=reduction,
            label_smoothing=self.label_smoothing,
        )
