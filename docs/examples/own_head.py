"""A head of one's own: the last two maps added up, as FCN-16s has it. model=own_head"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class SkipHead(nn.Module):
    """Answers logits at the finer map's size: pspnet_lightning/models/head.py."""

    def __init__(self, channels: Sequence[int], num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.dropout = nn.Dropout2d(dropout)
        self.coarse = nn.Conv2d(channels[-1], num_classes, 1)
        self.fine = nn.Conv2d(channels[-2], num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        fine = self.fine(self.dropout(features[-2]))
        coarse = self.coarse(self.dropout(features[-1]))
        return fine + F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
