"""Soft Dice (Milletari et al., V-Net, 3DV 2016)."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor

from pspnet_lightning.training.losses.overlap import Overlap, ratio


class Dice(Overlap):
    """``1 - (2 sum p g + smooth) / (sum p + sum g + smooth)`` of each class, p softmax probabilities, g the truth.

    ``squared``: p^2 in place of p in the denominator, as in V-Net's own. ``classes``, ``smooth``: see ``Overlap``.
    """

    def __init__(
        self,
        *,
        smooth: Annotated[float, Ge(0)] = 1.0,
        squared: bool = False,
        classes: Literal["present", "all"] = "present",
        ignore_index: int = 255,
    ) -> None:
        super().__init__(smooth=smooth, classes=classes, ignore_index=ignore_index)
        self.squared = squared

    def index(self, both: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        return ratio(2 * both + self.smooth, predicted + true + self.smooth)
