"""How label files encode classes: index values, colours, black and white, MATLAB files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from pspnet_lightning.data.limits import open_image
from pspnet_lightning.data.reading import decoding, map_label, read_raw_label
from pspnet_lightning.data.specs import Colour, DataSpec

# (path, spec) -> uint8 (H, W) of classes or spec.ignore_index
LabelReader = Callable[[Path, DataSpec], np.ndarray]


def index_labels(path: Path, spec: DataSpec) -> np.ndarray:
    """Index PNG or TIFF, 8 or 16 bits, or the indices of a palette PNG, through ``spec.label_map``."""
    return map_label(read_raw_label(path), spec, path)


class ColourLabels:
    """RGB files whose colours are classes: ``colours`` sends each to a label or to the ignored value.

    Raises ValueError naming the file and the colours that are not among them.
    """

    def __init__(self, colours: Mapping[Colour, int]) -> None:
        self.colours = dict(colours)
        codes = np.array([_code(np.array(colour)) for colour in self.colours], np.int64)
        order = np.argsort(codes)
        self._codes = codes[order]
        self._labels = np.array(list(self.colours.values()), np.uint8)[order]

    def __call__(self, path: Path, spec: DataSpec) -> np.ndarray:
        with decoding(path, "label"), open_image(path) as file:
            return self.decode(np.asarray(file.convert("RGB")), spec, path)

    def decode(self, pixels: np.ndarray, spec: DataSpec, path: Path) -> np.ndarray:
        """RGB pixels (H, W, 3) of that file -> labels (H, W)."""
        codes = _code(pixels)
        position = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        foreign = self._codes[position] != codes
        if foreign.any():
            values, counts = np.unique(codes[foreign], return_counts=True)
            names = [
                f"({value >> 16}, {value >> 8 & 255}, {value & 255}) in {count} pixels"
                for value, count in sorted(
                    zip(values.tolist(), counts.tolist(), strict=True), key=lambda item: -item[1]
                )
            ]
            raise ValueError(
                f"label {str(path)!r} has colours that the colour map of {spec.name} does not name: "
                f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}. Name them, or send them to "
                f"{spec.ignore_index}; if edges are blurred, the file was saved as JPEG or resized with interpolation"
            )
        return self._labels[position]


class BinaryLabels:
    """Black and white masks, also as JPEG: values above half the range are class 1, all others class 0."""

    def __call__(self, path: Path, spec: DataSpec) -> np.ndarray:
        with decoding(path, "label"), open_image(path) as file:
            wide = file.mode.startswith(("I", "F"))
            values = np.asarray(file if wide else file.convert("L"))
        half = int(values.max(initial=0)) / 2 if wide else 127
        return (values > half).astype(np.uint8)


def sbd_labels(path: Path, spec: DataSpec) -> np.ndarray:
    """SBD's ``cls/*.mat``: the struct GTcls with its field Segmentation."""
    from scipy.io import loadmat  # half a second that nobody else needs

    with decoding(path, "label"):
        raw = loadmat(path)["GTcls"]["Segmentation"][0, 0]
    return map_label(np.asarray(raw), spec, path)


def read_colour_map(file: Path, ignore_index: int) -> tuple[list[str], list[Colour], dict[Colour, int]]:
    """A colour map file as (class names, palette, colour -> label).

    Lines are ``r g b name``; the names get labels 0, 1, ... in the order of their first line, more lines of one name
    are more colours of that class, and the name ``ignore`` stands for the ignored value. ``#`` begins a comment.

    Raises FileNotFoundError, and ValueError naming the line.
    """
    if not file.is_file():
        raise FileNotFoundError(f"the colour map {str(file)!r} does not exist")
    names: list[str] = []
    palette: list[Colour] = []
    colours: dict[Colour, int] = {}
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        words = line.split("#")[0].split(maxsplit=3)
        if not words:
            continue
        try:
            red, green, blue = (int(word) for word in words[:3])
            name = words[3].strip()
        except (ValueError, IndexError) as error:
            raise ValueError(f"colour map {str(file)!r}, line {number}: {line!r} is not `r g b name`") from error
        if not all(0 <= value <= 255 for value in (red, green, blue)):
            raise ValueError(f"colour map {str(file)!r}, line {number}: {line!r} has values outside 0..255")
        colour = (red, green, blue)
        if colour in colours:
            raise ValueError(f"colour map {str(file)!r}, line {number}: the colour {colour} is named twice")
        if name == "ignore":
            colours[colour] = ignore_index
            continue
        if name not in names:
            names.append(name)
            palette.append(colour)
        colours[colour] = names.index(name)
    if not names:
        raise ValueError(f"colour map {str(file)!r} names no class")
    return names, palette, colours


def _code(pixels: np.ndarray) -> np.ndarray:
    """RGB (..., 3) as one number 0xRRGGBB."""
    wide = pixels.astype(np.int64)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
