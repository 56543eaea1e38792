"""Lovasz-softmax (Berman et al., CVPR 2018): the Jaccard index's own convex surrogate."""

from __future__ import annotations

import torch
from torch import Tensor

from pspnet_lightning.models.upsampling import LowLogits, images_of, sum_over_pixels
from pspnet_lightning.training.losses.criterion import LossOfSums, Sums
from pspnet_lightning.training.losses.ohem import probabilities_of
from pspnet_lightning.training.losses.ranks import ALONE, Ranks


class LovaszSoftmax(LossOfSums):
    """The mean over the classes present of each one's Lovasz extension of the Jaccard loss; 0 where none is.

    Each class's errors ``|g - p|`` are sorted over the whole batch, under ``loss.reduction=global`` over that of all
    ranks, which then exchange one error a pixel and class present; or ``per_image``, whose mean over images needs no
    exchange. ``LowLogits`` are up-sampled in parts; kept at full size is one value a pixel and class present,
    (N, H, W, C), not one for every class.
    """

    def __init__(self, *, per_image: bool = False, ignore_index: int = 255) -> None:
        super().__init__(ignore_index)
        self.per_image = per_image

    def sums(self, logits: Tensor | LowLogits, target: Tensor, ranks: Ranks = ALONE) -> Sums:
        if not self.per_image:
            return self._sums(logits, target, ranks)
        images = [self._sums(each, target[i : i + 1], ALONE) for i, each in enumerate(images_of(logits))]
        return {name: torch.stack([each[name] for each in images]).sum() for name in images[0]}

    def value(self, sums: Sums) -> Tensor:
        return sums["loss"] / sums["batches"].clamp_min(torch.finfo(sums["batches"].dtype).tiny)

    def _sums(self, logits: Tensor | LowLogits, target: Tensor, ranks: Ranks) -> Sums:
        """A batch's loss and the number 1, or 0 and 0 if it has no valid pixel; this process's shares of both."""
        classes = (logits.values if isinstance(logits, LowLogits) else logits).shape[1]
        valid = target != self.ignore_index
        counts = ranks.count(torch.bincount(target[valid], minlength=classes))
        present = counts.nonzero().flatten()

        def pixel_sum(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
            here = present.view(-1, *[1] * (logits.ndim - 2))
            truth = (target[:, None] == here).to(logits.dtype)
            return ((truth - logits.softmax(dim=1)[:, present]).abs() * weights).sum()

        weights = _jaccard_weights(logits, target, valid, present, ranks)
        total = sum_over_pixels(logits, pixel_sum, target, weights)
        return {"loss": total, "batches": torch.full_like(total.detach(), min(1, len(present)) / ranks.size)}


@torch.no_grad()
def _jaccard_weights(
    logits: Tensor | LowLogits, target: Tensor, valid: Tensor, present: Tensor, ranks: Ranks
) -> Tensor:
    """The derivative of the mean over classes by each pixel's error of each class present: (N, H, W, C).

    It is constant between changes of the errors' order, so that the loss is the weighted sum of the errors.
    """
    weights = probabilities_of(logits, present.expand(*target.shape, -1))
    everywhere, _ = ranks.gather(target.flatten(), -1)
    for position, label in enumerate(present.tolist()):
        truth = (target == label).to(weights.dtype)
        # Errors are not negative: what is ignored comes last, and so changes no other pixel's weight.
        errors = (truth - weights[..., position]).abs().where(valid, -1)
        all_errors, own = ranks.gather(errors.flatten(), -1)
        derivative = torch.empty_like(all_errors)
        order = all_errors.argsort(descending=True)
        derivative[order] = _derivative(everywhere[order] == label, weights.dtype)
        weights[..., position] = derivative[own].view_as(errors) * valid / len(present)
    return weights


def _derivative(truth: Tensor, dtype: torch.dtype) -> Tensor:
    """By how much each pixel, counted as wrong after those before it, raises the Jaccard loss; truth (P,) bool.

    In closed form: the published code's differences of neighbouring losses cancel in float32.
    """
    found = truth.cumsum(0)
    intersection = (found[-1] - found).to(dtype)
    union = (found[-1] + (~truth).cumsum(0)).to(dtype)
    return torch.where(truth, 1 / union, intersection / (union * (union - 1)))
