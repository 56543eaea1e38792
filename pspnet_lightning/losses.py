"""Losses over label maps. The model knows none of them; each composes with the auxiliary head's weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pspnet_lightning.upsampling import LowLogits, sum_and_labels, sum_over_pixels


class SegmentationLoss(NamedTuple):
    """``total = main + aux_weight * aux``; ``aux`` is None without auxiliary logits."""

    total: Tensor
    main: Tensor
    aux: Tensor | None


def segmentation_loss(output: Any, target: Tensor, criterion: nn.Module, aux_weight: float) -> SegmentationLoss:
    """The loss of a network's ``(logits, aux_logits)``, each (N, K, H, W) or ``LowLogits``, aux_logits maybe None."""
    logits, aux_logits = output
    main = criterion(logits, target)
    if aux_logits is None:
        return SegmentationLoss(main, main, None)
    aux = criterion(aux_logits, target)
    return SegmentationLoss(main + aux_weight * aux, main, aux)


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
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
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

    def sum_and_weight(self, logits: Tensor | LowLogits, target: Tensor) -> tuple[Tensor, Tensor]:
        """Numerator and denominator of the mean, to be summed over processes before dividing."""
        if isinstance(logits, LowLogits):
            self._check(logits.values)
            total = sum_over_pixels(logits, target, self._sum)
        else:
            self._check(logits)
            total = self._sum(logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits, target)
        return total, self._pixel_weights(target, total.dtype).sum()

    def mean_and_labels(self, logits: LowLogits, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the label map int64 (N, H, W) from one pass over the up-sampled logits, without gradients."""
        self._check(logits.values)
        total, labels = sum_and_labels(logits, target, self._sum)
        return total / self._pixel_weights(target, total.dtype).sum().clamp_min(torch.finfo(total.dtype).tiny), labels

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

    A pixel is hard if its true class has a probability below ``threshold``; if fewer than ``min_kept`` are, the
    ``min_kept`` pixels of lowest probability count (mmseg's rule). The mean is over the pixels kept.

    Raises ValueError for a threshold outside 0..1 or ``min_kept`` below 1, and as ``CrossEntropy`` does.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.7,
        min_kept: int = 100_000,
        ignore_index: int = 255,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
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

    def sum_and_weight(self, logits: Tensor | LowLogits, target: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits.full() if isinstance(logits, LowLogits) else logits
        return super().sum_and_weight(logits, target.where(self._hard(logits, target), self.ignore_index))

    @torch.no_grad()
    def _hard(self, logits: Tensor, target: Tensor) -> Tensor:
        valid = target != self.ignore_index
        log_probabilities = F.log_softmax(logits.float(), dim=1)
        truth = log_probabilities.gather(1, target.where(valid, 0)[:, None])[:, 0].exp()
        kept = min(self.min_kept, int(valid.sum()))
        if kept == 0:
            return valid
        limit = truth[valid].kthvalue(kept).values.clamp_min(self.threshold)
        # Strictly below the threshold, but up to and including the min_kept-th hardest.
        below = truth < limit if float(limit) == self.threshold else truth <= limit
        return valid & below


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
