"""How the scales of the pyramid come together: from the pooled levels to one map beside the backbone's own features.

A fusion is an ``nn.Module``: ``fusion(x, levels)`` takes features x (N, C, h, w) and levels (N, R, b, b), one a bin,
and answers the context (N, ``channels``, h, w). Where it offers ``kernels``, it only up-samples and adds, and the
head's convolution is computed exactly without building that (``pyramid.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@runtime_checkable
class Fusion(Protocol):
    """Made as ``fusion(in_channels=C, level_channels=R, levels=k, align_corners=...)``, as far as it names these."""

    @property
    def channels(self) -> int: ...

    def __call__(self, x: Tensor, levels: Sequence[Tensor]) -> Tensor: ...


@runtime_checkable
class LinearFusion(Protocol):
    """A fusion that only up-samples and adds: what part of the 3x3 kernel each level meets."""

    def kernels(self, weight: Tensor, in_channels: int, levels: int) -> Sequence[Tensor]:
        """Of the kernel (O, C + channels, 3, 3) of x and the context: that of x, (O, C, 3, 3), and each level's."""
        ...


@runtime_checkable
class SeparableFusion(Protocol):
    """A fusion that is a sum over the levels once x is given."""

    def parts(self, x: Tensor, levels: Sequence[Tensor]) -> Sequence[Tensor]:
        """Maps (N, channels, h, w), one a level and linear in it, that add up to the context."""
        ...


class Concat(nn.Module):
    """The levels side by side: Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017."""

    def __init__(self, level_channels: int, levels: int, align_corners: bool) -> None:
        super().__init__()
        self.channels = level_channels * levels
        self.align_corners = align_corners

    def forward(self, x: Tensor, levels: Sequence[Tensor]) -> Tensor:
        return torch.cat(up_sampled(x, levels, self.align_corners), dim=1)

    def kernels(self, weight: Tensor, in_channels: int, levels: int) -> Sequence[Tensor]:
        # Split, not sliced: the gradient is put together in one pass.
        return weight.split([in_channels, *[self.channels // levels] * levels], dim=1)


class Sum(nn.Module):
    """The levels added up: Zhao et al., "ICNet for Real-Time Semantic Segmentation", ECCV 2018, its pooling module."""

    def __init__(self, level_channels: int, align_corners: bool) -> None:
        super().__init__()
        self.channels = level_channels
        self.align_corners = align_corners

    def forward(self, x: Tensor, levels: Sequence[Tensor]) -> Tensor:
        return torch.stack(up_sampled(x, levels, self.align_corners)).sum(dim=0)

    def kernels(self, weight: Tensor, in_channels: int, levels: int) -> Sequence[Tensor]:
        own, shared = weight.split([in_channels, self.channels], dim=1)
        return own, *[shared] * levels


class Gate(nn.Module):
    """A weight for each level and pixel, from the features there, softmax over the levels.

    Chen et al., "Attention to Scale: Scale-Aware Semantic Image Segmentation", CVPR 2016, on pooled levels.
    """

    def __init__(self, in_channels: int, level_channels: int, levels: int, align_corners: bool) -> None:
        super().__init__()
        self.channels = level_channels
        self.align_corners = align_corners
        self.weights = nn.Conv2d(in_channels, levels, 1)

    def forward(self, x: Tensor, levels: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(self.parts(x, levels))).sum(dim=0)

    def parts(self, x: Tensor, levels: Sequence[Tensor]) -> Sequence[Tensor]:
        gates = self.weights(x).softmax(dim=1).split(1, dim=1)
        maps = up_sampled(x, levels, self.align_corners)
        return [gate * level for gate, level in zip(gates, maps, strict=True)]


class Attention(nn.Module):
    """Every pixel asks all cells of all levels: scaled dot products of 1x1 convolutions, softmax over the cells.

    Zhu et al., "Asymmetric Non-local Neural Networks for Semantic Segmentation", ICCV 2019: keys and values from a
    pyramid. The cells are few (50 for bins 1, 2, 3, 6), so that the attention map is (N, h w, 50).
    """

    def __init__(self, in_channels: int, level_channels: int) -> None:
        super().__init__()
        self.channels = level_channels
        self.query = nn.Conv2d(in_channels, level_channels, 1)
        self.key = nn.Linear(level_channels, level_channels)
        self.value = nn.Linear(level_channels, level_channels)

    def forward(self, x: Tensor, levels: Sequence[Tensor]) -> Tensor:
        cells = torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)  # (N, sum b^2, R)
        query = self.query(x)
        scores = query.flatten(2).transpose(1, 2) @ self.key(cells).transpose(1, 2) * self.channels**-0.5
        context = scores.softmax(dim=2) @ self.value(cells)
        return context.transpose(1, 2).reshape(query.shape)


def up_sampled(x: Tensor, levels: Sequence[Tensor], align_corners: bool) -> list[Tensor]:
    """Each level (N, R, b, b) at the size of x, (N, R, h, w), bilinear."""
    size = x.shape[-2:]
    return [F.interpolate(level, size, mode="bilinear", align_corners=align_corners) for level in levels]


FUSIONS: dict[str, type[nn.Module]] = {"concat": Concat, "sum": Sum, "gate": Gate, "attention": Attention}
