"""Losses that compare each class's region with its truth: what Dice and Tversky share."""

from __future__ import annotations

import torch
from torch import Tensor

from pspnet_lightning.models.upsampling import LowLogits, sum_over_pixels
from pspnet_lightning.training.losses.criterion import LossOfSums, Sums
from pspnet_lightning.training.losses.ranks import ALONE, Ranks

CLASSES = ("present", "all")


class Overlap(LossOfSums):
    """``1 -`` a subclass's ``index`` of each class, averaged over classes; 0 where no pixel is valid.

    The sums of a class run over all valid pixels of the batch, not image by image. ``classes``: "present" are those
    with a true pixel in the batch; "all" counts absent ones too, whose loss is what is falsely predicted. ``smooth``,
    in pixels >= 0, is added to numerator and denominator; with 0 an absent class has no gradient.

    ``LowLogits`` are up-sampled part by part, once for the sums and once for the gradient, in float32 under autocast
    too. Raises ValueError for arguments outside these.
    """

    def __init__(self, *, smooth: float, classes: str, ignore_index: int) -> None:
        super().__init__(ignore_index)
        if not smooth >= 0:
            raise ValueError(f"smooth={smooth} must be at least 0 pixels")
        if classes not in CLASSES:
            raise ValueError(f"classes={classes!r} must be one of {', '.join(CLASSES)}")
        self.smooth = smooth
        self.classes = classes
        self.squared = False

    def index(self, both: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        """Each class's overlap (K,), 1 if perfect, of its sums (K,)."""
        raise NotImplementedError

    def sums(self, logits: Tensor | LowLogits, target: Tensor, ranks: Ranks = ALONE) -> Sums:
        both, predicted, true = sum_over_pixels(logits, self._pixel_sums, target).chunk(3)
        return {"both": both, "predicted": predicted, "true": true}

    def _pixel_sums(self, logits: Tensor, target: Tensor) -> Tensor:
        """(3K,): probability on the true class, on each class, and pixels of each class."""
        probabilities = logits.softmax(dim=1)
        classes = torch.arange(logits.shape[1], device=logits.device).view(-1, *[1] * (logits.ndim - 2))
        truth = target[:, None] == classes
        valid = (target != self.ignore_index)[:, None]
        pixels = [0, *range(2, logits.ndim)]
        return torch.cat(
            [
                (probabilities * truth).sum(pixels),
                ((probabilities.square() if self.squared else probabilities) * valid).sum(pixels),
                truth.sum(pixels).to(logits.dtype),
            ]
        )

    def value(self, sums: Sums) -> Tensor:
        true = sums["true"]
        losses = 1 - self.index(sums["both"], sums["predicted"], true)
        counted = true > 0 if self.classes == "present" else (true.sum() > 0).expand_as(true)
        return (losses * counted).sum() / counted.sum().clamp_min(1)


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """0 where both are 0."""
    return numerator / denominator.clamp_min(torch.finfo(denominator.dtype).tiny)
