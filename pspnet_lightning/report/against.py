"""Two networks on the same images: is the one better, in words, in a table, and as plain types."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from pspnet_lightning.metrics import Interval, ScoreIntervals, units_needed
from pspnet_lightning.metrics.intervals import FEW, LEVEL
from pspnet_lightning.report.verdict import p_value
from pspnet_lightning.runs.differences import holm

_NAMES = {"miou": "mIoU", "macc": "mAcc", "aacc": "aAcc"}


def against_lines(found: ScoreIntervals, other: str) -> list[str]:
    """A sentence for each mean: direction, size, interval, p, and whether it is shown."""
    lines = [f"{_NAMES[name]}: {_sentence(item, found, other)}." for name, item in found.means.items()]
    return [*lines, "This is about these two trained networks: another seed of either may turn out differently."]


def _sentence(item: Interval, found: ScoreIntervals, other: str) -> str:
    direction = "better than" if item.value > 0 else "worse than" if item.value < 0 else "the same as"
    size = f"{100 * abs(item.value):.2f} points " if item.value else ""
    units = f"{found.units} {_unit(found)}"
    if math.isnan(item.low):
        return f"{size}{direction} {other} over {units}: too few for an interval"
    between = f"[{100 * item.low:+.2f}, {100 * item.high:+.2f}]"
    return f"{size}{direction} {other} {between} over {units}, p {p_value(item.p)}: {_status(item, found)}"


def _status(item: Interval, found: ScoreIntervals) -> str:
    if item.p <= LEVEL:
        return "shown"
    needed = units_needed(item, found.units)
    more = "more would hardly show it" if needed is None else f"about {max(needed, found.units + 1)} would"
    return f"not shown with {found.units} {_unit(found)}; {more}"


def against_table(found: ScoreIntervals, classes: Sequence[str]) -> Table:
    """Each class's difference of IoU with its interval and its p after Holm's adjustment over the classes."""
    table = Table(title="difference of IoU, points")
    table.add_column("class")
    for heading in (_unit(found), "difference", "95 %", "p (Holm)"):
        table.add_column(heading, justify="right")
    table.add_column("shown")
    for name, item, adjusted, holding in zip(classes, found.iou, _adjusted(found), found.holding, strict=True):
        if math.isnan(item.value):
            table.add_row(escape(name), str(holding), "absent", "", "", "")
            continue
        between = "" if math.isnan(item.low) else f"[{100 * item.low:+.2f}, {100 * item.high:+.2f}]"
        p = "" if math.isnan(adjusted) else p_value(adjusted)
        shown = "shown" if adjusted <= LEVEL else "not shown"
        few = f", few {_unit(found)}" if holding < FEW else ""
        table.add_row(escape(name), str(holding), f"{100 * item.value:+.2f}", between, p, shown + few)
    return table


def against_content(found: ScoreIntervals, classes: Sequence[str]) -> dict[str, Any]:
    """The same as plain types, shares of 1, for results.json."""
    return {
        "units": found.units,
        "unit": "group" if found.grouped else "image",
        **{
            name: {**item.to_dict(), "p": item.p, "shown": item.p <= LEVEL, "units_needed": _needed(item, found)}
            for name, item in found.means.items()
        },
        "iou": [
            {"class": name, **item.to_dict(), "p": item.p, "p_adjusted": adjusted, "shown": adjusted <= LEVEL}
            for name, item, adjusted in zip(classes, found.iou, _adjusted(found), strict=True)
        ],
    }


def _needed(item: Interval, found: ScoreIntervals) -> int | None:
    return None if item.p <= LEVEL else units_needed(item, found.units)


def _adjusted(found: ScoreIntervals) -> list[float]:
    """p of each class after Holm's adjustment over those that have one; not-a-number for the others."""
    known = [index for index, item in enumerate(found.iou) if not math.isnan(item.p)]
    adjusted = dict(zip(known, holm([found.iou[index].p for index in known]), strict=True))
    return [adjusted.get(index, math.nan) for index in range(len(found.iou))]


def _unit(found: ScoreIntervals) -> str:
    return "groups" if found.grouped else "images"
