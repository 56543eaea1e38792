"""An exported file, run and compared with the network that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pspnet_lightning.models.normalized import normalized

# Logits in float32: the largest difference relative to the largest logit. Another order of the same sums gives 2e-6.
TOLERANCE = 1e-4
# In bfloat16, of 8 bits, a network's largest error among its logits is some 1e-2 of the largest one.
TOLERANCE_BFLOAT16 = 5e-2
# 8-bit programs are judged by the share of pixels of real images that keep their label.
AGREEMENT_INT8 = 0.97


@dataclass(frozen=True)
class Comparison:
    """One batch: ``difference``, of logits, is relative to the largest logit; of labels, the share of the pixels.

    ``size``: (N, H, W). ``agrees``: logits within the tolerance; labels equal but where the network's own logits of the
    two classes are nearer to each other than that.
    """

    size: tuple[int, int, int]
    difference: float
    agrees: bool


def check(
    program: Callable[[Tensor], Tensor],
    network: Callable[[Tensor], Tensor],
    sizes: Iterable[tuple[int, int, int]],
    *,
    channels: int,
    image_type: torch.dtype,
    mean: Sequence[float],
    std: Sequence[float],
    normalize: bool,
    labels: bool,
    tolerance: float = TOLERANCE,
) -> Iterator[Comparison]:
    """Runs ``program`` on random images of each size (N, H, W), and ``network`` on the same, normalised.

    ``network`` answers logits (N, K, H, W); ``program`` takes the images in their own units where ``normalize`` is
    true, otherwise normalised, and answers logits or, with ``labels``, label maps (N, H, W).
    """
    generator = torch.Generator().manual_seed(0)
    for count, height, width in sizes:
        # Blocks of colour, with noise: what a network answers to noise alone is nearly the same everywhere.
        blocks = torch.rand(count, channels, 5, 7, generator=generator)
        picture = torch.nn.functional.interpolate(blocks, (height, width)) * 200
        picture = (picture + 55 * torch.rand(picture.shape, generator=generator)).floor()
        seen = normalized(picture, mean, std)
        with torch.no_grad():
            answer = program(picture.to(image_type) if normalize else seen)
            expected = network(seen)
        if tuple(answer.shape) != tuple(expected[:, 0].shape if labels else expected.shape):
            yield Comparison((count, height, width), float("inf"), False)
            continue
        largest = float(expected.abs().max())
        if labels:
            best, chosen = expected.max(dim=1).values, expected.gather(1, answer.long()[:, None])[:, 0]
            difference = float((answer != expected.argmax(dim=1)).float().mean())
            agrees = bool((best - chosen <= tolerance * largest).all())
        else:
            difference = float((answer.float() - expected).abs().max()) / largest
            agrees = difference <= tolerance  # not-a-number does not
        yield Comparison((count, height, width), difference, agrees)


def agreement(
    program: Callable[[Tensor], Tensor],
    network: Callable[[Tensor], Tensor],
    images: Iterable[Tensor],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    normalize: bool,
    labels: bool,
) -> float:
    """The share of pixels with the same label; ``images`` (1, C, H, W) as ``program`` takes them, as in ``check``."""
    same, total = 0, 0
    for image in images:
        with torch.no_grad():
            seen = normalized(image, mean, std) if normalize else image
            answer, expected = program(image), network(seen).argmax(dim=1)
        chosen = answer if labels else answer.argmax(dim=1)
        same, total = same + int((chosen == expected).sum()), total + expected.numel()
    return same / total
