"""Tables for the screen."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from pspnet_lightning.context import ContextResult
from pspnet_lightning.metrics import SegmentationScores


def class_table(result: SegmentationScores, classes: Sequence[str]) -> Table:
    """IoU, accuracy and share of pixels of each class, and the means, in per cent."""
    table = Table(title=f"mIoU {_percent(result.miou)}   (absent classes: rule {result.rule!r})")
    table.add_column("class")
    for heading in ("IoU %", "accuracy %", "pixels %"):
        table.add_column(heading, justify="right")
    total = max(sum(result.pixels), 1)
    for name, iou, accuracy, pixels in zip(classes, result.iou, result.accuracy, result.pixels, strict=True):
        table.add_row(name, _percent(iou), _percent(accuracy), f"{100 * pixels / total:.2f}")
    table.add_section()
    table.add_row("mean", _percent(result.miou), _percent(result.macc), "")
    table.add_row("all pixels", "", _percent(result.aacc), "100.00")
    return table


def context_table(result: ContextResult, classes: Sequence[str]) -> Table:
    """IoU of each class and its change without each source, in points; without labels, the pixels that flip."""
    if result.scores is None or result.without is None:
        table = Table(title="pixels that take another class without a source, %")
        rows = [("all", "", result.all_flips)]
        for label in result.pixels.nonzero().flatten().tolist():
            share = 100 * float(result.pixels[label] / result.pixels.sum())
            rows.append((classes[label], f"{share:.2f}", result.flips[label].tolist()))
        first, form = "pixels %", "{:.2f}"
    else:
        table = Table(title=f"mIoU {_percent(result.scores.miou)}, and its change without a source, in points")
        rows = [("mean", _percent(result.scores.miou), [item.miou - result.scores.miou for item in result.without])]
        for label, name in enumerate(classes):
            iou = result.scores.iou[label]
            rows.append((name, _percent(iou), [item.iou[label] - iou for item in result.without]))
        first, form = "IoU %", "{:+.2f}"
    table.add_column("class")
    for heading in (first, *result.sources):
        table.add_column(heading, justify="right")
    for number, (name, value, shares) in enumerate(rows):
        table.add_row(name, value, *("-" if math.isnan(share) else form.format(100 * share) for share in shares))
        if number == 0:
            table.add_section()
    return table


def _percent(value: float) -> str:
    return "absent" if math.isnan(value) else f"{100 * value:.2f}"
