"""The review list of an audit: one HTML file that opens offline, a CSV, and the proposed labels as files."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from pspnet_lightning.data import DataSpec, SegmentationDataset
from pspnet_lightning.disk import replacing
from pspnet_lightning.runs.fields import cell, printable
from pspnet_lightning.runs.label_issues import Region
from pspnet_lightning.visualize import as_rgb, colorize, save_png

# Pixels around a region that a picture shows, at least, and the picture's longer side.
_AROUND, _SIDE = 48, 320


class Find(NamedTuple):
    """A region and the image that it lies in."""

    region: Region
    data: SegmentationDataset
    number: int  # in the data set

    @property
    def name(self) -> str:
        return self.data.name(self.number)


def write_audit(
    finds: Sequence[Find], folder: Path, spec: DataSpec, split: str, paths: Mapping[str, Path]
) -> list[Path]:
    """Writes audit.html, audit.csv and ``fix/SPLIT/...``; answers what was written.

    The files below fix/ hold the labels with each listed region as suggested; ``paths`` names them by image.
    """
    environment = Environment(
        loader=PackageLoader("pspnet_lightning.report", "."), autoescape=True, undefined=StrictUndefined
    )
    rows = [_row(number, find, spec, Path("fix", split, paths[find.name])) for number, find in enumerate(finds, 1)]
    page = environment.get_template("audit.html").render(
        data=spec.name, rows=[{**row, **_pictures(find, spec)} for row, find in zip(rows, finds, strict=True)]
    )
    with replacing(folder / "audit.html") as part:
        part.write_text(page)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: cell(row[key]) for key in _COLUMNS} for row in rows)
    with replacing(folder / "audit.csv") as part:
        part.write_text(text.getvalue())
    by_image: dict[str, list[Find]] = {}
    for find in finds:
        by_image.setdefault(find.name, []).append(find)
    for name, own in by_image.items():
        label = own[0].data.label(own[0].number).copy()
        for find in own:
            label[find.region.window][find.region.mask] = find.region.suggested
        target = folder / "fix" / split / paths[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        save_png(label, target, spec.palette)
    return [folder / "audit.html", folder / "audit.csv", *([folder / "fix" / split] if by_image else [])]


_COLUMNS = (
    *("rank", "image", "label", "given", "suggested", "confidence", "given_probability", "pixels"),
    *("left", "top", "right", "bottom", "fix"),
)


def _row(number: int, find: Find, spec: DataSpec, fix: Path) -> dict[str, str | int]:
    region, files = find.region, find.data.files(find.number)
    rows, columns = region.window
    return {
        "rank": number,
        "image": printable(find.name),
        "label": printable(str(files[-1])) if files else "",
        "given": spec.classes[region.given],
        "suggested": spec.classes[region.suggested],
        "confidence": f"{region.confidence:.3f}",
        "given_probability": f"{region.given_probability:.3f}",
        "pixels": region.pixels,
        "left": columns.start,
        "top": rows.start,
        "right": columns.stop,
        "bottom": rows.stop,
        "fix": printable(str(fix)),
    }


def _pictures(find: Find, spec: DataSpec) -> dict[str, str]:
    """The image, the label and the label as suggested, around the region, which is outlined in all of them."""
    image, label = find.data.read(find.number)
    region = find.region
    (rows, columns), (height, width) = region.window, label.shape
    margin = max(_AROUND, (rows.stop - rows.start) // 2, (columns.stop - columns.start) // 2)
    shown = (
        slice(max(0, rows.start - margin), min(height, rows.stop + margin)),
        slice(max(0, columns.start - margin), min(width, columns.stop + margin)),
    )
    mask = np.zeros(label.shape, bool)
    mask[region.window] = region.mask
    suggested = np.where(mask, region.suggested, label).astype(np.uint8)
    return {
        "picture_of_image": _embedded(as_rgb(image)[shown], mask[shown]),
        "picture_of_label": _embedded(colorize(label, spec.palette)[shown], mask[shown]),
        "picture_of_suggestion": _embedded(colorize(suggested, spec.palette)[shown], mask[shown]),
    }


def _embedded(pixels: np.ndarray, mask: np.ndarray) -> str:
    """A data URI of the pixels, enlarged or reduced to one size, with the region's outline."""
    scale = _SIDE / max(mask.shape)
    size = (max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale)))
    picture = cv2.resize(
        np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    )
    large = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    outlines, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.drawContours(picture, outlines, -1, colour, width)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
