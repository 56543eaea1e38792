"""Tables of what context does, for the screen."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from pspnet_lightning.explain.context import ContextResult
from pspnet_lightning.visualize.tables import percent


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
        table = Table(title=f"mIoU {percent(result.scores.miou)}, and its change without a source, in points")
        rows = [("mean", percent(result.scores.miou), [item.miou - result.scores.miou for item in result.without])]
        for label, name in enumerate(classes):
            iou = result.scores.iou[label]
            rows.append((name, percent(iou), [item.iou[label] - iou for item in result.without]))
        first, form = "IoU %", "{:+.2f}"
    table.add_column("class")
    for heading in (first, *result.sources):
        table.add_column(heading, justify="right")
    for number, (name, value, shares) in enumerate(rows):
        table.add_row(
            escape(name), value, *("-" if math.isnan(share) else form.format(100 * share) for share in shares)
        )
        if number == 0:
            table.add_section()
    return table
