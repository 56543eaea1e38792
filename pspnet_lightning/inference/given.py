"""What a caller gives as an image, as the array that its file would be read as; what would be misread is refused."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from pspnet_lightning.data.pixels import as_numbers
from pspnet_lightning.data.reading import ImageReader, read_image

Given = np.ndarray | Tensor | Image.Image | str | os.PathLike[str]
Several = list[Given] | tuple[Given, ...]


def as_image(given: Given, channels: int, reader: ImageReader) -> np.ndarray:
    """An image as ``reader`` answers its file: uint8 (H, W, C), or float32 in the file's own units.

    ``given``: a path; a Pillow image; an array (H, W, C), or (H, W) of grey values; a tensor (C, H, W). For a network
    of RGB photographs grey is repeated, a fourth channel (alpha) is dropped, 16 bits of a Pillow image become 8, and a
    warning says so. Raises ValueError for what would be misread: values in 0..1 and 16-bit arrays where the network
    was trained on 0..255, NaN, and shapes that are no image of the network's.
    """
    if isinstance(given, str | os.PathLike):
        return reader(Path(given))
    rgb = reader is read_image
    if isinstance(given, Image.Image):
        image = _of_pillow(given, rgb)
    elif isinstance(given, Tensor):
        if given.ndim != 3 or given.shape[0] not in (channels, 1, 4):
            raise ValueError(
                f"a tensor of shape {tuple(given.shape)}: expected ({channels}, H, W); give a batch as list(batch), "
                f"and (H, W, {channels}) as tensor.permute(2, 0, 1)"
            )
        image = (
            given.detach().permute(1, 2, 0).cpu().float().numpy()
            if given.is_floating_point()
            else (given.detach().permute(1, 2, 0).cpu().numpy())
        )
    elif isinstance(given, np.ndarray):
        image = given
    else:
        raise ValueError(
            f"an image of type {type(given).__name__}: give a path, an array (H, W, {channels}), a Pillow image, a "
            f"tensor ({channels}, H, W), or a list of them"
        )
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim == 3 and rgb:
        image = _as_rgb(image)
    if image.ndim != 3 or image.shape[2] != channels or 0 in image.shape:
        raise ValueError(f"image of shape {np.shape(image)}: expected (H, W, {channels})")
    image = as_numbers(image, Path("given"))
    return _in_bytes(image, given) if rgb else image


def _of_pillow(image: Image.Image, rgb: bool) -> np.ndarray:
    if image.mode in ("P", "CMYK", "YCbCr", "1", "HSV", "LAB"):
        return np.array(image.convert("RGB"))
    values = np.array(image)
    if rgb and image.mode in ("LA", "La"):
        return values[..., [0, 0, 0, 1]]
    if rgb and (image.mode.startswith("I;16") or (image.mode == "I" and values.min() >= 0 and values.max() < 2**16)):
        _say("16 bits became 8, as where the file is read: the upper eight")
        return (values >> 8).astype(np.uint8)
    return values


def _as_rgb(image: np.ndarray) -> np.ndarray:
    if image.shape[2] == 1:
        _say("a grey image: its values are taken for red, green and blue alike")
        return np.repeat(image, 3, axis=2)
    if image.shape[2] == 4:
        _say("the fourth channel (alpha) is dropped")
        return image[..., :3]
    return image


def _in_bytes(image: np.ndarray, given: Any) -> np.ndarray:
    """The image, for a network that was trained on 0..255. Raises ValueError where that is not what it holds."""
    if image.dtype == np.uint8:
        return image
    kind, low, high = str(getattr(given, "dtype", image.dtype)), float(image.min()), float(image.max())
    holds = f"an image of {kind} with values from {low:g} to {high:g}: the network was trained on 0..255"
    if "int16" in kind:
        raise ValueError(f"{holds}; give the upper eight bits, (image >> 8).astype('uint8')")
    if low < 0 or high > 255:
        raise ValueError(f"{holds} and normalises them itself; give the image as its file has it, uint8")
    if high <= 1 and ("float" in kind or "bool" in kind):
        raise ValueError(
            f"{holds}; give (255 * image).round().astype('uint8'), of a tensor (255 * image).round().byte()"
        )
    return image


def _say(what: str) -> None:
    warnings.warn(what, stacklevel=5)
