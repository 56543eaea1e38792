"""A loss of one's own: cross-entropy with one more term of its Taylor series. loss=own_loss"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PolyLoss(nn.Module):
    """Poly-1 of Leng et al., "PolyLoss", ICLR 2022: mean over valid pixels of CE + epsilon (1 - p of the true class).

    Logits are (N, K, H, W), the target int64 (N, H, W).
    """

    def __init__(self, ignore_index: int, epsilon: float = 1.0) -> None:
        super().__init__()
        self.ignore_index, self.epsilon = ignore_index, epsilon

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        each = F.cross_entropy(logits.float(), target, ignore_index=self.ignore_index, reduction="none")
        valid = target != self.ignore_index
        return ((each + self.epsilon * (1 - torch.exp(-each))) * valid).sum() / valid.sum().clamp_min(1)
