"""Losses over label maps. The model knows none of them; each composes with the auxiliary head's weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from annotated_types import Ge, Interval
from torch import Tensor, nn

from pspnet_lightning.models.upsampling import LowLogits, sum_and_labels, sum_over_pixels

# How the losses of several processes are put together: see ``segmentation_loss``.
REDUCTIONS = ("global", "rank")


class SegmentationLoss(NamedTuple):
    """``total = main + aux_weight * aux``; ``aux`` is None without auxiliary logits."""

    total: Tensor
    main: Tensor
    aux: Tensor | None


def segmentation_loss(
    output: Any, target: Tensor, criterion: nn.Module, aux_weight: float, reduction: str = "global"
) -> SegmentationLoss:
    """The loss of a network's ``(logits, aux_logits)``, each (N, K, H, W) or ``LowLogits``, aux_logits maybe None.

    Over several processes whose gradients are averaged, as DistributedDataParallel does: ``reduction="global"`` is the
    mean over the valid pixels of all of them, so that the averaged gradients are those of one process with the
    whole batch, and the value is the same everywhere. ``"rank"`` is each process's own mean, as official semseg
    has it: a pixel then counts for more in a process with few valid ones.

    Raises ValueError where "global" is asked of a criterion without ``sum_and_weight``.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"loss.reduction={reduction!r} must be one of {', '.join(REDUCTIONS)}")
    logits, aux_logits = output
    together = reduction == "global" and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if together and not hasattr(criterion, "sum_and_weight"):
        raise ValueError(
            f"loss.reduction=global needs the method sum_and_weight(logits, target, together=...), which "
            f"{type(criterion).__name__} has not; take loss.reduction=rank"
        )
    maps = [logits] if aux_logits is None else [logits, aux_logits]
    if together:
        means = _global_means([criterion.sum_and_weight(each, target, together=True) for each in maps])  # type: ignore[operator]
    else:
        means = [criterion(each, target) for each in maps]
    if aux_logits is None:
        return SegmentationLoss(means[0], means[0], None)
    return SegmentationLoss(means[0] + aux_weight * means[1], means[0], means[1])


def _global_means(parts: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Means over all processes from each one's (sum, weight); the processes' gradients are to be averaged."""
    over_all = torch.stack([value.detach() for part in parts for value in part])
    dist.all_reduce(over_all)
    means = []
    for (total, _), (total_of_all, weight) in zip(parts, over_all.view(-1, 2), strict=True):
        weight = weight.clamp_min(torch.finfo(weight.dtype).tiny)
        own = total * dist.get_world_size() / weight
        # The value is the mean over all, the gradient this process's share of it.
        means.append(own + (total_of_all / weight - own).detach())
    return means


class CrossEntropy(nn.Module):
    """Mean cross-entropy over the valid pixels, weighted by class if ``class_weights`` are given, as torch defines it.

    ``loss(logits, target)``: logits (N, K, H, W), target int64 (N, H, W) in 0..K-1 or ``ignore_index``. The
    probabilities are computed in float32, under autocast too. ``LowLogits`` are up-sampled part by part, with the same
    result. Where no pixel is valid the loss is 0 with zero gradients (torch: not a number), so that a crop of nothing
    but padding does not end a run.

    Raises ValueError for weights that are negative or all zero, and for smoothing outside 0..1.
    """

    class_weights: Tensor | None
    # The loss is a sum over pixels, so that it may be taken in parts.
    takes_low_logits = True

    def __init__(
        self,
        *,
        ignore_index: int = 255,
        class_weights: Sequence[Annotated[float, Ge(0)]] | None = None,
        label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing} must lie in 0..1")
        if class_weights is not None and (min(class_weights) < 0 or max(class_weights) <= 0):
            raise ValueError(f"class_weights={list(class_weights)} must not be negative, nor all 0")
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        # Not in the state dict: it belongs to the training set, not to the network.
        weights = None if class_weights is None else torch.tensor(list(class_weights), dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor | LowLogits, target: Tensor) -> Tensor:
        total, weight = self.sum_and_weight(logits, target)
        return total / weight.clamp_min(torch.finfo(weight.dtype).tiny)

    def sum_and_weight(
        self, logits: Tensor | LowLogits, target: Tensor, *, together: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Numerator and denominator of the mean, to be summed over processes before dividing.

        ``together``: what this is a part of is the batch of all processes, which must all call it.
        """
        return self.sum_over_valid(logits, target)

    def sum_over_valid(self, logits: Tensor | LowLogits, target: Tensor) -> tuple[Tensor, Tensor]:
        """Numerator and denominator of the mean over every valid pixel: what a validation adds up."""
        if isinstance(logits, LowLogits):
            self._check(logits.values)
            total = sum_over_pixels(logits, target, self._sum)
        else:
            self._check(logits)
            total = self._sum(logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits, target)
        return total, self._pixel_weights(target, total.dtype).sum()

    def sums_and_labels(self, logits: LowLogits, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``sum_over_valid`` and the label map int64 (N, H, W) from one pass, without gradients."""
        self._check(logits.values)
        total, labels = sum_and_labels(logits, target, self._sum)
        return total, self._pixel_weights(target, total.dtype).sum(), labels

    def _sum(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            logits,
            target,
            weight=self._weights(logits),
            ignore_index=self.ignore_index,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )

    def _weights(self, logits: Tensor) -> Tensor | None:
        return None if self.class_weights is None else self.class_weights.to(logits.dtype)

    def _check(self, logits: Tensor) -> None:
        if self.class_weights is not None and len(self.class_weights) != logits.shape[1]:
            raise ValueError(f"class_weights has {len(self.class_weights)} values for {logits.shape[1]} classes")

    def _pixel_weights(self, target: Tensor, dtype: torch.dtype) -> Tensor:
        """The weight of each pixel's true class, 0 where ignored."""
        valid = target != self.ignore_index
        if self.class_weights is None:
            return valid.to(dtype)
        return self.class_weights.to(dtype)[target.where(valid, 0)] * valid


class OHEM(CrossEntropy):
    """Cross-entropy over the hard pixels of a batch: online hard example mining.

    Under ``loss.reduction=global`` the batch is that of all processes: the same pixels are kept as by one process with
    the whole batch. A validation counts every valid pixel.

    A pixel is hard if its true class has a probability below ``threshold``; if fewer than ``min_kept`` are, the
    ``min_kept`` pixels of lowest probability count (mmseg's rule). The mean is over the pixels kept.

    Raises ValueError for a threshold outside 0..1 or ``min_kept`` below 1, and as ``CrossEntropy`` does.
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

    # Which pixels are hard is known only once all are seen.
    takes_low_logits = False

    def sum_and_weight(
        self, logits: Tensor | LowLogits, target: Tensor, *, together: bool = False
    ) -> tuple[Tensor, Tensor]:
        logits = logits.full() if isinstance(logits, LowLogits) else logits
        hard = self._hard(logits, target, together)
        return self.sum_over_valid(logits, target.where(hard, self.ignore_index))

    @torch.no_grad()
    def _hard(self, logits: Tensor, target: Tensor, together: bool) -> Tensor:
        valid = target != self.ignore_index
        log_probabilities = F.log_softmax(logits.float(), dim=1)
        truth = log_probabilities.gather(1, target.where(valid, 0)[:, None])[:, 0].exp()
        below = valid & (truth < self.threshold)
        counts = torch.stack([valid.sum(), below.sum()])
        if together:
            dist.all_reduce(counts)
        kept = min(self.min_kept, int(counts[0]))
        if int(counts[1]) >= kept:
            return below
        # Too few below the threshold: up to and including the min_kept-th hardest.
        smallest = truth[valid]
        smallest = smallest.topk(min(kept, len(smallest)), largest=False).values
        if together:
            padded = F.pad(smallest, (0, kept - len(smallest)), value=torch.inf)
            parts = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
            dist.all_gather(parts, padded)
            smallest = torch.cat(parts)
        return valid & (truth <= smallest.kthvalue(kept).values)


_METHODS = ("balanced", "median_frequency", "enet")


def class_weights_from_counts(counts: np.ndarray, method: str) -> list[float]:
    """Class weights from the labelled pixels of each class, (K,), normalised to a mean of 1 over the classes present.

    "balanced": 1 / frequency. "median_frequency": median(frequency) / frequency (Eigen & Fergus 2015), with
    frequencies over the whole set. "enet": 1 / ln(1.02 + frequency) (Paszke et al. 2016). A class without a
    pixel has weight 0: it cannot occur in a target.
    """
    if method not in _METHODS:
        raise ValueError(f"class_weights={method!r} must be a list or one of {', '.join(_METHODS)}")
    counts = np.asarray(counts, np.float64)
    if counts.sum() <= 0:
        raise ValueError("class_weights: the training set has no labelled pixel to count")
    frequency = counts / counts.sum()
    present = counts > 0
    weights = np.zeros_like(frequency)
    if method == "balanced":
        weights[present] = 1 / frequency[present]
    elif method == "median_frequency":
        weights[present] = np.median(frequency[present]) / frequency[present]
    else:
        weights[present] = 1 / np.log(1.02 + frequency[present])
    return (weights / weights[present].mean()).tolist()
