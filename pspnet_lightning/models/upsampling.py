"""Logits that are up-sampled by whoever needs them, in parts that fit a cache: no (N, K, H, W) is ever stored.

150 classes at 473 x 473 are 134 MB an image, and cross-entropy with its gradient passes over several such tensors: a
third of a training step on CPU. What is wanted of them, the labels, the loss and its gradient at the heads' resolution,
is small, and a sum over pixels can be taken part by part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Values in one part. CPU: about 2 MB of float32, measured best of 0.3 to 9 MB with 150 classes. Elsewhere: 256 MB, so
# that few launches serve a batch.
_CPU_VALUES, _DEVICE_VALUES = 2**19, 2**26


class LowLogits(NamedTuple):
    """Logits (N, K, h, w) that stand for their bilinear up-sampling to ``size`` = (H, W)."""

    values: Tensor
    size: tuple[int, int]
    align_corners: bool

    def full(self) -> Tensor:
        """The up-sampled logits (N, K, H, W), all at once."""
        return F.interpolate(self.values, self.size, mode="bilinear", align_corners=self.align_corners)

    @torch.no_grad()
    def labels(self) -> Tensor:
        """The label map int64 (N, H, W): ``full().argmax(1)``, up to rounding where two classes tie."""
        labels = self.values.new_empty(len(self.values), *self.size, dtype=torch.long)
        for images, rows, logits in parts(self):
            labels[images, rows] = logits.argmax(dim=-1)
        return labels


# From a part's logits (pixels, K) and their target (pixels,) to the sum of their losses.
PixelSum = Callable[[Tensor, Tensor], Tensor]


def sum_over_pixels(logits: LowLogits, target: Tensor, pixel_sum: PixelSum) -> Tensor:
    """``pixel_sum`` over all pixels, target int64 (N, H, W), in parts; differentiable once in ``logits.values``.

    Exact for every function that is a sum over pixels. The gradient is made in the same pass, so nothing is stored or
    computed twice. Float32 or wider, under autocast too.
    """
    if torch.is_grad_enabled() and logits.values.requires_grad:
        total: Tensor = _SumOverPixels.apply(*logits, target, pixel_sum)
        return total
    return sum_and_labels(logits, target, pixel_sum)[0]


@torch.no_grad()
def sum_and_labels(logits: LowLogits, target: Tensor, pixel_sum: PixelSum) -> tuple[Tensor, Tensor]:
    """``sum_over_pixels`` and the label map int64 (N, H, W) in one pass, without gradients."""
    total, labels = None, torch.empty_like(target)
    for images, rows, part in parts(logits):
        labels[images, rows] = part.argmax(dim=-1)
        share = pixel_sum(part.flatten(0, 2), target[images, rows].flatten())
        total = share if total is None else total + share
    assert total is not None
    return total, labels


class _SumOverPixels(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, size: tuple[int, int], align_corners: bool, target: Tensor, pixel_sum: PixelSum
    ) -> Tensor:
        cut, total = parts(LowLogits(values, size, align_corners)), None
        for images, rows, part in cut:
            with torch.enable_grad():
                leaf = part.flatten(0, 2).requires_grad_()
                share = pixel_sum(leaf, target[images, rows].flatten())
                (gradient,) = torch.autograd.grad(share, leaf)
            cut.collect(images, rows, gradient.view_as(part))
            total = share.detach() if total is None else total + share.detach()
        ctx.save_for_backward(cut.gradient().to(values.dtype))
        assert total is not None
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (stored,) = ctx.saved_tensors
        return stored * gradient.to(stored.dtype), None, None, None, None


class _Parts:
    """Iterates (images, rows, logits (n, r, W, K)); ``collect`` takes the gradient of each, ``gradient`` sums them."""

    def __init__(self, low: LowLogits, values: int) -> None:
        logits = low.values
        # Half precision is widened before the up-sampling, so that the losses' exponentials see float32.
        self.low = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        self.size, self.align_corners, self.limit = low.size, low.align_corners, values

    def __iter__(self) -> Iterator[tuple[slice, slice, Tensor]]:
        # The caller's arithmetic stays in the logits' precision too.
        with torch.autocast(self.low.device.type, enabled=False):
            yield from self._iterate()

    def _iterate(self) -> Iterator[tuple[slice, slice, Tensor]]:
        raise NotImplementedError

    def collect(self, images: slice, rows: slice, gradient: Tensor) -> None:
        raise NotImplementedError

    def gradient(self) -> Tensor:
        raise NotImplementedError


class _Bands(_Parts):
    """Bands of rows of one image: along the width first, on h rows, then each band is a product with few of them."""

    def __init__(self, low: LowLogits, values: int) -> None:
        super().__init__(low, values)
        (height, width), (h, w) = low.size, self.low.shape[2:]
        self.by_row = _up_matrix(h, height, self.align_corners, self.low)
        self.by_column = _up_matrix(w, width, self.align_corners, self.low)
        # Which low rows a row is made of: first and last that are not 0.
        used = self.by_row != 0
        self.first = used.int().argmax(1).tolist()
        self.last = (h - used.flip(1).int().argmax(1)).tolist()
        self.sum: Tensor | None = None

    def _iterate(self) -> Iterator[tuple[slice, slice, Tensor]]:
        (height, width), classes = self.size, self.low.shape[1]
        wide = torch.matmul(self.by_column, self.low.permute(0, 2, 3, 1)).flatten(2)  # (N, h, W * K)
        self.sum = None
        step = max(1, self.limit // (width * classes))
        for image in range(len(wide)):
            for top in range(0, height, step):
                rows = slice(top, min(top + step, height))
                part = self.by_row[rows, self._used(rows)] @ wide[image, self._used(rows)]
                yield slice(image, image + 1), rows, part.view(1, -1, width, classes)

    def _used(self, rows: slice) -> slice:
        return slice(self.first[rows.start], self.last[rows.stop - 1])

    def collect(self, images: slice, rows: slice, gradient: Tensor) -> None:
        if self.sum is None:
            n, classes, h, _ = self.low.shape
            self.sum = self.low.new_zeros(n, h, self.size[1] * classes)
        used = self._used(rows)
        self.sum[images.start, used].addmm_(self.by_row[rows, used].T, gradient.flatten(2)[0])

    def gradient(self) -> Tensor:
        assert self.sum is not None
        with torch.autocast(self.low.device.type, enabled=False):
            wide = self.sum.unflatten(2, (self.size[1], -1))
            return torch.matmul(self.by_column.T, wide).permute(0, 3, 1, 2)


class _Images(_Parts):
    """Whole images, few at a time, by torch's own kernels: an accelerator's products may be of reduced precision."""

    def __init__(self, low: LowLogits, values: int) -> None:
        super().__init__(low, values)
        self.low = self.low.contiguous(memory_format=torch.channels_last)
        self.collected: list[Tensor] = []

    def _iterate(self) -> Iterator[tuple[slice, slice, Tensor]]:
        height, width = self.size
        step = max(1, self.limit // (height * width * self.low.shape[1]))
        self.collected = []
        for first in range(0, len(self.low), step):
            images = slice(first, min(first + step, len(self.low)))
            part = LowLogits(self.low[images], self.size, self.align_corners).full()
            yield images, slice(0, height), part.permute(0, 2, 3, 1)

    def collect(self, images: slice, rows: slice, gradient: Tensor) -> None:
        self.collected.append(
            torch.ops.aten.upsample_bilinear2d_backward(
                gradient.permute(0, 3, 1, 2), self.size, self.low[images].shape, self.align_corners
            )
        )

    def gradient(self) -> Tensor:
        return torch.cat(self.collected)


def parts(logits: LowLogits) -> _Parts:
    """Cuts the up-sampled logits into parts that fit a cache: an iterable of (images, rows, logits (n, r, W, K)).

    The two slices say where a part lies in (N, H). Float32 or wider, under autocast too, which is off meanwhile.
    """
    if logits.values.device.type == "cpu":
        return _Bands(logits, _CPU_VALUES)
    return _Images(logits, _DEVICE_VALUES)


def _up_matrix(size: int, length: int, align_corners: bool, like: Tensor) -> Tensor:
    """Linear up-sampling as a matrix (length, size): torch's own, of the identity."""
    identity = torch.eye(size, dtype=like.dtype, device=like.device)
    return F.interpolate(identity[None], length, mode="linear", align_corners=align_corners)[0].T.contiguous()
