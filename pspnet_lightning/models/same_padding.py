"""Layers of timm's networks that came from TensorFlow, with its padding."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _same(x: Tensor, kernel: Any, stride: Any, dilation: Any = (1, 1), value: float = 0.0) -> Tensor:
    """TensorFlow's padding, by arithmetic that exporters can write down for any size."""
    sides: list[Any] = []
    for axis in (1, 0):
        reach = (kernel[axis] - 1) * dilation[axis]
        total: Any = reach - (x.shape[2 + axis] - 1) % stride[axis]
        if reach < stride[axis] - 1:
            total = torch.sym_max(total, 0)
        sides += [total // 2, total - total // 2]
    return F.pad(x, sides, value=value)


class SameConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        x = _same(x, self.kernel_size, self.stride, self.dilation)
        # Its own padding is 0. By the method that `models.fast` computes otherwise.
        return self._conv_forward(x, self.weight, self.bias)


class SameAverage(nn.AvgPool2d):
    def forward(self, x: Tensor) -> Tensor:
        x = _same(x, self.kernel_size, self.stride)
        return F.avg_pool2d(x, self.kernel_size, self.stride, 0, self.ceil_mode, self.count_include_pad)


class SameMax(nn.MaxPool2d):
    def forward(self, x: Tensor) -> Tensor:
        x = _same(x, self.kernel_size, self.stride, self.dilation, -torch.inf)
        return F.max_pool2d(x, self.kernel_size, self.stride, 0, self.dilation, self.ceil_mode)


# timm's modules that ask math.ceil for the padding, which exporters cannot write down.
SAME: dict[str, type[nn.Module]] = {
    "Conv2dSame": SameConv,
    "AvgPool2dSame": SameAverage,
    "MaxPool2dSame": SameMax,
}
