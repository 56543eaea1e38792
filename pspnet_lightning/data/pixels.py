"""Pixels have to be numbers: NaN, infinite and complex ones are errors that name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class PixelError(ValueError):
    """An image of which ``count`` pixels are no finite numbers. Made of its message alone, as loaders' workers do."""

    count = 0


def as_numbers(image: np.ndarray, path: Path) -> np.ndarray:
    """An image (H, W, C) as uint8 where it is that, else as float32, contiguous.

    Raises PixelError where a value is not finite in float32, ValueError for complex values.
    """
    require_real(image, path, "image")
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(image, np.float32)
    if image.dtype.kind == "f":
        broken = ~np.isfinite(values)
        if broken.any():
            count = int(broken.any(axis=-1).sum())
            error = PixelError(
                f"image {str(path)!r}: {count} of {broken[..., 0].size} pixels are no finite numbers (NaN, infinite); "
                f"give them a value (gdal_fillnodata.py takes their neighbours'), and the ignored value in the label"
            )
            error.count = count
            raise error
    return values


def require_real(values: np.ndarray, path: Path, kind: str) -> None:
    """Raises ValueError for complex values and what else is no real number; ``kind``: "image" or "label"."""
    if values.dtype.kind not in "biuf":
        raise ValueError(
            f"{kind} {str(path)!r} holds values of type {values.dtype}, which are no real numbers; save an image's "
            f"magnitude, or its real and imaginary parts as two bands"
        )
