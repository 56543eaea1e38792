"""UPerNet's head: pyramid pooling on the last map, a feature pyramid down to the finest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pspnet_lightning.models.pyramid import PyramidConvolution


def _block(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class UPerHead(nn.Module):
    """The PSPNet for backbones that are not dilated: ``PyramidConvolution`` on the last map, then FPN over all maps.

    Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018: lateral 1x1 convolutions, sums from
    coarse to fine, a 3x3 convolution of each, all of them at the finest map's size through one more. Logits have that
    size. ``head_channels``: of every convolution; None: a quarter of the last map's, 512 for ResNet-50.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        bins: Sequence[int] = (1, 2, 3, 6),
        pooling: str = "average",
        reduction: bool = True,
        fusion: str | Callable[..., Any] = "concat",
        head_channels: int | None = None,
        dropout: float = 0.1,
        align_corners: bool = True,
        execution: str = "exact",
    ) -> None:
        super().__init__()
        self.num_classes, self.align_corners = num_classes, align_corners
        width = head_channels or channels[-1] // 4
        self.pyramid = PyramidConvolution(
            channels[-1],
            width,
            bins=bins,
            pooling=pooling,
            reduction=reduction,
            fusion=fusion,
            align_corners=align_corners,
            execution=execution,
        )
        self.lateral = nn.ModuleList(_block(each, width, 1) for each in channels[:-1])
        self.smooth = nn.ModuleList(_block(width, width, 3) for _ in channels[:-1])
        self.last = _block(width * len(channels), width, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        levels = [lateral(each) for lateral, each in zip(self.lateral, features, strict=False)]
        levels.append(self.pyramid.context(features[-1]))
        for number in range(len(levels) - 1, 0, -1):
            levels[number - 1] = levels[number - 1] + self._up(levels[number], levels[number - 1])
        levels[:-1] = [smooth(each) for smooth, each in zip(self.smooth, levels, strict=False)]
        x = self.last(torch.cat([levels[0], *(self._up(each, levels[0]) for each in levels[1:])], dim=1))
        return self.classifier(self.dropout(x))

    def _up(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=self.align_corners)
