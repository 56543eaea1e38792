"""Tversky loss (Salehi et al., MLMI 2017)."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor

from pspnet_lightning.training.losses.overlap import Overlap, ratio


class Tversky(Overlap):
    """``1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth)`` of each class, counted in softmax probabilities.

    ``alpha`` is the price of a false positive, ``beta`` of a false negative, both >= 0 and not both 0: 0.5 and 0.5 is
    Dice, 1 and 1 Jaccard. ``classes``, ``smooth``: see ``Overlap``. Raises ValueError for arguments outside these.
    """

    def __init__(
        self,
        *,
        alpha: Annotated[float, Ge(0)] = 0.3,
        beta: Annotated[float, Ge(0)] = 0.7,
        smooth: Annotated[float, Ge(0)] = 1.0,
        classes: Literal["present", "all"] = "present",
        ignore_index: int = 255,
    ) -> None:
        super().__init__(smooth=smooth, classes=classes, ignore_index=ignore_index)
        for name, price in (("alpha", alpha), ("beta", beta)):
            if not price >= 0:
                raise ValueError(f"{name}={price} must be at least 0")
        if alpha + beta == 0:
            raise ValueError("alpha=0 and beta=0: one of them must be above 0, or nothing is an error")
        self.alpha, self.beta = alpha, beta

    def index(self, both: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        errors = self.alpha * (predicted - both) + self.beta * (true - both)
        return ratio(both + self.smooth, both + errors + self.smooth)
