"""What a criterion is: the one page to read before writing a loss of your own.

Shapes: logits (N, K, H, W) float; target (N, H, W) int64, classes 0..K-1 or the ignored value. An own criterion's
``__init__`` may name ``ignore_index`` and ``num_classes``, which are then the data set's.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pspnet_lightning.models.upsampling import LowLogits
from pspnet_lightning.training.losses.ranks import ALONE, Ranks

# By name, each of any shape: what the batches' parts add up, as the total and the weight of a mean.
Sums = dict[str, Tensor]


class Criterion(Protocol):
    """The least: an ``nn.Module`` whose call is a scalar, differentiable in the logits.

    It is treated as a mean over the valid pixels. Under ``loss.reduction=global`` the ranks' values are averaged by
    their numbers of valid pixels, which is one process with the whole batch if the criterion is such a mean, and close
    to it otherwise; ``val/loss`` likewise averages the images. Where no pixel is valid it is not called and counts 0.
    """

    def __call__(self, logits: Tensor, target: Tensor, /) -> Tensor: ...


@runtime_checkable
class SumsOverPixels(Protocol):
    """More: a function of sums over pixels, which is exact however the pixels lie in ranks and validation batches.

    ``criterion(logits, target) == criterion.value(criterion.sums(logits, target))``.
    """

    def sums(self, logits: Tensor | LowLogits, target: Tensor, ranks: Ranks = ALONE) -> Sums:
        """This process's part: tensors with names and shapes that K alone determines, 0 where no pixel is valid.

        ``ranks`` serves a loss in which a pixel's share depends on all others (OHEM, Lovasz). ``LowLogits`` are
        up-sampled by ``full()`` or, in less memory, by ``models.upsampling.sum_over_pixels``.
        """
        ...

    def value(self, sums: Sums) -> Tensor:
        """The loss, a scalar, of parts that have been added up; 0 of sums that are 0."""
        ...


class LossOfSums(nn.Module):
    """The criteria of this package: ``sums`` and ``value`` make the call."""

    def __init__(self, ignore_index: int) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor | LowLogits, target: Tensor) -> Tensor:
        return self.value(self.sums(logits, target))

    def sums(self, logits: Tensor | LowLogits, target: Tensor, ranks: Ranks = ALONE) -> Sums:
        raise NotImplementedError

    def value(self, sums: Sums) -> Tensor:
        raise NotImplementedError


class _MeanOverPixels:
    """A criterion that can only be called, with ``sums`` as its protocol says."""

    def __init__(self, criterion: Criterion, ignore_index: int) -> None:
        self.criterion, self.ignore_index = criterion, ignore_index

    def sums(self, logits: Tensor | LowLogits, target: Tensor, ranks: Ranks = ALONE) -> Sums:
        logits = logits.full() if isinstance(logits, LowLogits) else logits
        valid = (target != self.ignore_index).sum()
        # Without a valid pixel most means are not a number; all ranks need a gradient all the same.
        loss = self.criterion(logits, target) if valid else logits.sum() * 0
        if not isinstance(loss, Tensor) or loss.ndim:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"{type(self.criterion).__name__} must answer a scalar tensor, it answered {shape}")
        # One precision on all ranks, in which pixels can be counted.
        wide = torch.promote_types(logits.dtype, torch.float32)
        return {"loss": loss.to(wide) * valid, "weight": valid.to(wide)}

    def value(self, sums: Sums) -> Tensor:
        return sums["loss"] / sums["weight"].clamp_min(1)


def as_sums(criterion: Criterion, ignore_index: int) -> SumsOverPixels:
    """The criterion itself if it can, or a view of it as a mean over the valid pixels."""
    return criterion if isinstance(criterion, SumsOverPixels) else _MeanOverPixels(criterion, ignore_index)
