"""Images in their files' units to what networks see."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def normalized(image: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> Tensor:
    """(image - mean) / std, float32, of images (..., C, H, W) of any number type.

    ``mean``, ``std``: of each channel in the image's units, or tensors (C, 1, 1) on its device.
    """
    shift, scale = (
        values if isinstance(values, Tensor) else torch.tensor(values, device=image.device).view(-1, 1, 1)
        for values in (mean, std)
    )
    # Converted first: uint8 minus float would promote element by element in NCHW strides on some devices.
    return (image.to(torch.float32) - shift) / scale
