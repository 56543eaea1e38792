"""Pyramid pooling, and the head that convolves it without ever building the full-size pyramid.

The head's 3x3 convolution W sees ``concat(x, up(p_1), ..., up(p_k))``. Everything in it is linear, and bilinear
up-sampling from a b x b grid is a pair of small matrices, so each level's share follows from its b x b
values alone (``A`` and ``B`` fold the up-sampling, the kernel's three taps and its zero padding):

    y = conv3x3(x, W[:, :C]) + sum_b A_b Z_b B_b^T,    Z_b[(dy, i), (dx, j)] = W_b[:, :, dy, dx] p_b[:, i, j]

All levels share the product with A, of (H, 3 sum b) by (3 sum b, W * channels): y is touched once and
stays in channels_last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pspnet_lightning.models.abilities import demand
from pspnet_lightning.models.fusion import FUSIONS, Fusion, LinearFusion, SeparableFusion
from pspnet_lightning.models.portable import PortableHead, PortablePyramid
from pspnet_lightning.models.resnet import conv3x3, one_of
from pspnet_lightning.models.seams import make
from pspnet_lightning.sizes import distinct

POOLINGS = ("average", "max")
EXECUTIONS = ("exact", "concat")


class PyramidPooling(nn.Module):
    """Pools (N, C, H, W) to one b x b grid a bin: a list of (N, R, b, b), R = C // len(bins), or C unreduced.

    With ``reduction`` each level has its 1x1 convolution, BatchNorm and ReLU (section 3.2 of the paper).

    Raises ValueError for bins that are no positive integers or not distinct, and in training mode where a BatchNorm
    would see a single value per channel (one image and bin 1), for which it is undefined.
    """

    def __init__(self, channels: int, bins: Sequence[int], *, pooling: str, reduction: bool) -> None:
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


class PyramidConvolution(nn.Module):
    """Pyramid pooling, the fusion of its levels, and the 3x3 convolution, BatchNorm and ReLU of all that.

    ``context(x)``: (N, C, H, W) -> (N, channels, H, W). ``fusion``: "concat", "sum", "gate", "attention" or a callable
    that makes a ``Fusion``. ``execution`` chooses how the convolution is computed where the fusion is linear: "exact"
    (this file's head) or "concat", the plain formulation: the reference. Parameters and state dict are the same.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        bins: Sequence[int],
        pooling: str,
        reduction: bool,
        fusion: str | Callable[..., Any],
        align_corners: bool,
        execution: str,
    ) -> None:
        super().__init__()
        one_of("execution", execution, EXECUTIONS)
        self.in_channels = in_channels
        self.align_corners = align_corners
        self.execution = execution
        self.pyramid = PyramidPooling(in_channels, bins, pooling=pooling, reduction=reduction)
        self.fusion: Fusion | None = None
        if self.pyramid.bins:
            self.fusion = make(
                fusion,
                FUSIONS,
                "model.fusion",
                in_channels=in_channels,
                level_channels=self.pyramid.channels_per_bin,
                levels=len(self.pyramid.bins),
                align_corners=align_corners,
            )
            demand(self.fusion, Fusion, "model.fusion")
        self.is_linear = self.fusion is None or isinstance(self.fusion, LinearFusion)
        self.conv = conv3x3(in_channels + (self.fusion.channels if self.fusion else 0), channels)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        # Of x alone, where the head was prepared for inference.
        self.own_conv: nn.Conv2d | None = None

    def context(self, x: Tensor) -> Tensor:
        levels = self.pyramid(x)
        exact = self.execution == "exact" and self.is_linear
        y = self._exact(x, levels) if exact else self._plain(x, levels)
        require_several_values(self.bn, y.shape[0] * y.shape[2] * y.shape[3], "the head")
        return self.relu(self.bn(y))

    @torch.no_grad()
    def split_convolution(self) -> None:
        """Gives the convolution of x a weight of its own, for inference: a part of a tensor is copied at each call."""
        if self.execution == "exact" and self.is_linear:
            own, bias = self.conv.weight[:, : self.in_channels], self.conv.bias
            self.own_conv = nn.Conv2d(self.in_channels, len(own), 3, padding=1, bias=bias is not None).to(own)
            self.own_conv.weight, self.own_conv.bias = nn.Parameter(own.clone()), bias

    def kernels(self) -> Sequence[Tensor]:
        """The part of the 3x3 kernel that meets x, then each level's. Of a linear fusion."""
        assert isinstance(self.fusion, LinearFusion)
        return self.fusion.kernels(self.conv.weight, self.in_channels, len(self.pyramid.bins))

    def portable(self) -> nn.Module:
        return PortablePyramid(self)

    # ------------------------------------------------------------------ a sum of sources

    @property
    def sources(self) -> tuple[str, ...]:
        """ "backbone", then "bin 1", "bin 2", ... in the pyramid's order."""
        return ("backbone", *(f"bin {size}" for size in self.pyramid.bins))

    def source_values(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (features[-1], *self.pyramid(features[-1]))

    def source_shares(self, values: Sequence[Tensor], features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Shares of the convolution, (N, O, h, w); of a gate the weights are those of ``features``."""
        x, levels = values[0], values[1:]
        weight, size = self.conv.weight, features[-1].shape[-2:]
        own = F.conv2d(x, weight[:, : self.in_channels], padding=1)
        if not levels:
            return (own,)
        if isinstance(self.fusion, LinearFusion):
            kernels = self.kernels()[1:]
            return own, *(self._level_share(level, kernel, size) for level, kernel in zip(levels, kernels, strict=True))
        demand(self.fusion, SeparableFusion, "to take the sum of the scales apart model.fusion")
        assert isinstance(self.fusion, SeparableFusion)
        parts = self.fusion.parts(features[-1], levels)
        return own, *(F.conv2d(part, weight[:, self.in_channels :], padding=1) for part in parts)

    def features_seen(self, length: int) -> tuple[int, int]:
        """Along an axis of so many features the first and the last that the value at its centre depends on."""
        middle = (length - 1) // 2
        first, last = max(middle - 1, 0), min(middle + 1, length - 1)
        for size in self.pyramid.bins:
            taps = tap_matrix(size, length, self.align_corners, torch.zeros(1))[middle].view(3, size)
            cells = taps.abs().sum(dim=0).nonzero().flatten().tolist()
            # Adaptive pooling: cell i holds features floor(i n / b) to ceil((i + 1) n / b).
            first = min(first, cells[0] * length // size)
            last = max(last, ceil((cells[-1] + 1) * length / size) - 1)
        return first, last

    def _level_share(self, level: Tensor, kernel: Tensor, size: Sequence[int]) -> Tensor:
        """A_b Z_b B_b^T: one level (N, R, b, b) through its part of the 3x3 convolution, (N, O, h, w)."""
        rows, columns = (tap_matrix(level.shape[-1], length, self.align_corners, level) for length in size)
        values = torch.einsum("ncij,ocyx->noyixj", level, kernel).flatten(4, 5).flatten(2, 3)
        return rows @ values @ columns.T

    # ------------------------------------------------------------------ the convolution

    def _plain(self, x: Tensor, levels: list[Tensor]) -> Tensor:
        return self.conv(x if self.fusion is None else torch.cat([x, self.fusion(x, levels)], dim=1))

    def _exact(self, x: Tensor, levels: list[Tensor]) -> Tensor:
        if not levels:
            return (self.own_conv or self.conv)(x)
        own, *kernels = self.kernels()
        # By the module's own method, so that what it was exchanged for (``fast``) serves a part of its weight too.
        y = self.own_conv(x) if self.own_conv is not None else self.conv._conv_forward(x, own, self.conv.bias)
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


class PyramidHead(PyramidConvolution):
    """The paper's head (section 3.2): ``PyramidConvolution`` on the last map, Dropout2d and the 1x1 classifier.

    ``channels``: the backbone's, the last one being C. ``head_channels``: of the 3x3 convolution; None: C // 4, 512
    for ResNet-50 and deeper. The rest as in ``PyramidConvolution``.
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
        width = head_channels or channels[-1] // 4
        super().__init__(
            channels[-1],
            width,
            bins=bins,
            pooling=pooling,
            reduction=reduction,
            fusion=fusion,
            align_corners=align_corners,
            execution=execution,
        )
        self.num_classes = num_classes
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.dropout(self.context(features[-1])))

    def portable(self) -> nn.Module:
        return PortableHead(self)


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
    if norm.training and values == 1 and isinstance(norm, nn.modules.batchnorm._BatchNorm):
        if isinstance(norm, nn.SyncBatchNorm) and torch.distributed.is_initialized():
            return  # the other processes' values count too
        raise ValueError(
            f"BatchNorm of {where} sees one value per channel in this training batch, for which it is undefined: use a "
            f"batch of at least 2 images on each device, several GPUs, which synchronise BatchNorm, bins without 1, or "
            f"put the BatchNorm layers into eval mode"
        )
