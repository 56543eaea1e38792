"""Logits that are up-sampled by whoever needs them, in parts that fit a cache: no (N, K, H, W) is ever stored.

150 classes at 473 x 473 are 134 MB an image, and cross-entropy with its gradient passes over several such tensors: a
third of a training step on CPU. What is wanted of them, the labels, the loss and its gradient at the heads' resolution,
is small, and a sum over pixels can be taken part by part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Values in one part. CPU: about 2 MB of float32, measured best of 0.3 to 9 MB with 150 classes. Elsewhere: 256 MB, so
# that few launches serve a batch.
_CPU_VALUES, _DEVICE_VALUES = 2**19, 2**26
# Up to so many classes torch's CPU softmax over the innermost dimension is not vectorised: sums are then taken over
# whole images with the pixels innermost. Measured (2 threads, milliseconds for cross-entropy with its gradient): bands,
# images and plain interpolation with cross-entropy take 17.3, 6.0, 7.6 for 8 x 11 x 96 x 96; 20.3, 6.8, 6.3 for
# 8 x 14 x 96 x 96; 4.9, 7.4, 6.7 for 8 x 16 x 96 x 96; 104, 49, 50 for 2 x 11 x 473 x 473; 51, 124, 195 for
# 2 x 19 x 473 x 473. The number of classes decides, not the size.
_FEW_CLASSES = 15


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


def images_of(logits: Tensor | LowLogits) -> Sequence[Tensor | LowLogits]:
    """Each image of a batch as a batch of one."""
    if isinstance(logits, LowLogits):
        return [logits._replace(values=values) for values in logits.values.split(1)]
    return list(logits.split(1))


# From logits (B, K, ...) and maps (B, ...) or (B, C, ...) of the same pixels, the classes always second, to the sum of
# what each pixel gives: a scalar, or (S,) for several sums at once. B may be pixels or images.
PixelSum = Callable[..., Tensor]


def sum_over_pixels(logits: Tensor | LowLogits, pixel_sum: PixelSum, *maps: Tensor) -> Tensor:
    """``pixel_sum(logits, *maps)`` over all pixels, of ``LowLogits`` in parts; differentiable once in the logits.

    Maps are (N, H, W), such as the target, or (N, H, W, C). Exact for every function that is a sum over pixels. A
    scalar's gradient is made in the same pass, so nothing is stored or computed twice; that of several sums, whose
    weights are known only afterwards, in a second one. Float32 or wider, under autocast too.
    """
    if isinstance(logits, Tensor):
        with torch.autocast(logits.device.type, enabled=False):
            return pixel_sum(_wide(logits), *(_classes_second(each) if each.ndim == 4 else each for each in maps))
    if torch.is_grad_enabled() and logits.values.requires_grad:
        total: Tensor = _SumOverPixels.apply(*logits, pixel_sum, *maps)
        return total
    return _total(logits, pixel_sum, maps)


@torch.no_grad()
def _total(logits: LowLogits, pixel_sum: PixelSum, maps: Sequence[Tensor]) -> Tensor:
    shares = (pixel_sum(*_pixels(part, images, rows, maps)) for images, rows, part in _cut(logits))
    return functools.reduce(torch.add, shares)


def _total_and_gradient(logits: LowLogits, pixel_sum: PixelSum, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    """The sum, and if it is a scalar its gradient with respect to ``logits.values``."""
    cut, total = _cut(logits), None
    for images, rows, part in cut:
        leaf, *others = _pixels(part, images, rows, maps)
        with torch.enable_grad():
            leaf.requires_grad_()
            share = pixel_sum(leaf, *others)
            if share.ndim:
                return _total(logits, pixel_sum, maps), None
            (gradient,) = torch.autograd.grad(share, leaf)
        cut.collect(images, rows, gradient.view_as(part) if gradient.ndim == 2 else gradient.permute(0, 2, 3, 1))
        total = share.detach() if total is None else total + share.detach()
    assert total is not None
    return total, cut.gradient().to(logits.values.dtype)


class _SumOverPixels(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, size: tuple[int, int], align_corners: bool, pixel_sum: PixelSum, *maps: Tensor
    ) -> Tensor:
        total, gradient = _total_and_gradient(LowLogits(values, size, align_corners), pixel_sum, maps)
        ctx.gradient_is_known = gradient is not None
        ctx.rest = size, align_corners, pixel_sum
        ctx.save_for_backward(*((values, *maps) if gradient is None else (gradient,)))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        size, align_corners, pixel_sum = ctx.rest
        gradient, *maps = ctx.saved_tensors
        if ctx.gradient_is_known:
            gradient = gradient * weights.to(gradient.dtype)
        else:
            # Of several sums only their weighted sum's gradient is wanted, which is a scalar's.
            _, gradient = _total_and_gradient(
                LowLogits(gradient, size, align_corners), lambda *pixels: (pixel_sum(*pixels) * weights).sum(), maps
            )
        return gradient, *[None] * (len(ctx.needs_input_grad) - 1)


def _pixels(part: Tensor, images: slice, rows: slice, maps: Sequence[Tensor]) -> list[Tensor]:
    """A part (n, r, W, K) and the maps' pixels with the classes second, as views of the part."""
    tensors = [part, *(each[images, rows] for each in maps)]
    if part.is_contiguous():
        return [each.flatten(0, 2) for each in tensors]
    return [_classes_second(each) if each.ndim == 4 else each for each in tensors]


def _classes_second(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 3, 1, 2)


class _Parts:
    """Iterates (images, rows, logits (n, r, W, K)); ``collect`` takes the gradient of each, ``gradient`` sums them."""

    def __init__(self, low: LowLogits, values: int) -> None:
        self.low = _wide(low.values)  # before the up-sampling
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

    def __init__(self, low: LowLogits, values: int, layout: torch.memory_format = torch.channels_last) -> None:
        super().__init__(low, values)
        self.low = self.low.contiguous(memory_format=layout)
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


def parts(logits: Tensor | LowLogits, *, softmax: bool = False) -> Iterator[tuple[slice, slice, Tensor]]:
    """Cuts the (up-sampled) logits into parts that fit a cache: (images, rows, logits (n, r, W, K)).

    The two slices say where a part lies in (N, H). Float32 or wider, under autocast too, which is off meanwhile. Of
    full-size logits (N, K, H, W) each image is one. ``softmax``: in the layout in which softmax is fast.
    """
    if isinstance(logits, LowLogits):
        yield from _cut(logits, softmax)
        return
    for image in range(len(logits)):
        yield slice(image, image + 1), slice(0, logits.shape[2]), _wide(logits[image : image + 1]).permute(0, 2, 3, 1)


def _wide(logits: Tensor) -> Tensor:
    """Half precision widened, so that the losses' exponentials see float32."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _cut(logits: LowLogits, softmax: bool = True) -> _Parts:
    if logits.values.device.type == "cpu":
        few = softmax and logits.values.shape[1] <= _FEW_CLASSES
        return _Images(logits, _CPU_VALUES, torch.contiguous_format) if few else _Bands(logits, _CPU_VALUES)
    return _Images(logits, _DEVICE_VALUES)


def _up_matrix(size: int, length: int, align_corners: bool, like: Tensor) -> Tensor:
    """Linear up-sampling as a matrix (length, size): torch's own, of the identity."""
    identity = torch.eye(size, dtype=like.dtype, device=like.device)
    return F.interpolate(identity[None], length, mode="linear", align_corners=align_corners)[0].T.contiguous()
