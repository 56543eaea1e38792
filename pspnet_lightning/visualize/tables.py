"""Tables for the screen."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from pspnet_lightning.metrics import SegmentationScores


def class_table(result: SegmentationScores, classes: Sequence[str]) -> Table:
    """IoU, accuracy and share of pixels of each class, and the means, in per cent."""
    table = Table(title=f"mIoU {percent(result.miou)}   (absent classes: rule {result.rule!r})")
    table.add_column("class")
    for heading in ("IoU %", "accuracy %", "pixels %"):
        table.add_column(heading, justify="right")
    total = max(sum(result.pixels), 1)
    for name, iou, accuracy, pixels in zip(classes, result.iou, result.accuracy, result.pixels, strict=True):
        table.add_row(escape(name), percent(iou), percent(accuracy), f"{100 * pixels / total:.2f}")
    table.add_section()
    table.add_row("mean", percent(result.miou), percent(result.macc), "")
    table.add_row("all pixels", "", percent(result.aacc), "100.00")
    return table


def percent(value: float) -> str:
    """A share of 0..1 in per cent with two digits; not-a-number is a class that does not occur."""
    return "absent" if math.isnan(value) else f"{100 * value:.2f}"
