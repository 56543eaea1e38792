"""Online hard example mining (Shrivastava et al., CVPR 2016), over pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from pspnet_lightning.models.upsampling import LowLogits, parts
from pspnet_lightning.training.losses.criterion import Sums
from pspnet_lightning.training.losses.cross_entropy import CrossEntropy
from pspnet_lightning.training.losses.ranks import ALONE, Ranks


class OHEM(CrossEntropy):
    """Cross-entropy over the hard pixels of a batch; in eval mode, as in a validation, over every valid pixel.

    A pixel is hard if its true class has a probability below ``threshold``; if fewer than ``min_kept`` are, the
    ``min_kept`` pixels of lowest probability count (mmseg's rule). The mean is over the pixels kept. Under
    ``loss.reduction=global`` the batch is that of all processes: the same pixels are kept as by one process with the
    whole batch.

    Raises ValueError for a threshold outside (0, 1] or ``min_kept`` below 1, and as ``CrossEntropy`` does.
    """

    def __init__(
        self,
        *,
        threshold: Annotated[float, Interval(gt=0, le=1)] = 0.7,
        min_kept: Annotated[int, Ge(1)] = 100_000,
        ignore_index: int = 255,
        class_weights: Sequence[Annotated[float, Ge(0)]] | None = None,
        label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__(ignore_index=ignore_index, class_weights=class_weights, label_smoothing=label_smoothing)
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold={threshold} must be a probability above 0")
        if min_kept < 1:
            raise ValueError(f"min_kept={min_kept} must be at least 1")
        self.threshold = threshold
        self.min_kept = min_kept

    def sums(self, logits: Tensor | LowLogits, target: Tensor, ranks: Ranks = ALONE) -> Sums:
        if self.training:
            target = target.where(self._hard(logits, target, ranks), self.ignore_index)
        return self._sums(logits, target)

    @torch.no_grad()
    def _hard(self, logits: Tensor | LowLogits, target: Tensor, ranks: Ranks) -> Tensor:
        valid = target != self.ignore_index
        truth = probabilities_of(logits, target.where(valid, 0)[..., None])[..., 0]
        below = valid & (truth < self.threshold)
        valid_count, below_count = ranks.count(torch.stack([valid.sum(), below.sum()])).tolist()
        kept = min(self.min_kept, valid_count)
        if below_count >= kept:
            return below
        # Too few below the threshold: up to and including the min_kept-th hardest.
        smallest = truth[valid]
        smallest = smallest.topk(min(kept, len(smallest)), largest=False).values
        everywhere, _ = ranks.gather(smallest, torch.inf)
        return valid & (truth <= everywhere.kthvalue(kept).values)


@torch.no_grad()
def probabilities_of(logits: Tensor | LowLogits, classes: Tensor) -> Tensor:
    """Softmax probabilities (N, H, W, C) of the classes (N, H, W, C) int64, up-sampled in parts; float32 or wider."""
    found = None
    for images, rows, part in parts(logits, softmax=True):
        wanted = classes[images, rows].expand(*part.shape[:3], -1)
        probabilities = part.softmax(dim=-1).gather(-1, wanted)
        if found is None:
            found = probabilities.new_empty(*classes.shape[:3], classes.shape[-1])
        found[images, rows] = probabilities
    assert found is not None
    return found
