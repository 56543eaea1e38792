"""A fusion of one's own: at every pixel the largest answer of any scale. model=own_fusion"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MaxFusion(nn.Module):
    """Answers one map of ``channels`` for the pooled levels: pspnet_lightning/models/fusion.py."""

    def __init__(self, level_channels: int, align_corners: bool) -> None:
        super().__init__()
        self.channels = level_channels
        self.align_corners = align_corners

    def forward(self, x: Tensor, levels: Sequence[Tensor]) -> Tensor:
        options = {"size": x.shape[-2:], "mode": "bilinear", "align_corners": self.align_corners}
        return torch.stack([F.interpolate(level, **options) for level in levels]).amax(dim=0)
