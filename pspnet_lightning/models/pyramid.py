"""Pyramid pooling, and the head that convolves it without ever building the full-size pyramid.

The head's 3x3 convolution W sees ``concat(x, up(p_1), ..., up(p_k))``. Everything in it is linear, and bilinear
up-sampling from a b x b grid is a pair of small matrices, so each level's share follows from its b x b
values alone (``A`` and ``B`` fold the up-sampling, the kernel's three taps and its zero padding):

    y = conv3x3(x, W[:, :C]) + sum_b A_b Z_b B_b^T,    Z_b[(dy, i), (dx, j)] = W_b[:, :, dy, dx] p_b[:, i, j]

All levels share the product with A, of (H, 3 sum b) by (3 sum b, W * channels): y is touched once and
stays in channels_last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Interval, Predicate
from torch import Tensor, nn

from pspnet_lightning.models.resnet import conv3x3, one_of

POOLINGS = ("average", "max")
EXECUTIONS = ("exact", "concat")


def distinct(values: Sequence[int]) -> bool:
    """No two alike."""
    return len(set(values)) == len(values)


Bins = Annotated[
    Sequence[Annotated[int, Interval(ge=1, le=512)]], Predicate(distinct)
]  # the pyramid's grid sizes; empty: no pyramid


class PyramidPooling(nn.Module):
    """Pools (N, C, H, W) to one b x b grid a bin: a list of (N, R, b, b), R = C // len(bins), or C unreduced.

    With ``reduction`` each level has its 1x1 convolution, BatchNorm and ReLU (section 3.2 of the paper).

    Raises ValueError for bins that are no positive integers or not distinct, and in training mode where a BatchNorm
    would see a single value per channel (one image and bin 1), for which it is undefined.
    """

    def __init__(
        self,
        channels: int,
        bins: Sequence[int] = (1, 2, 3, 6),
        *,
        pooling: str = "average",
        reduction: bool = True,
    ) -> None:
        super().__init__()
        one_of("pooling", pooling, POOLINGS)
        for size in bins:
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"bins={list(bins)}: {size!r} is not a positive whole number")
        if not distinct(bins):
            raise ValueError(f"bins={list(bins)}: a grid size stands twice; it would be the same level again")
        if reduction and len(bins) > channels:
            raise ValueError(f"bins={list(bins)}: {channels} channels cannot be shared by {len(bins)} bins")
        self.bins = tuple(bins)
        self.pooling = pooling
        self.channels_per_bin = (channels // len(bins) if reduction else channels) if bins else 0
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, self.channels_per_bin, 1, bias=False),
                nn.BatchNorm2d(self.channels_per_bin),
                nn.ReLU(inplace=True),
            )
            if reduction
            else nn.Identity()
            for _ in bins
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        pool = F.adaptive_avg_pool2d if self.pooling == "average" else F.adaptive_max_pool2d
        levels = []
        for size, branch in zip(self.bins, self.branches, strict=True):
            if isinstance(branch, nn.Sequential):
                require_several_values(branch[1], x.shape[0] * size * size, f"the pyramid's bin {size}")
            levels.append(branch(pool(x, size)))
        return levels


class PyramidHead(nn.Module):
    """Pyramid pooling, 3x3 convolution, BatchNorm, ReLU, Dropout2d and the 1x1 classifier.

    ``forward(x)`` takes (N, C, H, W), answers logits (N, num_classes, H, W). ``execution`` chooses how the
    3x3 convolution is computed: "exact" (this file's head) or "concat", the plain formulation on the
    concatenation: the reference. Parameters and state dict are the same.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        bins: Sequence[int] = (1, 2, 3, 6),
        pooling: str = "average",
        reduction: bool = True,
        channels: int = 512,
        dropout: float = 0.1,
        align_corners: bool = True,
        execution: str = "exact",
    ) -> None:
        super().__init__()
        one_of("execution", execution, EXECUTIONS)
        self.in_channels = in_channels
        self.align_corners = align_corners
        self.execution = execution
        self.pyramid = PyramidPooling(in_channels, bins, pooling=pooling, reduction=reduction)
        concatenated = in_channels + len(self.pyramid.bins) * self.pyramid.channels_per_bin
        self.conv = conv3x3(concatenated, channels)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        # Of x alone, where the head was prepared for inference.
        self.own_conv: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        levels = self.pyramid(x)
        y = self._concatenated(x, levels) if self.execution == "concat" else self._exact(x, levels)
        require_several_values(self.bn, y.shape[0] * y.shape[2] * y.shape[3], "the head")
        return self.classifier(self.dropout(self.relu(self.bn(y))))

    @torch.no_grad()
    def split_convolution(self) -> None:
        """Gives the convolution of x a weight of its own, for inference: a part of a tensor is copied at each call."""
        if self.execution == "exact":
            own, bias = self.conv.weight[:, : self.in_channels], self.conv.bias
            self.own_conv = nn.Conv2d(self.in_channels, len(own), 3, padding=1, bias=bias is not None).to(own)
            self.own_conv.weight, self.own_conv.bias = nn.Parameter(own.clone()), bias

    def _concatenated(self, x: Tensor, levels: list[Tensor]) -> Tensor:
        size = x.shape[-2:]
        maps = [F.interpolate(level, size, mode="bilinear", align_corners=self.align_corners) for level in levels]
        return self.conv(torch.cat([x, *maps], dim=1))

    def _exact(self, x: Tensor, levels: list[Tensor]) -> Tensor:
        # Split, not sliced: the gradient is put together in one pass.
        own, *kernels = self.conv.weight.split([self.in_channels, *(level.shape[1] for level in levels)], dim=1)
        # By the module's own method, so that what it was exchanged for (``fast``) serves a part of its weight too.
        y = self.own_conv(x) if self.own_conv is not None else self.conv._conv_forward(x, own, self.conv.bias)
        if not levels:
            return y
        count, channels, height, width = y.shape
        rows, columns = [], []
        for level, kernel in zip(levels, kernels, strict=True):
            size = level.shape[-1]
            rows.append(tap_matrix(size, height, self.align_corners, level))
            columns.append(_columns(level, kernel, tap_matrix(size, width, self.align_corners, level)))
        # (H, 3 sum b) times (N, 3 sum b, W * O), added to y where it lies: channels_last is (N, H, W, O).
        taps = torch.cat(rows, dim=1).expand(count, -1, -1)
        flat = y.permute(0, 2, 3, 1).flatten(2)
        total = torch.baddbmm(flat, taps, torch.cat(columns, dim=1))
        if torch.compiler.is_exporting():
            # The same view, said in strides: with dynamic sizes the exporter cannot prove that `width` divides.
            strides = (height * width * channels, width * channels, channels, 1)
            return total.as_strided((count, height, width, channels), strides).permute(0, 3, 1, 2)
        return total.view(count, height, width, channels).permute(0, 3, 1, 2)


def tap_matrix(size: int, length: int, align_corners: bool, like: Tensor) -> Tensor:
    """[S_-1 U | U | S_+1 U], (length, 3 * size): linear up-sampling U seen by a 3-tap kernel with zero padding.

    Column (d, i) holds what grid value i contributes to each position through the kernel's tap d.
    Of ``like``'s device, and its dtype if that is float32 or float64, otherwise float32.
    """
    dtype = like.dtype if like.dtype in (torch.float32, torch.float64) else torch.float32
    identity = torch.eye(size, dtype=dtype, device=like.device)
    # torch's own interpolation of the identity: equal to its bilinear kernel by construction.
    up = F.interpolate(identity[None], length, mode="linear", align_corners=align_corners)[0].T
    return torch.cat([F.pad(up, (0, 0, 1, 0))[:-1], up, F.pad(up, (0, 0, 0, 1))[1:]], dim=1)


def _columns(level: Tensor, kernel: Tensor, by_column: Tensor) -> Tensor:
    """One level's values through the kernel and up-sampled along the width: (N, 3 b, W * O)."""
    size, outputs = level.shape[-1], kernel.shape[0]
    # (N, i, j, c) x (o, dy, dx, c): what each grid value becomes through each of the nine taps. No copy of a kernel in
    # channels_last: a matrix with gaps between its rows.
    taps = kernel.permute(0, 2, 3, 1).flatten(0, 2)
    values = F.linear(level.permute(0, 2, 3, 1), taps).unflatten(3, (outputs, 3, 3))
    values = values.permute(0, 4, 1, 5, 2, 3).reshape(-1, 3 * size, 3 * size, outputs)
    return torch.matmul(by_column, values).flatten(2)


def require_several_values(norm: nn.Module, values: int, where: str) -> None:
    """Raises ValueError where a BatchNorm in training mode would normalise over one value per channel."""
    if values == 1 and norm.training and isinstance(norm, nn.modules.batchnorm._BatchNorm):
        if isinstance(norm, nn.SyncBatchNorm) and torch.distributed.is_initialized():
            return  # the other processes' values count too
        raise ValueError(
            f"BatchNorm of {where} sees one value per channel in this training batch, for which it is undefined: use a "
            f"batch of at least 2 images on each device, several GPUs, which synchronise BatchNorm, bins without 1, or "
            f"put the BatchNorm layers into eval mode"
        )
