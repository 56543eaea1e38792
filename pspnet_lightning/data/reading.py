"""Reading images and labels from files, with errors that name the file and the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from pspnet_lightning.data.specs import DataSpec


def read_image(path: Path) -> np.ndarray:
    """An image file as uint8 (H, W, 3) RGB.

    EXIF orientation is ignored: label files have none, and both must be turned alike. Raises
    FileNotFoundError, and ValueError for a file that is no image or is truncated.
    """
    content = _content(path)
    # OpenCV fills what is missing of a truncated JPEG with grey and only prints a warning: look for the end marker.
    if content[:2] == b"\xff\xd8" and b"\xff\xd9" not in content[-1024:]:
        raise ValueError(f"image {str(path)!r} is truncated: the JPEG has no end marker; copy the file again")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    if image is None:
        raise ValueError(f"image {str(path)!r} cannot be decoded ({len(content)} bytes); copy the file again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_raw_label(path: Path) -> np.ndarray:
    """A label file's index values as uint8 or uint16 (H, W); of a palette PNG the indices, not the colours.

    Raises FileNotFoundError, and ValueError for damaged files and for colour images.
    """
    content = _content(path)
    try:
        with Image.open(path) as file:
            mode = file.mode
            values = np.array(file)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(
            f"label {str(path)!r} cannot be decoded ({error}; {len(content)} bytes); copy the file again"
        ) from error
    if values.ndim != 2:
        raise ValueError(
            f"label {str(path)!r} is a colour image (mode {mode}), not a map of class indices: was a palette PNG saved "
            f"as RGB? Convert the colours to indices, or give the palette PNG itself"
        )
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    return values


def map_label(raw: np.ndarray, spec: DataSpec, path: Path | str) -> np.ndarray:
    """Raw values -> labels 0..K-1 or ``ignore_index``, uint8 (H, W). Raises ValueError naming file and values."""
    allowed = _allowed(spec)
    highest = int(raw.max(initial=0))
    if highest > 255 or (raw.dtype.kind == "i" and int(raw.min(initial=0)) < 0):
        foreign = sorted(set(np.unique(raw).tolist()) - set(allowed))
    else:
        present = np.bincount(raw.reshape(-1).astype(np.uint8), minlength=256).nonzero()[0].tolist()
        foreign = sorted(set(present) - set(allowed))
    if foreign:
        shown = ", ".join(map(str, foreign[:10])) + (", ..." if len(foreign) > 10 else "")
        raise ValueError(
            f"label {str(path)!r} holds values outside the {spec.num_classes} classes of {spec.name}: {shown} "
            f"(allowed: {_ranges(sorted(allowed))}). Is the label map off by one, or the number of classes wrong?"
        )
    table = np.full(256, spec.ignore_index, np.uint8)
    for value, label in allowed.items():
        if value < 256:
            table[value] = label
    return cv2.LUT(raw.astype(np.uint8), table)


def read_pair(image_path: Path, label_path: Path, spec: DataSpec) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 (H, W, 3) and label uint8 (H, W); raises ValueError where their sizes differ."""
    image = read_image(image_path)
    raw = read_raw_label(label_path)
    if image.shape[:2] != raw.shape:
        raise ValueError(
            f"sizes differ: image {str(image_path)!r} is {image.shape[1]} x {image.shape[0]}, "
            f"label {str(label_path)!r} is {raw.shape[1]} x {raw.shape[0]} (width x height)"
        )
    return image, map_label(raw, spec, label_path)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {str(path)!r}") from error
    except OSError as error:
        raise ValueError(f"file {str(path)!r} cannot be read: {error.strerror}") from error
    if not content:
        raise ValueError(f"file {str(path)!r} is empty; copy it again")
    return content


def _allowed(spec: DataSpec) -> Mapping[int, int]:
    """Raw value -> label for every value that may occur."""
    if spec.label_map is not None:
        return {**spec.label_map, spec.ignore_index: spec.ignore_index}
    return {**{label: label for label in range(spec.num_classes)}, spec.ignore_index: spec.ignore_index}


def _ranges(values: list[int]) -> str:
    """[0, 1, 2, 255] -> "0-2, 255"."""
    parts: list[list[int]] = []
    for value in values:
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)
