"""Big images cut into crops on the fly: windows read from the file, without cutting it beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile

from pspnet_lightning.data.datasets import SegmentationDataset
from pspnet_lightning.data.encodings import ColourLabels
from pspnet_lightning.data.limits import read_tiff
from pspnet_lightning.data.pairing import Pair, listing
from pspnet_lightning.data.reading import decoding
from pspnet_lightning.data.specs import DataSpec


class Window(NamedTuple):
    """Rows top..top+height and columns left..left+width."""

    top: int
    left: int
    height: int
    width: int


class TiledDataset(SegmentationDataset):
    """Pairs of big TIFF tiles as overlapping windows, each a sample of its own.

    Windows are ``tile_size`` square (less where a tile is smaller), ``tile_size - overlap`` apart; with an overlap the
    last of a row is pushed back to end at the border, without one it is the smaller rest, so that every
    pixel belongs to exactly one window. Uncompressed files are mapped: only the window is read. Compressed ones are
    decoded whole and the last two kept, for every process.

    Raises FileNotFoundError listing missing files and ValueError for sizes that differ.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        spec: DataSpec,
        *,
        tile_size: int,
        overlap: int,
        origin: str,
        coding: ColourLabels,
    ) -> None:
        if not 0 <= overlap < tile_size:
            raise ValueError(f"data.overlap={overlap} must lie in 0..{tile_size - 1}, below data.tile_size={tile_size}")
        missing = [str(path) for pair in pairs for path in pair if not path.is_file()]
        if missing:
            raise FileNotFoundError(f"{origin}: {len(missing)} files do not exist: {listing(missing)}")
        self.spec = spec
        self.coding = coding
        self.windows: list[tuple[Pair, Window]] = []
        for image, label in pairs:
            size = _size(image)
            if _size(label) != size:
                raise ValueError(
                    f"sizes differ: {str(image)!r} is {size}, {str(label)!r} is {_size(label)} (height, width)"
                )
            self.windows += [((image, label), window) for window in cut(*size, tile_size, overlap)]

    def __len__(self) -> int:
        return len(self.windows)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        (path, _), window = self.windows[index]
        image = _read_window(path, window)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] < 3:
            raise ValueError(f"image {str(path)!r} is {image.dtype} {image.shape}: expected three 8-bit bands")
        return np.ascontiguousarray(image[..., :3]), self.label(index)

    def label(self, index: int) -> np.ndarray:
        (_, path), window = self.windows[index]
        return self.coding.decode(_read_window(path, window)[..., :3], self.spec, path)

    def name(self, index: int) -> str:
        (path, _), window = self.windows[index]
        return f"{path}[{window.top}:{window.top + window.height},{window.left}:{window.left + window.width}]"

    def files(self, index: int) -> tuple[Path, ...]:
        return self.windows[index][0]


def cut(height: int, width: int, size: int, overlap: int) -> list[Window]:
    """The windows that cover an image; see ``TiledDataset``."""
    return [
        Window(top, left, rows, columns)
        for top, rows in _spans(height, size, overlap)
        for left, columns in _spans(width, size, overlap)
    ]


def _spans(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Starts and lengths along one axis."""
    if length <= size:
        return [(0, length)]
    if overlap == 0:
        return [(start, min(size, length - start)) for start in range(0, length, size)]
    starts = [*range(0, length - size, size - overlap), length - size]
    return [(start, size) for start in starts]


def _size(path: Path) -> tuple[int, int]:
    with decoding(path, "image"), tifffile.TiffFile(path) as file:
        height, width = file.pages[0].shape[:2]
        return int(height), int(width)


def _read_window(path: Path, window: Window) -> np.ndarray:
    rows, columns = slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)
    return np.asarray(_opened(path)[rows, columns])


@lru_cache(maxsize=2)
def _decoded(path: Path) -> np.ndarray:
    with decoding(path, "image"):
        return read_tiff(path)


@lru_cache(maxsize=256)
def _mapped(path: Path) -> np.ndarray | None:
    try:
        return tifffile.memmap(path, mode="r")
    except ValueError:  # compressed, or not in one piece
        return None


def _opened(path: Path) -> np.ndarray:
    mapped = _mapped(path)
    return _decoded(path) if mapped is None else mapped
