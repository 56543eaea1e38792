"""3x3 convolutions and their gradients with 0.31 to 0.44 of the products: Winograd's minimal filtering, on a CPU.

An m x m tile of outputs follows from (m + 2) x (m + 2) inputs by (m + 2)^2 products a channel pair instead of 9 m^2
(Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016): y = A^T [(G w G^T) * (B^T x B)] A. The
sums over channels are matrix products, the transforms only add, subtract and scale. A dilated convolution is d x d
plain ones on every d-th pixel, which are further tiles of the same products. The gradient of the input is such a
convolution of the output's; that of the weight has the transposed transforms: G^T [(B^T x B) * (A dy A^T)] G.

F(3x3, 3x3) at the points 0, 1, -1, 2 is exact up to a rounding of 1.0 to 1.5e-6 of the largest sums in float32, where
torch's direct convolution in channels_last has 0.4 to 1.1e-6 and F(2x2, 3x3) 0.3 to 0.4e-6 (256 to 2048 channels).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Transformed values that are worked on at once, 25 MB of float32: glibc keeps blocks below 32 MB, so that no page of
# theirs is asked of the system again. Of a product's side that is kept meanwhile, more: 34 MB.
_PART, _KEPT = 6 * 2**20, 2**23

_Transform = Callable[[Sequence[Tensor], Sequence[Tensor]], None]


class Tile(NamedTuple):
    """F(size x size, 3x3): G and, along one axis, x -> B^T x, m -> A^T m and dy -> A dy, put into ``out``."""

    size: int
    filters: tuple[tuple[float, float, float], ...]
    inputs: _Transform
    outputs: _Transform
    gradients: _Transform

    @property
    def taps(self) -> int:
        """Products a tile and channel pair."""
        return (self.size + 2) ** 2


def _inputs2(x: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    torch.sub(x[0], x[2], out=out[0])
    torch.add(x[1], x[2], out=out[1])
    torch.sub(x[2], x[1], out=out[2])
    torch.sub(x[1], x[3], out=out[3])


def _outputs2(m: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    partial = m[1] + m[2]
    torch.add(partial, m[0], out=out[0])
    torch.sub(m[1], m[2], out=partial)
    torch.sub(partial, m[3], out=out[1])


def _gradients2(y: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    out[0].copy_(y[0])
    torch.add(y[0], y[1], out=out[1])
    torch.sub(y[0], y[1], out=out[2])
    torch.neg(y[1], out=out[3])


def _inputs3(x: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    odd = torch.sub(x[3], x[1], out=out[3])
    partial = x[0] - x[2]
    torch.add(odd, partial, alpha=2, out=out[0])
    torch.sub(x[3], x[2], out=partial)
    torch.sub(partial, x[1], alpha=2, out=out[1])
    torch.add(x[3], x[1], alpha=2, out=partial)
    torch.sub(partial, x[2], alpha=3, out=out[2])
    torch.sub(x[4], x[2], out=partial)
    torch.sub(partial, odd, alpha=2, out=out[4])


def _outputs3(m: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    partial = m[1] + m[2]
    torch.add(m[0], m[3], out=out[0])
    out[0].add_(partial)
    torch.add(partial, m[3], alpha=4, out=out[2])
    out[2].add_(m[4])
    torch.sub(m[1], m[2], out=partial)
    torch.add(partial, m[3], alpha=2, out=out[1])


def _gradients3(y: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    out[0].copy_(y[0])
    out[4].copy_(y[2])
    partial = y[0] + y[2]
    torch.add(partial, y[1], out=out[1])
    torch.sub(partial, y[1], out=out[2])
    torch.add(y[0], y[1], alpha=2, out=partial)
    torch.add(partial, y[2], alpha=4, out=out[3])


# The smaller tile for half precision, where the larger one's sums would be felt.
TWO = Tile(2, ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)), _inputs2, _outputs2, _gradients2)
THREE = Tile(
    3,
    ((0.5, 0, 0), (-0.5, -0.5, -0.5), (-1 / 6, 1 / 6, -1 / 6), (1 / 6, 1 / 3, 2 / 3), (0, 0, 1)),
    _inputs3,
    _outputs3,
    _gradients3,
)


class _Bands:
    """The tiles of N images of H x W, cut into bands of rows so that each keeps to ``_KEPT`` values.

    Tiles lie on each of the d x d grids of every d-th pixel: (N, down, d, across, d).
    """

    def __init__(self, x: Tensor, tile: Tile, dilation: int, channels: int) -> None:
        self.count, _, self.height, self.width = x.shape
        self.tile, self.d = tile, dilation
        self.pitch = tile.size * dilation
        self.down, self.across = -(-self.height // self.pitch), -(-self.width // self.pitch)
        row = tile.taps * self.count * dilation * self.across * dilation * channels
        self.step = max(1, _KEPT // row)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for top in range(0, self.down, self.step):
            yield top, min(top + self.step, self.down)

    def parts(self, rows: tuple[int, int], channels: int) -> list[slice]:
        """The channels in parts of ``_PART`` transformed values, whole cache lines each."""
        tiles = self.count * (rows[1] - rows[0]) * self.d * self.across * self.d
        step = max(64, _PART // (self.tile.taps * tiles) // 64 * 64)
        return [slice(first, min(first + step, channels)) for first in range(0, channels, step)]

    def inputs(self, x: Tensor, rows: tuple[int, int]) -> Tensor:
        """B^T x B of a band of x (N, C, H, W): (taps, tiles, C)."""
        size, taps, (n, m), d = self.tile.size, self.tile.size + 2, (rows[1] - rows[0], self.across), self.d
        padded = self._cut(x, rows, d).view(self.count, size * n + 2, d, size * m + 2, d, -1)
        along = padded.new_empty(taps, self.count, n, d, size * m + 2, d, padded.shape[-1])
        self.tile.inputs([padded[:, tap : tap + size * n : size] for tap in range(taps)], list(along))
        both = padded.new_empty(taps, taps, self.count, n, d, m, d, padded.shape[-1])
        columns = [along[:, :, :, :, tap : tap + size * m : size] for tap in range(taps)]
        self.tile.inputs(columns, [both[:, tap] for tap in range(taps)])
        return both.view(taps**2, -1, padded.shape[-1])

    def gradients(self, y: Tensor, rows: tuple[int, int]) -> Tensor:
        """A dy A^T of a band of dy (N, O, H, W): (taps, tiles, O)."""
        size, taps, (n, m), d = self.tile.size, self.tile.size + 2, (rows[1] - rows[0], self.across), self.d
        cut = self._cut(y, rows, 0).view(self.count, n, size, d, m, size, d, -1)
        along = cut.new_empty(taps, self.count, n, d, m, size, d, cut.shape[-1])
        self.tile.gradients([cut[:, :, row] for row in range(size)], list(along))
        both = cut.new_empty(taps, taps, self.count, n, d, m, d, cut.shape[-1])
        columns = [along[:, :, :, :, :, column] for column in range(size)]
        self.tile.gradients(columns, [both[:, tap] for tap in range(taps)])
        return both.view(taps**2, -1, cut.shape[-1])

    def outputs(self, products: Tensor, y: Tensor) -> None:
        """A^T m A of (taps, tiles, O), put into the band y (N, n, size, d, across, size, d, O)."""
        size, taps, n = self.tile.size, self.tile.size + 2, y.shape[1]
        m = products.view(taps, taps, self.count, n, self.d, self.across, self.d, -1)
        along = m.new_empty(size, *m.shape[1:])
        self.tile.outputs(list(m), list(along))
        columns = [along[:, tap].permute(1, 2, 0, 3, 4, 5, 6) for tap in range(taps)]
        self.tile.outputs(columns, [y[:, :, :, :, :, column] for column in range(size)])

    def _cut(self, x: Tensor, rows: tuple[int, int], halo: int) -> Tensor:
        """The band's rows and all columns with a border, zero outside the images: (N, H', W', C)."""
        start, stop = rows[0] * self.pitch - halo, rows[1] * self.pitch + halo
        inside = x.permute(0, 2, 3, 1)[:, max(start, 0) : stop]
        cut = x.new_zeros(self.count, stop - start, self.across * self.pitch + 2 * halo, x.shape[1])
        above = max(start, 0) - start
        cut[:, above : above + inside.shape[1], halo : halo + self.width] = inside
        return cut


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dilation: int = 1,
    mirrored: bool = False,
    tile: Tile = THREE,
    transformed: Tensor | None = None,
) -> Tensor:
    """``F.conv2d(x, weight, bias, padding=dilation, dilation=dilation)`` of a weight (O, C, 3, 3), in channels_last.

    ``mirrored``: with the weight turned by 180 degrees and its first two axes exchanged: the gradient of the input of
    the convolution whose output's is ``x``. ``transformed``: ``transform(weight, tile)``, where it is at hand.
    """
    channels, outputs = weight.shape[:2] if mirrored else (weight.shape[1], weight.shape[0])
    bands = _Bands(x, tile, dilation, min(channels, outputs))

    def filters(into: slice, of: slice) -> Tensor:
        if transformed is not None:
            return transformed[:, of, into]
        if mirrored:
            return transform(weight[of, into], tile, mirrored=True)
        return transform(weight[into, of], tile)

    def put(products: Tensor, into: slice) -> None:
        if bias is not None:
            # The one at (1, 1) enters all outputs of a tile, with factor 1.
            products[tile.size + 3] += bias[into]
        bands.outputs(products, y[:, rows[0] : rows[1], ..., into])

    size, d, everything = tile.size, dilation, slice(None)
    y = x.new_empty(len(x), bands.down, size, d, bands.across, size, d, outputs)
    for rows in bands:
        if channels >= outputs:
            products: Tensor | None = None
            for part in bands.parts(rows, channels):
                values = bands.inputs(x[:, part], rows)
                weights = filters(everything, part)
                products = torch.bmm(values, weights) if products is None else products.baddbmm_(values, weights)
            assert products is not None
            put(products, everything)
        else:
            values = bands.inputs(x, rows)
            for part in bands.parts(rows, outputs):
                put(torch.bmm(values, filters(part, everything)), part)
    whole = y.view(len(x), bands.down * size * d, bands.across * size * d, outputs).permute(0, 3, 1, 2)
    return whole[:, :, : bands.height, : bands.width].contiguous(memory_format=torch.channels_last)


def weight_gradient(x: Tensor, gradient: Tensor, *, dilation: int = 1, tile: Tile = THREE) -> Tensor:
    """The gradient (O, C, 3, 3) of ``convolve``'s weight from its input and its output's gradient, in channels_last."""
    channels, outputs = x.shape[1], gradient.shape[1]
    bands = _Bands(x, tile, dilation, min(channels, outputs))
    back = _both_axes(tile, mirrored=False).T.to(x.dtype)
    total = x.new_zeros(outputs, 3, 3, channels)

    def add(of_outputs: Tensor, of_inputs: Tensor, into: slice, of: slice) -> None:
        products = torch.bmm(of_outputs.transpose(1, 2), of_inputs)
        share = torch.mm(back, products.flatten(1)).view(3, 3, *products.shape[1:])
        total[into, :, :, of] += share.permute(2, 0, 1, 3)

    everything = slice(None)
    for rows in bands:
        if channels >= outputs:
            kept = bands.gradients(gradient, rows)
            for part in bands.parts(rows, channels):
                add(kept, bands.inputs(x[:, part], rows), everything, part)
        else:
            kept = bands.inputs(x, rows)
            for part in bands.parts(rows, outputs):
                add(bands.gradients(gradient[:, part], rows), kept, part, everything)
    return total.permute(0, 3, 1, 2)


def transform(weight: Tensor, tile: Tile, *, mirrored: bool = False) -> Tensor:
    """G w G^T of a weight (O, C, 3, 3): (taps, C, O), or ``mirrored``, turned by 180 degrees, (taps, O, C)."""
    taps = weight.permute(0, 2, 3, 1).flatten(1, 2)
    transformed = torch.matmul(_both_axes(tile, mirrored).to(weight.dtype), taps).transpose(0, 1)
    return transformed if mirrored else transformed.transpose(1, 2)


def _both_axes(tile: Tile, mirrored: bool) -> Tensor:
    """G (x) G, (taps, 9), float64; ``mirrored``: of the 3x3 turned by 180 degrees."""
    filters = torch.tensor(tile.filters, dtype=torch.float64)
    both = torch.kron(filters, filters)
    return both.flip(1) if mirrored else both
