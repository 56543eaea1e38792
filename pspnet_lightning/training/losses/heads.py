"""The loss of both heads, put together over the ranks."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from pspnet_lightning.training.losses.criterion import Criterion, as_sums
from pspnet_lightning.training.losses.ranks import ALONE, Ranks

# How the losses of several processes are put together: see ``segmentation_loss``.
REDUCTIONS = ("global", "rank")


class SegmentationLoss(NamedTuple):
    """``total = main + aux_weight * aux``; ``aux`` is None without auxiliary logits."""

    total: Tensor
    main: Tensor
    aux: Tensor | None


def segmentation_loss(
    output: Any,
    target: Tensor,
    criterion: Criterion,
    aux_weight: float,
    reduction: str = "global",
    *,
    ignore_index: int = 255,
) -> SegmentationLoss:
    """The loss of a network's ``(logits, aux_logits)``, each (N, K, H, W) or ``LowLogits``, aux_logits maybe None.

    Over several processes whose gradients are averaged, as DistributedDataParallel does: ``reduction="global"`` is the
    loss of all their batches as one, so that the averaged gradients are those of one process with the whole batch, and
    the value is the same everywhere; what that means for a criterion that can only be called says ``Criterion``.
    ``"rank"`` is each process's own loss, as official semseg has it: a pixel then counts for more in a process with
    few valid ones. ``ignore_index`` serves such a criterion.

    Raises ValueError for another reduction.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"loss.reduction={reduction!r} must be one of {', '.join(REDUCTIONS)}")
    maps = [logits for logits in output if logits is not None]
    ranks = Ranks.here() if reduction == "global" else ALONE
    summed = as_sums(criterion, ignore_index)
    losses = [summed.value(sums) for sums in ranks.total([summed.sums(logits, target, ranks) for logits in maps])]
    if len(losses) == 1:
        return SegmentationLoss(losses[0], losses[0], None)
    return SegmentationLoss(losses[0] + aux_weight * losses[1], losses[0], losses[1])
