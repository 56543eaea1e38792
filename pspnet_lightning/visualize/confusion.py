"""The confusion matrix as a picture that is drawn in milliseconds, every epoch, for any number of classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_LIGHT, _DARK = np.array((247, 251, 255.0)), np.array((8, 48, 107.0))
_INK, _PAPER, _GRID = (30, 30, 34), (255, 255, 255), (226, 230, 236)
_ABSENT = (238, 238, 238)
# Up to so many classes the cells have room for a number.
NUMBERED = 30


def confusion_shares(confusion: np.ndarray) -> np.ndarray:
    """Counts (K, K) with truth in rows -> shares of each true class, float64; not-a-number where it has no pixel."""
    total = confusion.sum(axis=1, keepdims=True).astype(np.float64)
    return np.divide(confusion, total, out=np.full(confusion.shape, np.nan), where=total > 0)


def confusion_picture(shares: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """``confusion_shares`` in blue, uint8 (H, W, 3): numbers in per cent up to 30 classes, absent classes grey."""
    count = len(classes)
    cell = max(34, 240 // count) if count <= NUMBERED else max(11, 900 // count)
    font = ImageFont.load_default(size=13 if count <= NUMBERED else min(13, cell))
    strips = [_text(name, font) for name in classes]
    margin = max(strip.width for strip in strips) + 14
    side = count * cell
    left, top = margin + 24, 34
    picture = Image.new("RGB", (left + side + 12, top + side + margin + 26), _PAPER)
    draw = ImageDraw.Draw(picture)

    known = np.nan_to_num(shares)
    colours = (_LIGHT + (_DARK - _LIGHT) * known[..., None]).astype(np.uint8)
    colours[np.isnan(shares)] = _ABSENT
    picture.paste(Image.fromarray(np.kron(colours, np.ones((cell, cell, 1), np.uint8))), (left, top))
    if count <= NUMBERED:
        for line in range(count + 1):
            at = line * cell
            draw.line((left, top + at, left + side, top + at), _GRID)
            draw.line((left + at, top, left + at, top + side), _GRID)
        small = ImageFont.load_default(size=12)
        for row, column in np.argwhere(known >= 0.005):
            value = known[row, column]
            place = (left + (column + 0.5) * cell, top + (row + 0.5) * cell)
            draw.text(place, f"{100 * value:.0f}", fill=_PAPER if value > 0.5 else _INK, font=small, anchor="mm")
    for index, strip in enumerate(strips):
        centre = index * cell + cell // 2
        picture.paste(strip, (left - 8 - strip.width, top + centre - strip.height // 2))
        upright = strip.rotate(90, expand=True)
        picture.paste(upright, (left + centre - upright.width // 2, top + side + 8))
    heading = ImageFont.load_default(size=14)
    draw.text((24, 8), "per cent of each true class", fill=_INK, font=heading)
    draw.text((left + side // 2, top + side + margin + 12), "prediction", fill=_INK, font=heading, anchor="mm")
    truth = _text("truth", heading).rotate(90, expand=True)
    picture.paste(truth, (4, top + side // 2 - truth.height // 2))
    return np.array(picture)


def _text(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    box = font.getbbox(text)
    strip = Image.new("RGB", (max(1, round(box[2])), max(1, round(box[3]) + 2)), _PAPER)
    ImageDraw.Draw(strip).text((0, 0), text, fill=_INK, font=font)
    return strip
