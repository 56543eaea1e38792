"""TIFF images too big to hold: read by rows, label maps written tile by tile, the georeference kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from pspnet_lightning.data.limits import check_decoded_size
from pspnet_lightning.data.pixels import as_numbers
from pspnet_lightning.data.reading import decoding
from pspnet_lightning.data.specs import Colour
from pspnet_lightning.disk import replacing

TIFF_TAILS = (".tif", ".tiff")
# ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory, GeoDoubleParams, GeoAsciiParams; and RPCs.
_GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 50844)
_TILE = 256

Georeference = list[tuple[int, int, int, Any, bool]]  # tags as tifffile writes them


class TiffRows:
    """The rows of a TIFF as a network wants them, without holding the image.

    ``rows(top, bottom)`` answers (rows, width, channels): uint8, or float32 for a network of other bands on wider
    files. Three channels without ``bands`` are as ``read_image`` reads them: a fourth band is dropped, grey repeated,
    16 bits become 8. Uncompressed files are mapped piece by piece; tiled and compressed ones are read by rasterio.

    Raises ValueError for files of other channels, and for a tiled or compressed file where rasterio is missing.
    """

    def __init__(self, path: Path, channels: int, bands: Sequence[int] | None = None) -> None:
        self.path, self.channels, self.bands = path, channels, bands
        with decoding(path, "image"), tifffile.TiffFile(path) as file:
            page = file.pages.first
            if page.ndim not in (2, 3):
                raise ValueError(f"image {str(path)!r} has axes {page.axes}: expected height, width and bands")
            self.planes_first = page.axes.startswith("S")
            shape = page.shape[1:] if self.planes_first else page.shape[:2]
            self.height, self.width = int(shape[0]), int(shape[1])
            self.georeference = _geo_tags(page)
            mapped = bool(page.is_memmappable)
            # What is decoded at once: a tile or a strip, or in a mapped file the rows that are asked for.
            check_decoded_size(path, *_block(page), int(np.prod(page.shape)) // max(1, self.height * self.width))
            compression = f"{'tiles' if page.is_tiled else 'strips'}, {tifffile.COMPRESSION(page.compression).name}"
        self._raster = None if mapped else _open_raster(path, compression)

    def rows(self, top: int, bottom: int) -> np.ndarray:
        with decoding(self.path, "image"):
            if self._raster is not None:
                window = ((top, bottom), (0, self.width))
                pixels = np.moveaxis(self._raster.read(window=window), 0, 2)
            else:
                # Mapped anew each time: what has been read would otherwise stay in this process's memory.
                whole = tifffile.memmap(self.path, mode="r", page=0)
                pixels = np.array(whole[:, top:bottom] if self.planes_first else whole[top:bottom])
                del whole
                if self.planes_first:
                    pixels = np.moveaxis(pixels, 0, 2)
        return self._as_trained(pixels if pixels.ndim == 3 else pixels[..., None])

    def _as_trained(self, pixels: np.ndarray) -> np.ndarray:
        found = pixels.shape[2]
        if self.channels == 3 and self.bands is None:
            if found not in (1, 3, 4) or pixels.dtype not in (np.uint8, np.uint16):
                raise ValueError(
                    f"image {str(self.path)!r} has {found} bands of {pixels.dtype}; the network takes 8- or 16-bit RGB"
                )
            pixels = np.repeat(pixels, 3, axis=2) if found == 1 else pixels[..., :3]
            if pixels.dtype == np.uint16:
                pixels = np.round(pixels / 257).astype(np.uint8)
            return np.ascontiguousarray(pixels)
        if self.bands is not None and max(self.bands) < found:
            pixels = pixels[..., list(self.bands)]
        if pixels.shape[2] != self.channels:
            raise ValueError(
                f"image {str(self.path)!r} has {found} bands; the network takes {self.channels}"
                + (f", data.bands={list(self.bands)}" if self.bands is not None else "")
            )
        return as_numbers(pixels, self.path)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of a TIFF, from its header."""
    with decoding(path, "image"), tifffile.TiffFile(path) as file:
        page = file.pages.first
        shape = page.shape[1:] if page.axes.startswith("S") else page.shape
        return int(shape[0]), int(shape[1])


def georeference(path: Path) -> Georeference:
    """The tags by which a TIFF lies on the earth; empty for other files."""
    if path.suffix.lower() not in TIFF_TAILS:
        return []
    with decoding(path, "image"), tifffile.TiffFile(path) as file:
        return _geo_tags(file.pages.first)


def write_label_tiff(
    path: Path,
    bands: Iterable[np.ndarray],
    height: int,
    width: int,
    palette: Sequence[Colour],
    tags: Georeference,
) -> None:
    """A tiled, compressed palette TIFF from rows uint8 (r, width) that arrive from top to bottom; atomically."""
    colours = np.zeros((3, 256), np.uint16)
    colours[:, : len(palette)] = np.array(palette, np.uint16).T * 257
    with replacing(path) as part:
        tifffile.imwrite(
            part,
            data=_tiles(bands, width),
            shape=(height, width),
            dtype=np.uint8,
            tile=(_TILE, _TILE),
            compression="zlib",
            photometric="palette",
            colormap=colours,
            extratags=tags,
            metadata=None,
            maxworkers=1,  # more would collect tiles, up to 512 MB, before they encode any
        )


def regrouped(bands: Iterable[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """Rows in bands of any height as bands of ``count``, the last one less."""
    kept: list[np.ndarray] = []
    held = 0
    for band in bands:
        kept.append(band)
        held += len(band)
        while held >= count:
            joined = np.concatenate(kept)
            yield joined[:count]
            kept, held = [joined[count:]], held - count
    if held:
        yield np.concatenate(kept)


def _tiles(bands: Iterable[np.ndarray], width: int) -> Iterator[np.ndarray]:
    for band in regrouped(bands, _TILE):
        for left in range(0, width, _TILE):
            part = band[:, left : left + _TILE]
            yield np.pad(part, ((0, _TILE - part.shape[0]), (0, _TILE - part.shape[1])))


def _geo_tags(page: Any) -> Georeference:
    tags = (page.tags.get(code) for code in _GEO_TAGS)
    return [(tag.code, int(tag.dtype), tag.count, tag.value, True) for tag in tags if tag is not None]


def _block(page: Any) -> tuple[int, int]:
    """Height and width of a tile or a strip."""
    if page.is_memmappable:
        return 1, 1
    return (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)


def _open_raster(path: Path, layout: str) -> Any:
    try:
        import rasterio
    except ImportError as error:
        raise ValueError(
            f"image {str(path)!r} ({layout}) is too big to be decoded whole, and reading parts of it needs rasterio: "
            f"pip install 'pspnet-lightning[geo]', or save it uncompressed"
        ) from error
    try:
        return rasterio.open(path)
    except rasterio.errors.RasterioIOError as error:
        raise ValueError(f"image {str(path)!r} cannot be read: {error}") from error
