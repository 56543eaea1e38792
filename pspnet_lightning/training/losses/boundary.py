"""Cross-entropy in which pixels near a boundary between classes count for more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from pspnet_lightning.models.upsampling import LowLogits
from pspnet_lightning.training.losses.criterion import Sums
from pspnet_lightning.training.losses.cross_entropy import CrossEntropy
from pspnet_lightning.training.losses.ranks import ALONE, Ranks


class BoundaryCrossEntropy(CrossEntropy):
    """Cross-entropy, a pixel within ``width`` of another class weighing ``boundary_weight``, every other one 1.

    Within: the square of 2 width + 1 pixels around it holds a pixel of another class; ignored ones are of none. The
    idea is U-Net's weight map (Ronneberger et al. 2015, equation 2), with a step in place of its Gaussian so that it is
    computed where the labels are, on any device.

    Raises ValueError for a width below 1 or a weight that is not above 0, and as ``CrossEntropy`` does.
    """

    def __init__(
        self,
        *,
        width: Annotated[int, Ge(1)] = 3,
        boundary_weight: Annotated[float, Gt(0)] = 5.0,
        ignore_index: int = 255,
        class_weights: Sequence[Annotated[float, Ge(0)]] | None = None,
        label_smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
    ) -> None:
        super().__init__(ignore_index=ignore_index, class_weights=class_weights, label_smoothing=label_smoothing)
        if width < 1:
            raise ValueError(f"width={width} must be at least 1 pixel")
        if not boundary_weight > 0:
            raise ValueError(f"boundary_weight={boundary_weight} must be above 0")
        self.width = width
        self.boundary_weight = boundary_weight

    def sums(self, logits: Tensor | LowLogits, target: Tensor, ranks: Ranks = ALONE) -> Sums:
        values = logits.values if isinstance(logits, LowLogits) else logits
        dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
        near = self.near_boundary(target)
        return self._sums(logits, target, near.to(dtype) * (self.boundary_weight - 1) + 1)

    def pixel_sum(self, logits: Tensor, target: Tensor, *maps: Tensor) -> Tensor:
        return (self._cross_entropy(logits, target, "none") * maps[0]).sum()

    def near_boundary(self, target: Tensor) -> Tensor:
        """Which pixels (N, H, W) lie within ``width`` of another class; bool."""
        ignored = target == self.ignore_index
        labels = target.float()
        largest = self._largest_around(labels.masked_fill(ignored, -torch.inf))
        smallest = -self._largest_around((-labels).masked_fill(ignored, -torch.inf))
        return ~ignored & (largest != smallest)

    def _largest_around(self, values: Tensor) -> Tensor:
        side, width = 2 * self.width + 1, self.width
        # Along one side after the other: 2 side instead of side^2 values a pixel.
        across = F.max_pool2d(values[:, None], (1, side), stride=1, padding=(0, width))
        return F.max_pool2d(across, (side, 1), stride=1, padding=(width, 0))[:, 0]
