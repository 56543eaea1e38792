"""Tables for the screen."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from pspnet_lightning.metrics import Interval, ScoreIntervals, SegmentationScores


def class_table(result: SegmentationScores, classes: Sequence[str], intervals: ScoreIntervals | None = None) -> Table:
    """IoU, accuracy and share of pixels of each class, and the means, in per cent; 95 % intervals where given."""
    table = Table(title=f"mIoU {percent(result.miou)}   (absent classes: rule {result.rule!r})")
    table.add_column("class")
    heads = ["IoU %", *(["95 %"] if intervals else []), "accuracy %", "pixels %"]
    for heading in heads:
        table.add_column(heading, justify="right")
    total = max(sum(result.pixels), 1)
    for index, name in enumerate(classes):
        between = [bounds(intervals.iou[index])] if intervals else []
        share = f"{100 * result.pixels[index] / total:.2f}"
        table.add_row(escape(name), percent(result.iou[index]), *between, percent(result.accuracy[index]), share)
    table.add_section()
    between = [bounds(intervals.means["miou"])] if intervals else []
    table.add_row("mean", percent(result.miou), *between, percent(result.macc), "")
    table.add_row("all pixels", "", *([""] if intervals else []), percent(result.aacc), "100.00")
    return table


def bounds(item: Interval) -> str:
    """ "61.2 - 70.4": an interval in per cent; empty where there is none."""
    return "" if math.isnan(item.low) else f"{100 * item.low:.1f} - {100 * item.high:.1f}"


def percent(value: float) -> str:
    """A share of 0..1 in per cent with two digits; not-a-number is a class that does not occur."""
    return "absent" if math.isnan(value) else f"{100 * value:.2f}"
