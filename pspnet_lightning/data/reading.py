"""Reading images and labels from files, with errors that name the file and the remedy."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile

from pspnet_lightning.data.limits import check_header, open_image, read_tiff
from pspnet_lightning.data.pixels import as_numbers, require_real
from pspnet_lightning.data.specs import DataSpec

# OpenCV would print a warning for each tag of a GeoTIFF; a file that it cannot read is an error here anyway.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)

_PNG = b"\x89PNG\r\n\x1a\n"
# path -> (H, W, C)
ImageReader = Callable[[Path], np.ndarray]


def read_image(path: Path) -> np.ndarray:
    """An image file as uint8 (H, W, 3) RGB.

    EXIF orientation is ignored: label files have none, and both must be turned alike. Raises
    FileNotFoundError, and ValueError for a file that is no image or is truncated.
    """
    content = _content(path)
    # OpenCV fills what is missing of a truncated JPEG with grey and only prints a warning: look for the end marker.
    if content[:2] == b"\xff\xd8" and b"\xff\xd9" not in content[-1024:]:
        raise ValueError(f"image {str(path)!r} is truncated: the JPEG has no end marker; copy the file again")
    check_header(path, content)
    image = _decoded(content, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError(f"image {str(path)!r} cannot be decoded ({len(content)} bytes); copy the file again")
    return image


def read_raw_label(path: Path) -> np.ndarray:
    """A label file's index values as uint8 or uint16 (H, W); of a palette PNG the indices, not the colours.

    Raises FileNotFoundError, and ValueError for damaged files and for colour images.
    """
    content = _content(path)
    mode = "RGB"
    # Bit depth and colour type of a PNG. libpng finds every damaged block, which Pillow passes over at times; it would
    # turn a palette's indices into colours, though.
    if content[:8] == _PNG and content[24:26] in (b"\x08\x00", b"\x10\x00"):
        check_header(path, content)
        values = _decoded(content, cv2.IMREAD_UNCHANGED)
        if values is None:
            raise _damaged(path, "label", "a broken PNG", len(content))
    else:
        with decoding(path, "label"):
            if path.suffix.lower() in (".tif", ".tiff"):
                mode, values = "TIFF", read_tiff(path)
            else:
                with open_image(path, io.BytesIO(content)) as file:
                    mode, values = file.mode, np.array(file)
    if values.ndim != 2:
        raise ValueError(
            f"label {str(path)!r} is a colour image (mode {mode}), not a map of class indices: was a palette PNG saved "
            f"as RGB? Convert the colours to indices, or give the palette PNG itself"
        )
    require_real(values, path, "label")
    return values.astype(np.uint8) if values.dtype == np.bool_ else values


def _decoded(content: bytes, flags: int) -> Any:
    """What OpenCV makes of it; None where it cannot, also where that is its own limit of sides and pixels."""
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        return None


def map_label(raw: np.ndarray, spec: DataSpec, path: Path | str) -> np.ndarray:
    """Raw values -> labels 0..K-1 or ``ignore_index``, uint8 (H, W). Raises ValueError naming file and values."""
    table, mark = spec.lookup
    if raw.dtype == np.uint8:
        label = cv2.LUT(raw, table)
        # What is foreign is looked for by name only where there is something.
        if mark is None or cv2.countNonZero(cv2.inRange(label, mark, mark)) == 0:
            return label
    foreign = [value for value in np.unique(raw).tolist() if value not in spec.allowed]
    if foreign:
        shown = ", ".join(map(str, foreign[:10])) + (", ..." if len(foreign) > 10 else "")
        raise ValueError(
            f"label {str(path)!r} holds values outside the {spec.num_classes} classes of {spec.name}: {shown} "
            f"(allowed: {_ranges(sorted(spec.allowed))}). {_likely_cause(foreign, spec)}"
        )
    return cv2.LUT(raw.astype(np.uint8), table)


@dataclass(frozen=True)
class BandReader:
    """Images of any number of channels: 8- and 16-bit PNG, JPEG, multi-band TIFF.

    Answers (H, W, C): uint8 where the file has 8 bits, else float32 in the file's own units. ``bands`` chooses and
    orders channels, from 0; None: all of them. ``channels`` is the number the network expects, for the check.

    Raises ValueError where a file has other channels.
    """

    channels: int
    bands: tuple[int, ...] | None = None

    def __call__(self, path: Path) -> np.ndarray:
        image = read_any(path)
        if self.bands is not None:
            if max(self.bands) >= image.shape[2]:
                raise ValueError(
                    f"image {str(path)!r} has {image.shape[2]} bands; data.bands={list(self.bands)} asks for more"
                )
            image = np.ascontiguousarray(image[..., list(self.bands)])
        if image.shape[2] != self.channels:
            raise ValueError(
                f"image {str(path)!r} has {image.shape[2]} channels, expected {self.channels}: set data.channels or "
                f"choose with data.bands"
            )
        return image


def read_any(path: Path) -> np.ndarray:
    """An image file with all its bands, (H, W, C): uint8, or float32 for anything wider; grey images have C = 1."""
    with decoding(path, "image"):
        if path.suffix.lower() in (".tif", ".tiff"):
            image = read_tiff(path)
            # Planes first, as some write them: the bands are the shortest axis.
            if image.ndim == 3 and image.shape[0] < min(image.shape[1:]):
                image = np.moveaxis(image, 0, 2)
        else:
            with open_image(path) as file:
                image = np.array(file.convert("RGB") if file.mode in ("P", "CMYK", "YCbCr") else file)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3:
        raise ValueError(f"image {str(path)!r} has shape {image.shape}: expected height x width or with bands")
    if image.dtype == np.bool_:
        image = image.astype(np.uint8) * 255
    return as_numbers(image, path)


@contextmanager
def decoding(path: Path, kind: str) -> Iterator[None]:
    """Turns a decoder's error into one that names the file."""
    size = _readable(path)
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise _damaged(path, kind, error, size) from error
    except (OSError, SyntaxError, KeyError, IndexError, tifffile.TiffFileError) as error:
        raise _damaged(path, kind, error, size) from error


def _damaged(path: Path, kind: str, error: Exception | str, size: int) -> ValueError:
    return ValueError(f"{kind} {str(path)!r} cannot be decoded ({error}; {size} bytes); copy the file again")


def _likely_cause(foreign: list[int], spec: DataSpec) -> str:
    count = spec.num_classes
    if foreign == [count] and spec.label_map is None:
        return (
            f"The values run up to {count}, one too far: if 0 means other (as in ADE20K), shift them with "
            f"data.label_map={{0: {spec.ignore_index}, 1: 0, ..., {count}: {count - 1}}}; if 0 is a background class, "
            f"data.classes lacks it"
        )
    return "Is the label map off by one, or the number of classes wrong?"


def check_sizes(image_path: Path, image: np.ndarray, label_path: Path, label: np.ndarray) -> None:
    """Raises ValueError where an image and its label have different sizes."""
    if image.shape[:2] != label.shape:
        raise ValueError(
            f"sizes differ: image {str(image_path)!r} is {image.shape[1]} x {image.shape[0]}, "
            f"label {str(label_path)!r} is {label.shape[1]} x {label.shape[0]} (width x height)"
        )


def _content(path: Path) -> bytes:
    """The file's bytes; raises where it cannot be read or is empty."""
    with _opening(path), open(path, "rb") as file:
        content = file.read()
    if not content:
        raise ValueError(f"file {str(path)!r} is empty; copy it again")
    return content


def _readable(path: Path) -> int:
    """The file's size; raises where it cannot be read or is empty."""
    with _opening(path), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.read(1)
    if size == 0:
        raise ValueError(f"file {str(path)!r} is empty; copy it again")
    return size


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    try:
        found = os.stat(path)
        # A folder of strangers may hold a pipe, which never answers, or a link to a device, which never ends.
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise ValueError(f"{str(path)!r} is a pipe or a device, not an ordinary file; remove it")
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {str(path)!r}") from error
    except OSError as error:
        raise ValueError(f"file {str(path)!r} cannot be read: {error.strerror}") from error


def _ranges(values: list[int]) -> str:
    """[0, 1, 2, 255] -> "0-2, 255"."""
    parts: list[list[int]] = []
    for value in values:
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)
