"""Focal loss (Lin et al., Focal Loss for Dense Object Detection, ICCV 2017), for softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from pspnet_lightning.training.losses.pixel_mean import PixelMean


class Focal(PixelMean):
    """Mean of ``-w(y) (1 - p_y)^gamma log p_y`` over the valid pixels, divided by the sum of ``w(y)``.

    p_y is the softmax probability of a pixel's true class; ``gamma`` >= 0, 0 is cross-entropy; ``class_weights`` are
    the paper's alpha. Raises ValueError for a negative gamma, and as ``PixelMean`` does.
    """

    def __init__(
        self,
        *,
        gamma: Annotated[float, Ge(0)] = 2.0,
        ignore_index: int = 255,
        class_weights: Sequence[Annotated[float, Ge(0)]] | None = None,
    ) -> None:
        super().__init__(ignore_index=ignore_index, class_weights=class_weights)
        if not gamma >= 0:
            raise ValueError(f"gamma={gamma} must be at least 0")
        self.gamma = gamma

    def pixel_sum(self, logits: Tensor, target: Tensor, *maps: Tensor) -> Tensor:
        surprise = F.cross_entropy(logits, target, ignore_index=self.ignore_index, reduction="none")
        # 1 - p without cancellation. At 0 the power has no derivative below gamma 1: never quite 0.
        miss = (-torch.expm1(-surprise)).clamp_min(torch.finfo(surprise.dtype).tiny)
        losses = miss**self.gamma * surprise
        if self.class_weights is not None:
            losses = losses * self._class_weights_of(target, losses.dtype)
        return losses.sum()
