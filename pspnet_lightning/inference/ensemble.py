"""Several networks as one: the mean of their probabilities (Lakshminarayanan et al., NeurIPS 2017)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pspnet_lightning.models.upsampling import LowLogits, parts


class Ensemble(nn.Module):
    """Answers the logarithm of the mean of the members' probabilities, (N, K, H, W): softmax gives that mean back.

    So it is a network like any other: sliding windows, scales, streamed images and the loss need nothing more. One
    member's full-size answer is held at a time. ``temperatures`` divide each member's logits before its softmax.
    """

    def __init__(self, members: Sequence[nn.Module], temperatures: Sequence[float] = ()) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.temperatures = tuple(temperatures) or (1.0,) * len(members)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised images (N, C, H, W) -> logits (N, K, H, W), float32."""
        total: Tensor | None = None
        for member, temperature in zip(self.members, self.temperatures, strict=True):
            answer = _answer(member, image)
            values = answer.values if isinstance(answer, LowLogits) else answer
            if total is None:
                size = answer.size if isinstance(answer, LowLogits) else tuple(answer.shape[2:])
                total = torch.zeros(len(values), *size, values.shape[1], device=values.device)
            for images, rows, part in parts(answer):
                total[images, rows] += part.div(temperature).softmax(dim=-1)
        assert total is not None
        # What no member thinks possible stays finite.
        mean = total.div_(len(self.members)).clamp_(min=torch.finfo(total.dtype).tiny)
        return mean.log_().permute(0, 3, 1, 2)


def _answer(network: nn.Module, image: Tensor) -> Tensor | LowLogits:
    """The answer in eval mode, small where the network can."""
    low = "upsample" in inspect.signature(network.forward).parameters
    found: Tensor | LowLogits = network(image, upsample=False) if low else network(image)
    return found
