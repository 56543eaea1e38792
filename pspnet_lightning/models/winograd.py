"""3x3 convolutions with 4/9 of the products: Winograd's minimal filtering F(2x2, 3x3), for inference on a CPU.

Each 2 x 2 block of outputs follows from 4 x 4 inputs by 16 products a channel pair instead of 36 (Lavin & Gray, "Fast
Algorithms for Convolutional Neural Networks", CVPR 2016): y = A^T [(G w G^T) * (B^T x B)] A. It is the same function;
the transforms of x and y only add and subtract, and in float32 its error is below the direct convolution's. A
dilated convolution is d x d plain ones on every d-th pixel, which are further blocks of the same products.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Values of the 16 transformed inputs that are worked on at once: 16 MB of float32, which stay in a third-level cache.
_VALUES = 2**22
_G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))


class WinogradConv2d(nn.Module):
    """``F.conv2d(x, weight, bias, padding=dilation, dilation=dilation)`` for fixed weights (O, C, 3, 3).

    The transformed weights take 16/9 of the memory of the weights, beside them. What is not on a CPU, has another
    precision than the transformed weights or is asked for a gradient is convolved directly: accelerators have their own
    kernels. In bfloat16 the sums of the transforms are rounded too: 2.2 times the direct convolution's error.

    Raises ValueError for a kernel of another size.
    """

    bias: Tensor | None
    transformed: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, *, dilation: int = 1) -> None:
        super().__init__()
        if weight.ndim != 4 or weight.shape[2:] != (3, 3):
            raise ValueError(f"weight of shape {tuple(weight.shape)}: expected (O, C, 3, 3)")
        self.dilation = dilation
        self.weight = nn.Parameter(weight.detach().clone(memory_format=torch.channels_last), requires_grad=False)
        self.register_parameter(
            "bias", None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        )
        filters = torch.tensor(_G, dtype=torch.float64, device=weight.device)
        transformed = torch.einsum("ai,ocij,bj->abco", filters, self.weight.double(), filters)
        self.register_buffer("transformed", transformed.flatten(0, 1).to(weight.dtype).contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        needs_gradient = torch.is_grad_enabled() and x.requires_grad
        other = x.dtype != self.transformed.dtype or (
            torch.is_autocast_enabled("cpu") and x.dtype != torch.get_autocast_dtype("cpu")
        )
        if x.device.type != "cpu" or other or needs_gradient:
            return F.conv2d(x, self.weight, self.bias, padding=self.dilation, dilation=self.dilation)
        return self._convolve(x)

    def _convolve(self, x: Tensor) -> Tensor:
        (count, channels, height, width), d = x.shape, self.dilation
        outputs = self.transformed.shape[2]
        # Blocks of 2 x 2 outputs on each of the d x d grids of every d-th pixel.
        down, across = -(-height // (2 * d)), -(-width // (2 * d))
        padding = (0, 0, d, (2 * across + 1) * d - width, d, (2 * down + 1) * d - height)
        padded = F.pad(x.permute(0, 2, 3, 1), padding).view(count, 2 * down + 2, d, 2 * across + 2, d, channels)
        y = x.new_empty(count, down, 2, d, across, 2, d, outputs)
        step = max(1, _VALUES // (16 * count * d * across * d * channels))
        for top in range(0, down, step):
            bottom = min(top + step, down)
            blocks = _inputs(padded[:, 2 * top : 2 * bottom + 2])
            products = torch.bmm(blocks.flatten(0, 1).flatten(1, 5), self.transformed)
            if self.bias is not None:
                # Of the 16 products this one enters all four outputs, with factor 1.
                products[5] += self.bias
            _outputs(products.view(4, 4, count, bottom - top, d, across, d, outputs), y[:, top:bottom])
        whole = y.view(count, 2 * down * d, 2 * across * d, outputs).permute(0, 3, 1, 2)
        return whole[:, :, :height, :width].contiguous(memory_format=torch.channels_last)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, dilation={self.dilation}, bias={self.bias is not None}"


def _inputs(padded: Tensor) -> Tensor:
    """B^T x B: (N, 2 n + 2, d, 2 m + 2, d, C) -> (4, 4, N, n, d, m, d, C)."""
    count, rows, d, columns, _, channels = padded.shape
    n, m = rows // 2 - 1, columns // 2 - 1
    along_rows = padded.new_empty(4, count, n, d, columns, d, channels)
    _combine([padded[:, tap : tap + 2 * n : 2] for tap in range(4)], list(along_rows))
    blocks = padded.new_empty(4, 4, count, n, d, m, d, channels)
    _combine([along_rows[:, :, :, :, tap : tap + 2 * m : 2] for tap in range(4)], [blocks[:, b] for b in range(4)])
    return blocks


def _combine(x: list[Tensor], out: list[Tensor]) -> None:
    torch.sub(x[0], x[2], out=out[0])
    torch.add(x[1], x[2], out=out[1])
    torch.sub(x[2], x[1], out=out[2])
    torch.sub(x[1], x[3], out=out[3])


def _outputs(products: Tensor, y: Tensor) -> None:
    """A^T m A: (4, 4, N, n, d, m, d, O) into y (N, n, 2, d, m, 2, d, O)."""
    along_rows = products.new_empty(2, *products.shape[1:])
    _reduce(products, along_rows[0], along_rows[1])
    for row in (0, 1):
        _reduce(along_rows[row], y[:, :, row, :, :, 0], y[:, :, row, :, :, 1])


def _reduce(x: Tensor, first: Tensor, second: Tensor) -> None:
    partial = x[1] + x[2]
    torch.add(partial, x[0], out=first)
    torch.sub(x[1], x[2], out=partial)
    torch.sub(partial, x[3], out=second)
