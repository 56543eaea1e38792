"""The pyramid said with operations that carry dynamic sizes and no device, for programs in files.

Exporters write down what they see. Adaptive pooling to a grid is seen by ONNX as windows of a fixed size, and whatever
is made "on the CPU" stays there. So the grids' means are products with matrices that are computed from the size of
the features, and the pyramid's share of the head's convolution is a product too (``pyramid.py``), with all
parameters rearranged once.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pspnet_lightning.models.fusion import LinearFusion
from pspnet_lightning.models.head import Portable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pspnet_lightning.models.pyramid import PyramidConvolution, PyramidHead


def portable(module: nn.Module) -> nn.Module:
    """``module`` with every part that offers it exchanged for its portable form, in place where it has parts."""
    if isinstance(module, Portable):
        return module.portable()
    for name, child in module.named_children():
        setattr(module, name, portable(child))
    return module


class PortablePyramid(nn.Module):
    """A ``PyramidConvolution`` in eval mode: ``context(x)`` (N, C, H, W) -> (N, O, H, W), sizes dynamic.

    A bfloat16 x meets the large convolution only; the grids' means are little work, and eight bits few for a mean.
    """

    def __init__(self, source: PyramidConvolution) -> None:
        super().__init__()
        pyramid = source.pyramid
        self.bins = pyramid.bins
        self.maximum = pyramid.pooling == "max"
        self.align_corners = source.align_corners
        self.branches = copy.deepcopy(pyramid.branches)
        self.fusion: Any = None if isinstance(source.fusion, LinearFusion) else copy.deepcopy(source.fusion)
        weight, bias = source.conv.weight.detach(), source.conv.bias
        kernels = [weight] if self.fusion is not None or not self.bins else [part.detach() for part in source.kernels()]
        outputs, inputs = kernels[0].shape[:2]
        self.features = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias is not None)
        self.features.weight = nn.Parameter(kernels[0].clone(memory_format=torch.contiguous_format))
        if bias is not None:
            self.features.bias = nn.Parameter(bias.detach().clone())
        for number, kernel in enumerate(kernels[1:]):
            # (O dy dx, c, 1, 1): what each grid value becomes through each of the nine taps.
            taps = kernel.permute(0, 2, 3, 1).reshape(9 * outputs, -1, 1, 1)
            self.register_buffer(f"taps_{number}", taps.clone(memory_format=torch.contiguous_format))
        for number, size in enumerate(self.bins):
            self.register_buffer(f"identity_{number}", torch.eye(size, device=weight.device)[None])
            self.register_buffer(f"cells_{number}", torch.arange(size, device=weight.device)[:, None])
        self.bn = copy.deepcopy(source.bn)

    def context(self, x: Tensor) -> Tensor:
        if self.fusion is not None:
            x = x.to(torch.float32)
            y = self.features(torch.cat([x, self.fusion(x, self._levels(x))], dim=1))
        else:
            y = self.features(x)
            if y.dtype == torch.bfloat16:
                x, y = x.to(torch.float32), y.to(torch.float32)
            if self.bins:
                y = y + self._shares(x)
        return F.relu(self.bn(y))

    def _levels(self, x: Tensor) -> list[Tensor]:
        cells = [self.get_buffer(f"cells_{number}") for number in range(len(self.bins))]
        return [branch(pool(x, each, maximum=self.maximum)) for branch, each in zip(self.branches, cells, strict=True)]

    def _shares(self, x: Tensor) -> Tensor:
        """The pyramid's share of the 3x3 convolution, (N, O, H, W)."""
        height, width = x.shape[-2:]
        rows, columns = [], []
        for number, level in enumerate(self._levels(x)):
            identity = self.get_buffer(f"identity_{number}")
            values = F.conv2d(level, self.get_buffer(f"taps_{number}"))
            values = values.unflatten(1, (-1, 3, 3)).permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)
            rows.append(taps_of(identity, height, self.align_corners))
            columns.append(values @ taps_of(identity, width, self.align_corners).T)
        return torch.cat(rows, dim=1) @ torch.cat(columns, dim=2)


class PortableHead(PortablePyramid):
    """A ``PyramidHead`` in eval mode: a backbone's maps to logits (N, K, H, W), sizes dynamic."""

    def __init__(self, head: PyramidHead) -> None:
        super().__init__(head)
        self.num_classes = head.num_classes
        self.classifier = copy.deepcopy(head.classifier)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.context(features[-1]))


def pool(x: Tensor, cells: Tensor, *, maximum: bool) -> Tensor:
    """Adaptive pooling of (N, C, H, W) to (N, C, b, b) by masks over the positions; ``cells`` is 0..b-1 as (b, 1).

    Cell i holds the positions from floor(i H / b) to below ceil((i + 1) H / b), as in ``F.adaptive_avg_pool2d``.
    """
    rows, columns = cells_of(cells, x[0, 0, :, 0]), cells_of(cells, x[0, 0, 0, :])
    if not maximum:
        return (rows / rows.sum(dim=1, keepdim=True)) @ x @ (columns / columns.sum(dim=1, keepdim=True)).T
    lowest = x.new_full((), float("-inf"))
    wide = torch.stack([torch.where(inside > 0, x, lowest).amax(dim=3) for inside in columns.unbind()], dim=3)
    return torch.stack([torch.where(inside[:, None] > 0, wide, lowest).amax(dim=2) for inside in rows.unbind()], dim=2)


def cells_of(cells: Tensor, line: Tensor) -> Tensor:
    """(b, L): one where a position of a line of L values belongs to a cell, zero elsewhere."""
    length = line.shape[0]
    # Counted by a sum, not by arange, which would write its device down.
    position = torch.ones_like(line, dtype=torch.float32).cumsum(dim=0) - 1
    size = cells.shape[0]
    first = torch.div(cells * length, size, rounding_mode="floor")
    end = torch.div((cells + 1) * length + (size - 1), size, rounding_mode="floor")
    return torch.ones_like(line) * ((position >= first) & (position < end))


def taps_of(identity: Tensor, length: int, align_corners: bool) -> Tensor:
    """``pyramid.tap_matrix`` from the identity (1, b, b): (length, 3 b)."""
    up = F.interpolate(identity, length, mode="linear", align_corners=align_corners)[0].T
    return torch.cat([F.pad(up, (0, 0, 1, 0))[:-1], up, F.pad(up, (0, 0, 0, 1))[1:]], dim=1)
