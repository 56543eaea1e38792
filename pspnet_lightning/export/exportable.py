"""PSPNet as one program for files: the same function, said with operations that carry dynamic sizes and no device.

Exporters write down what they see. Adaptive pooling to a grid is seen by ONNX as windows of a fixed size, and whatever
is made "on the CPU" stays there. So the grids' means are products with matrices that are computed from the size of
the features, and the pyramid's share of the head's convolution is a product too (``pyramid.py``), with all
parameters rearranged once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pspnet_lightning.models.fast.convolution import restore_convolutions
from pspnet_lightning.models.pspnet import PSPNet
from pspnet_lightning.models.pyramid import PyramidHead


class ExportableProgram(nn.Module):
    """A network from images to logits or labels, for ``torch.export``, ``torch.onnx`` and ``torch.jit.trace``.

    ``program(image)``: (N, C, H, W) of any size above the output stride; answers logits (N, K, H, W), float32, or with
    ``labels`` the label map (N, H, W), uint8. Equal to ``model.eval()`` up to float32 rounding. Images are normalised,
    or with ``mean`` and ``std`` (each channel's, in the images' units) any number type as in their files.

    With ``bfloat16`` the backbone and the head's large convolution are computed in it, all else in float32; the
    model's BatchNorms must have been folded.
    """

    def __init__(
        self,
        model: PSPNet,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        labels: bool = False,
        channels_last: bool = True,
        bfloat16: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = restore_convolutions(copy.deepcopy(model.backbone))
        self.head = ExportableHead(model.head)
        self.align_corners = model.align_corners
        self.labels = labels
        self.normalize = mean is not None
        self.channels_last = channels_last
        if mean is not None and std is not None:
            device = next(model.parameters()).device
            self.register_buffer("mean", torch.tensor(mean, device=device).view(1, -1, 1, 1))
            self.register_buffer("std", torch.tensor(std, device=device).view(1, -1, 1, 1))
        self.in_bfloat16 = bfloat16
        if bfloat16:
            self.backbone.to(torch.bfloat16)
            self.head.features.to(torch.bfloat16)
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        x = image
        if self.normalize:
            x = (x.to(torch.float32) - self.get_buffer("mean")) / self.get_buffer("std")
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        if self.in_bfloat16:
            x = x.to(torch.bfloat16)
        logits = self.head(self.backbone(x)[1])
        logits = F.interpolate(logits, image.shape[-2:], mode="bilinear", align_corners=self.align_corners)
        return logits.argmax(dim=1).to(torch.uint8) if self.labels else logits


class ExportableHead(nn.Module):
    """A ``PyramidHead`` in eval mode: features (N, C, H, W) to logits (N, K, H, W), sizes dynamic."""

    def __init__(self, head: PyramidHead) -> None:
        super().__init__()
        pyramid = head.pyramid
        self.bins = pyramid.bins
        self.maximum = pyramid.pooling == "max"
        self.align_corners = head.align_corners
        self.branches = copy.deepcopy(pyramid.branches)
        weight, bias = head.conv.weight.detach(), head.conv.bias
        outputs = len(weight)
        self.features = nn.Conv2d(head.in_channels, outputs, 3, padding=1, bias=bias is not None)
        self.features.weight = nn.Parameter(weight[:, : head.in_channels].clone(memory_format=torch.contiguous_format))
        if bias is not None:
            self.features.bias = nn.Parameter(bias.detach().clone())
        for number, size in enumerate(self.bins):
            start = head.in_channels + number * pyramid.channels_per_bin
            kernel = weight[:, start : start + pyramid.channels_per_bin]
            # (O dy dx, c, 1, 1): what each grid value becomes through each of the nine taps.
            taps = (
                kernel.permute(0, 2, 3, 1).reshape(9 * outputs, -1, 1, 1).clone(memory_format=torch.contiguous_format)
            )
            self.register_buffer(f"taps_{number}", taps)
            self.register_buffer(f"identity_{number}", torch.eye(size)[None])
            self.register_buffer(f"cells_{number}", torch.arange(size)[:, None])
        self.bn = copy.deepcopy(head.bn)
        self.classifier = copy.deepcopy(head.classifier)

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        if y.dtype == torch.bfloat16:
            # The grids' means and the classifier in float32: little work, and eight bits are few for a mean.
            x, y = x.to(torch.float32), y.to(torch.float32)
        if self.bins:
            y = y + self._pyramid(x)
        return self.classifier(F.relu(self.bn(y)))

    def _pyramid(self, x: Tensor) -> Tensor:
        """The pyramid's share of the 3x3 convolution, (N, O, H, W)."""
        height, width = x.shape[-2:]
        rows, columns = [], []
        for number, branch in enumerate(self.branches):
            cells, identity = self.get_buffer(f"cells_{number}"), self.get_buffer(f"identity_{number}")
            level = branch(pool(x, cells, maximum=self.maximum))
            values = F.conv2d(level, self.get_buffer(f"taps_{number}"))
            values = values.unflatten(1, (-1, 3, 3)).permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)
            rows.append(taps_of(identity, height, self.align_corners))
            columns.append(values @ taps_of(identity, width, self.align_corners).T)
        return torch.cat(rows, dim=1) @ torch.cat(columns, dim=2)


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
