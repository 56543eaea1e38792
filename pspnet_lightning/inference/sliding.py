"""Sliding-window prediction as the official code does it (hszhao/semseg, tool/test.py), on the device, in row bands.

Memory: besides the (K, H, W) result, one band of the scaled image's probabilities, (K, crop, W'), what resizing it
takes, and the crops' own logits and probabilities; of a network that answers ``LowLogits``, as PSPNet does, only parts
of these. The classes lie innermost in memory: softmax and sums run over it as it lies. With W' the scaled width, n
crops a batch, float32, in bytes at most

    4 K (H W + 4 crop max(W, W') + 6 n crop^2) + the network's own activations.

``label_rows`` needs no (K, H, W): it hands over finished rows, so an aerial tile of any height streams through, in at
most 4 K (2 crop W + 6 n crop^2) + 16 C crop W bytes for C channels, and the network's own activations.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pspnet_lightning.inference.finite import NotFinite
from pspnet_lightning.inference.protocol import SlidingWindow
from pspnet_lightning.inference.rows import RowResizer, resize
from pspnet_lightning.models.normalized import normalized
from pspnet_lightning.models.upsampling import LowLogits, parts

Network = Callable[[Tensor], Tensor]


@torch.inference_mode()
def sliding_window(
    network: Network,
    image: np.ndarray | Tensor,
    *,
    crop_size: int | tuple[int, int] | None,
    base_size: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = True,
    stride_rate: float = 2 / 3,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int = 4,
    device: torch.device | str | None = None,
) -> Tensor:
    """Class probabilities (K, H, W), float32, of one image: softmax averaged over crops, flips and scales.

    For each scale the image is resized, its long side to ``base_size`` x scale; crops of ``crop_size`` are taken with
    strides of ``stride_rate`` of it, padded by the mean where the image is smaller; the averaged
    probabilities are resized to the image's own size, bilinearly, and averaged over the scales.

    Args:
        network: from normalised images (N, C, h, w) to logits (N, K, h, w); an ``nn.Module`` is put into no mode.
        image: (H, W, C), uint8 or of the values that the network was trained on.
        crop_size: one number, (height, width), or None: the whole resized image in one window.
        mean, std: of each channel, in the image's units (0..255).
        batch_size: crops in one forward pass; with ``flip`` as many mirrored ones beside them.
        device: where all is computed; None: where the network's parameters lie, or the CPU.

    Raises ValueError for arguments that make no window and for images of another shape.
    """
    protocol = SlidingWindow(crop_size, base_size, tuple(scales), flip, stride_rate, batch_size)
    return predict_probabilities(network, image, protocol, mean=mean, std=std, device=device)


@torch.inference_mode()
def predict_probabilities(
    network: Network,
    image: np.ndarray | Tensor,
    protocol: SlidingWindow,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str | None = None,
) -> Tensor:
    """``sliding_window`` with its protocol as one object."""
    pixels = _as_chw(image, device or _device_of(network), len(mean))
    height, width = pixels.shape[1:]
    result: Tensor | None = None
    for number, scale in enumerate(protocol.scales):
        size = protocol.scaled_size(height, width, scale)
        scaled = resize(pixels.float()[None], size)[0]
        rows = RowResizer(size[0], height, width)
        for band in _bands(network, partial(_cut, scaled), size, protocol, mean, std):
            top, finished = rows.push(band)
            if result is None:
                result = finished.new_empty(height, width, finished.shape[0]).permute(2, 0, 1)
            place = result[:, top : top + finished.shape[1]]
            _ = place.copy_(finished) if number == 0 else place.add_(finished)
    assert result is not None
    return result.div_(len(protocol.scales)) if len(protocol.scales) > 1 else result


@torch.inference_mode()
def label_rows(
    network: Network,
    read_rows: Callable[[int, int], np.ndarray],
    height: int,
    width: int,
    protocol: SlidingWindow,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """The label map of an image too big to hold, as (first row, uint8 (rows, W)) from top to bottom, at scale 1.

    ``read_rows(top, bottom)`` answers rows of the image, (rows, W, C). Labels equal those of ``sliding_window`` at the
    image's own size. Raises ValueError for a protocol that resizes or has no window.
    """
    if protocol.crop is None:
        raise ValueError(f"an image of {height} x {width} is predicted in windows: crop_size=None must be a size")
    if protocol.scales != (1.0,) or protocol.base_size is not None:
        raise ValueError(
            f"an image of {height} x {width} is predicted at its own size only: scales={list(protocol.scales)}, "
            f"base_size={protocol.base_size} must be [1.0] and null"
        )
    place = torch.device(device or _device_of(network))

    def rows(top: int, bottom: int) -> Tensor:
        return _as_chw(read_rows(top, bottom), place, len(mean)).float()

    top = 0
    for band in _bands(network, rows, (height, width), protocol, mean, std):
        labels = band.argmax(dim=0).to(torch.uint8).cpu().numpy()
        yield top, labels
        top += len(labels)


def _bands(
    network: Network,
    rows: Callable[[int, int], Tensor],
    size: tuple[int, int],
    protocol: SlidingWindow,
    mean: Sequence[float],
    std: Sequence[float],
) -> Iterator[Tensor]:
    """Averaged probabilities of an image of ``size`` in bands (K, r, W) from top to bottom, each row once.

    A band is a view that the next one overwrites. Raises NotFinite where a crop's answer is not.
    ``rows(top, bottom)`` answers float (C, rows, W). A band is finished when no later row of crops reaches it.
    """
    (height, width), (crop_h, crop_w) = size, protocol.crop or size
    tops, pad_top = _positions(height, crop_h, protocol.stride_rate)
    lefts, pad_left = _positions(width, crop_w, protocol.stride_rate)
    padded_w = max(width, crop_w)
    # How many crops of a row hold each column, and, along the other axis, how many rows of crops hold each row.
    columns = torch.zeros(padded_w)
    for left in lefts:
        columns[left : left + crop_w] += 1
    answer = _answering(network)
    total: Tensor | None = None
    finite: Tensor | None = None  # on the device, which is asked once a band
    counts = torch.zeros(crop_h)
    for number, top in enumerate(tops):
        strip = _strip(rows, top - pad_top, crop_h, height, padded_w, pad_left, mean, std)
        for first in range(0, len(lefts), protocol.batch_size):
            chosen = lefts[first : first + protocol.batch_size]
            crops = torch.stack([strip[:, :, left : left + crop_w] for left in chosen])
            batch = torch.cat([crops, crops.flip(3)]) if protocol.flip else crops
            logits = answer(batch.contiguous(memory_format=torch.channels_last))
            values = logits.values if isinstance(logits, LowLogits) else logits
            finite = values.isfinite().all() if finite is None else finite & values.isfinite().all()
            if total is None:
                total = _zeros_of(logits, crop_h, padded_w)
            _add_probabilities(total, logits, chosen, (crop_h, crop_w), protocol.flip)
        counts += 1
        assert total is not None
        if not finite:
            raise NotFinite
        last = number + 1 == len(tops)
        done = crop_h if last else tops[number + 1] - top
        finished = total[:, :done].div_((counts[:done, None] * columns).to(total.device))
        # Rows and columns of the padding are cut off.
        lower, upper = max(pad_top - top, 0), min(height + pad_top - top, done)
        yield finished[:, lower:upper, pad_left : pad_left + width]
        if not last:
            # The same memory serves the next band.
            rest = total[:, done:]
            total[:, : crop_h - done] = rest if done >= crop_h - done else rest.clone()
            total[:, crop_h - done :] = 0
            counts = torch.cat([counts[done:], torch.zeros(done)])


def _cut(pixels: Tensor, top: int, bottom: int) -> Tensor:
    return pixels[:, top:bottom]


def _positions(length: int, crop: int, stride_rate: float) -> tuple[list[int], int]:
    """Where crops begin along one axis of the padded image, and the padding before its first pixel."""
    padding = max(crop - length, 0)
    padded, stride = length + padding, math.ceil(crop * stride_rate)
    steps = math.ceil((padded - crop) / stride) + 1
    return [min(step * stride, padded - crop) for step in range(steps)], padding // 2


def _strip(
    rows: Callable[[int, int], Tensor],
    top: int,
    crop_h: int,
    height: int,
    padded_w: int,
    pad_left: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Normalised rows top..top+crop_h of the padded image; the padding is the mean, which normalises to zero."""
    pixels = rows(max(top, 0), min(top + crop_h, height))
    above, below = max(-top, 0), max(top + crop_h - height, 0)
    return F.pad(normalized(pixels, mean, std), (pad_left, padded_w - pad_left - pixels.shape[2], above, below))


def _answering(network: Network) -> Callable[[Tensor], Tensor | LowLogits]:
    """The network as it answers ``LowLogits``, if it can."""
    if not isinstance(network, nn.Module) or "upsample" not in inspect.signature(network.forward).parameters:
        return network
    answer = partial(network, upsample=False)

    def one_by_one(images: Tensor) -> Tensor | LowLogits:
        if images.device.type != "cpu" or network.training:
            return answer(images)
        # A CPU gains nothing by batches, and its convolutions in channels_last lose (see benchmark/model.py).
        answers = [answer(image[None]) for image in images]
        return answers[0]._replace(values=torch.cat([each.values for each in answers]))

    return one_by_one


def _zeros_of(logits: Tensor | LowLogits, height: int, width: int) -> Tensor:
    """Float32 zeros (K, height, width), the classes innermost in memory."""
    like = logits.values if isinstance(logits, LowLogits) else logits
    return torch.zeros(height, width, like.shape[1], device=like.device).permute(2, 0, 1)


def _add_probabilities(
    total: Tensor, logits: Tensor | LowLogits, lefts: Sequence[int], crop: tuple[int, int], flip: bool
) -> None:
    """Adds the softmax of each crop's logits, averaged with its mirror image's, to ``total`` where the crop lies.

    With ``flip`` the second half of the batch are the mirrored crops.
    """
    if isinstance(logits, Tensor) and tuple(logits.shape[2:]) != crop:
        logits = LowLogits(logits, crop, True)
    share = 0.5 if flip else 1.0
    for images, rows, part in parts(logits):
        for image, probabilities in enumerate(part.softmax(dim=-1), start=images.start):
            left = lefts[image % len(lefts)]
            straight = probabilities.flip(1) if image >= len(lefts) else probabilities
            total[:, rows, left : left + crop[1]].add_(straight.permute(2, 0, 1), alpha=share)


def _as_chw(image: np.ndarray | Tensor, device: torch.device | str, channels: int) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(image)) if isinstance(image, np.ndarray) else image
    if tensor.ndim != 3 or tensor.shape[2] != channels:
        raise ValueError(
            f"image of shape {tuple(tensor.shape)}: expected (H, W, {channels}), as many as mean has values"
        )
    return tensor.to(device).permute(2, 0, 1)


def _device_of(network: Network) -> torch.device:
    parameter = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device
