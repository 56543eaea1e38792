"""How large an image may become in memory: looked up in the file's header, before anything is decoded."""

from __future__ import annotations

import io
import math
import struct
import warnings
from pathlib import Path
from typing import Any

import tifffile
from PIL import Image, UnidentifiedImageError

# A PNG of 10 MB may declare 60000 x 60000 pixels. Two GiB are 26,700 x 26,700 in RGB; what is larger is predicted in
# windows from a TIFF (see ``rasters``), of which this bounds a window.
LARGEST = 2**31

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def check_decoded_size(path: Path, height: int, width: int, channels: int = 3, itemsize: int = 1) -> None:
    """Raises ValueError naming the file where the decoded pixels would take more than ``LARGEST`` bytes."""
    size = height * width * channels * itemsize
    if size > LARGEST:
        raise ValueError(
            f"image {str(path)!r} is {width} x {height} pixels: decoded it takes {size / 2**30:.1f} GiB, more than the "
            f"{LARGEST / 2**30:g} GiB that one image may. Cut it, or save it as a TIFF, which pspnet-predict reads in "
            f"windows"
        )


def check_header(path: Path, content: bytes) -> None:
    """The same from a file's bytes. Formats that Pillow does not know are left to their decoder's own limits."""
    if content[:8] == _PNG and len(content) >= 29:
        width, height, depth, kind = struct.unpack(">IIBB", content[16:26])
        check_decoded_size(path, height, width, max(3, _PNG_CHANNELS.get(kind, 4)), max(1, depth // 8))
    elif content[:2] == b"\xff\xd8":
        check_decoded_size(path, *_jpeg_size(content))
    else:
        try:
            with open_image(path, io.BytesIO(content)):
                pass
        except (UnidentifiedImageError, OSError, SyntaxError, struct.error):
            pass


def open_image(path: Path, stream: Any = None) -> Image.Image:
    """``Image.open`` of a file whose size has been checked. Raises ValueError where it is too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # between Pillow's limit and this one
            image = Image.open(path if stream is None else stream)
    except Image.DecompressionBombError as error:
        raise ValueError(f"image {str(path)!r} is too large to be decoded: {error}") from error
    check_decoded_size(path, image.height, image.width, max(3, len(image.getbands())))
    return image


def read_tiff(path: Path) -> Any:
    """``tifffile.imread`` of a file whose size has been checked: its first series, an array of whatever axes."""
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        shape = tuple(int(side) for side in series.shape)
        height, width = (*shape, 1, 1)[:2]
        rest = math.prod(shape) // max(1, height * width)
        check_decoded_size(path, height, width, rest, series.dtype.itemsize if series.dtype else 8)
        return series.asarray()


def _jpeg_size(content: bytes) -> tuple[int, int]:
    """Height and width from the frame header; (0, 0) where there is none, of which the decoder says more."""
    position = 2
    while position + 9 < len(content):
        if content[position] != 0xFF:
            return 0, 0
        marker = content[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", content[position + 5 : position + 9])
            return height, width
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 2
        else:
            position += 2 + struct.unpack(">H", content[position + 2 : position + 4])[0]
    return 0, 0
