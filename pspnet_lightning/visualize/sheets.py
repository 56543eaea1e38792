"""Label maps in the data set's palette, and sheets of images, labels and predictions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from pspnet_lightning.data.limits import open_image
from pspnet_lightning.data.specs import Colour, DataSpec
from pspnet_lightning.disk import replacing

_IGNORED: Colour = (0, 0, 0)
_INK, _PAPER = (30, 30, 34), (255, 255, 255)
_LEAST_WIDTH = 240  # of a picture with a legend
_BORDER, _GAP, _CAPTION = 8, 6, 22  # of a sheet, in pixels
_COLUMNS = ("image", "truth", "prediction", "errors")
_CELL_WIDTH = 240
_CELLS = "pspnet-cells"  # a PNG's text chunk that says where its cells are
_RIGHT, _WRONG = (214, 220, 226), (214, 40, 40)


@dataclass(frozen=True)
class SheetItem:
    """One row of a sheet: image (H, W, C) as the data set reads it; label and prediction (H, W) of class indices."""

    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    name: str


def colorize(label: np.ndarray, palette: Sequence[Colour], ignored: Colour = _IGNORED) -> np.ndarray:
    """A label map (H, W) in colours, uint8 (H, W, 3); values outside the palette are ``ignored``."""
    table = np.full((256, 3), ignored, np.uint8)
    table[: len(palette)] = palette
    return table[label.astype(np.uint8)]


def overlay(image: np.ndarray, label: np.ndarray, palette: Sequence[Colour], alpha: float = 0.5) -> np.ndarray:
    """The colours of ``label`` laid over ``image`` (H, W, 3) with opacity ``alpha``."""
    colours = colorize(label, palette)
    blended = cv2.addWeighted(image, 1 - alpha, colours, alpha, 0)
    return np.where((label < len(palette))[..., None], blended, image)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Any image (H, W, C) as uint8 RGB: grey repeated, of many bands the first three, wide values stretched."""
    bands = image[..., :3] if image.shape[2] >= 3 else image[..., :1]
    if bands.dtype != np.uint8:
        low, high = np.percentile(bands, (2, 98))
        bands = np.clip((bands - low) / max(float(high - low), 1e-9) * 255, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(bands if bands.shape[2] == 3 else np.repeat(bands, 3, axis=2))


def error_map(prediction: np.ndarray, label: np.ndarray, ignore_index: int = 255) -> np.ndarray:
    """Right pixels pale, wrong ones red, ignored ones black: uint8 (H, W, 3)."""
    picture = np.where((prediction == label)[..., None], np.array(_RIGHT, np.uint8), np.array(_WRONG, np.uint8))
    picture[label == ignore_index] = _IGNORED
    return picture


def prediction_sheet(items: Sequence[SheetItem], spec: DataSpec, *, cell_width: int = _CELL_WIDTH) -> np.ndarray:
    """Image, truth, prediction and error map of each item, with captions and a legend: uint8 (H, W, 3).

    The legend names the classes that occur, the commonest first, at most 40.
    """
    if not items:
        raise ValueError("prediction_sheet: items is empty")
    rows = []
    for item in items:
        right = float((item.prediction == item.label)[item.label != spec.ignore_index].mean() * 100)
        cells = (
            as_rgb(item.image),
            colorize(item.label, spec.palette),
            colorize(item.prediction, spec.palette),
            error_map(item.prediction, item.label, spec.ignore_index),
        )
        rows.append((f"{_short(item.name)}   {right:.1f} % of pixels right", cells))
    maps = [map_ for item in items for map_ in (item.label, item.prediction)]
    return _sheet(rows, _COLUMNS, maps, spec, cell_width)


def cell_notes(items: Sequence[SheetItem], cell_width: int = _CELL_WIDTH) -> dict[str, str]:
    """Where ``prediction_sheet`` puts the cells of each item, for ``save_png``'s ``notes``: see ``read_cells``."""
    places, top = [], _BORDER + _CAPTION
    for item in items:
        height = _cell_height(item.image, cell_width)
        lefts = [_BORDER + number * (cell_width + _GAP) for number in range(len(_COLUMNS))]
        boxes = {name: (left, top + _CAPTION, cell_width, height) for name, left in zip(_COLUMNS, lefts, strict=True)}
        places.append({"name": item.name, "cells": boxes})
        top += _CAPTION + height
    return {_CELLS: json.dumps(places)}


def read_cells(path: Path) -> list[tuple[str, dict[str, np.ndarray]]]:
    """A sheet that was saved with ``cell_notes``, cut up: (name, column -> uint8 (h, w, 3)) of each item.

    Empty where there is no such file, one without notes, or one whose notes do not fit it.
    """
    if not path.is_file():  # a pipe would be waited for
        return []
    try:
        with open_image(path) as sheet:
            places = json.loads(getattr(sheet, "text", {}).get(_CELLS, "[]"))
            pixels = np.array(sheet.convert("RGB")) if places else np.empty((0, 0, 3))
        return [(str(place["name"]), _cut(pixels, place["cells"])) for place in places]
    except Exception:  # a picture, and notes in it, that anybody may have written: a decoder breaks anywhere
        return []


def _cut(pixels: np.ndarray, places: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """The cells of one item. Raises where one is missing or lies outside the sheet."""
    cells = {}
    for name in _COLUMNS:
        left, top, width, height = (int(value) for value in places[name])
        if not (left >= 0 and top >= 0 and 0 < width <= pixels.shape[1] - left and 0 < height <= len(pixels) - top):
            raise ValueError(f"cell {name!r} lies outside the sheet")
        cells[name] = pixels[top : top + height, left : left + width]
    return cells


def _cell_height(image: np.ndarray, cell_width: int) -> int:
    return max(1, round(image.shape[0] * cell_width / image.shape[1]))


def label_sheet(
    items: Sequence[tuple[np.ndarray, np.ndarray, str]], spec: DataSpec, *, cell_width: int = 300
) -> np.ndarray:
    """(image, label, name) of each item: image, labels in colours, and both laid over each other."""
    rows = []
    for image, label, name in items:
        rgb = as_rgb(image)
        rows.append((_short(name), (rgb, colorize(label, spec.palette), overlay(rgb, label, spec.palette))))
    return _sheet(rows, ("image", "labels", "both"), [label for _, label, _ in items], spec, cell_width)


def _sheet(
    items: Sequence[tuple[str, Sequence[np.ndarray]]],
    columns: Sequence[str],
    maps: Sequence[np.ndarray],
    spec: DataSpec,
    cell_width: int,
) -> np.ndarray:
    """Rows of (caption, cells of one size), headed by ``columns``, with a legend of what ``maps`` hold."""
    rows = []
    for caption, cells in items:
        size = (cell_width, _cell_height(cells[0], cell_width))
        interpolation = cv2.INTER_AREA if cell_width < cells[0].shape[1] else cv2.INTER_NEAREST
        resized = [cv2.resize(np.ascontiguousarray(cell), size, interpolation=interpolation) for cell in cells]
        gap = np.full((size[1], _GAP, 3), _PAPER, np.uint8)
        strip = np.hstack([part for cell in resized for part in (cell, gap)][:-1])
        rows += [_caption(caption, strip.shape[1]), strip]
    width = rows[1].shape[1]
    heads = np.hstack([_caption(name, cell_width + _GAP) for name in columns])[:, :width]
    sheet = np.vstack([heads, *rows, _legend(maps, spec, width)])
    return cv2.copyMakeBorder(sheet, _BORDER, _BORDER, _BORDER, _BORDER, cv2.BORDER_CONSTANT, value=_PAPER)


def overlay_with_legend(image: np.ndarray, label: np.ndarray, spec: DataSpec, opacity: float = 0.5) -> np.ndarray:
    """``overlay`` of any image (H, W, C) with the names of the classes that occur below it: uint8 (h, w, 3)."""
    picture = overlay(as_rgb(image), label, spec.palette, opacity)
    return np.vstack([_widened(picture), legend(picture.shape[1], [label], spec)])


def legend(width: int, maps: Sequence[np.ndarray], spec: DataSpec) -> np.ndarray:
    """The legend of what ``maps`` hold, for a picture of ``width`` pixels (``_LEAST_WIDTH`` at least)."""
    width = max(width, _LEAST_WIDTH)
    enlarged = max(1, round(width / 1000))
    small = _legend(maps, spec, width // enlarged)
    return cv2.resize(small, (width, small.shape[0] * enlarged), interpolation=cv2.INTER_LINEAR)


def _widened(picture: np.ndarray) -> np.ndarray:
    missing = max(_LEAST_WIDTH - picture.shape[1], 0)
    return cv2.copyMakeBorder(picture, 0, 0, 0, missing, cv2.BORDER_CONSTANT, value=_PAPER)


def save_png(
    image: np.ndarray,
    path: Path,
    palette: Sequence[Colour] | None = None,
    *,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Writes uint8 (H, W, 3) or (H, W) beside the target and renames, so that nobody sees half a picture.

    With a ``palette`` a map of indices (H, W) shows in its colours; what a program reads are the indices. ``notes``
    become text chunks of the PNG.
    """
    picture = Image.fromarray(image)
    if palette is not None:
        picture.putpalette([value for colour in palette for value in colour])
    chunks = PngInfo()
    for key, text in (notes or {}).items():
        chunks.add_text(key, text, zip=True)
    with replacing(path) as part:
        picture.save(part, format="PNG", pnginfo=chunks)


def _font() -> Any:
    return ImageFont.load_default(size=14)


def _caption(text: str, width: int) -> np.ndarray:
    strip = Image.new("RGB", (width, _CAPTION), _PAPER)
    ImageDraw.Draw(strip).text((2, 3), text, fill=_INK, font=_font())
    return np.array(strip)


def _short(name: str) -> str:
    """A file's last two parts."""
    short = "/".join(Path(name).parts[-2:])
    return short if len(short) <= 60 else f"...{short[-57:]}"


def _legend(maps: Sequence[np.ndarray], spec: DataSpec, width: int) -> np.ndarray:
    counts = np.zeros(256, np.int64)
    for label_map in maps:
        counts += np.bincount(label_map.ravel(), minlength=256)[:256]
    order = [int(label) for label in np.argsort(-counts)[:40] if counts[label]]
    shown = [(spec.classes[label], spec.palette[label]) for label in order if label < spec.num_classes]
    if spec.ignore_index in order:
        shown.append(("ignored", _IGNORED))
    measure, font = ImageDraw.Draw(Image.new("RGB", (1, 1))), _font()
    places, x, y = [], 4, 6
    for text, colour in shown:
        needed = 22 + math.ceil(measure.textlength(text, font=font)) + 16
        if x + needed > width and x > 4:
            x, y = 4, y + 22
        places.append((x, y, text, colour))
        x += needed
    strip = Image.new("RGB", (width, y + 24), _PAPER)
    draw = ImageDraw.Draw(strip)
    for x, y, text, colour in places:
        draw.rectangle((x, y + 1, x + 15, y + 16), fill=colour, outline=_INK)
        draw.text((x + 21, y), text, fill=_INK, font=font)
    return np.array(strip)
