"""Two networks on the same images: is the one better, in words, in a table, and as plain types."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import get_console
from rich.markup import escape
from rich.table import Table

from pspnet_lightning.metrics import (
    ImageCounts,
    Interval,
    ScoreIntervals,
    SegmentationScores,
    paired_intervals,
    units_needed,
)
from pspnet_lightning.metrics.intervals import FEW, LEVEL
from pspnet_lightning.report.verdict import p_value
from pspnet_lightning.runs.differences import holm
from pspnet_lightning.runs.image_counts import read_image_counts
from pspnet_lightning.runs.jobs import read_json
from pspnet_lightning.runs.json_files import write_json

_FURTHER = {
    "boundary": {"miou": "Boundary IoU"},
    "surface": {"hd95": "HD95", "dice": "surface Dice"},
    "calibration": {"ece": "expected calibration error"},
    "auc": {"auc": "AUC", "average_precision": "average precision"},
}
_NAMES = {"miou": "mIoU", "macc": "mAcc", "aacc": "aAcc"}


def score_line(result: SegmentationScores, folder: Path) -> str:
    """An evaluation in one line, and one for each further score; what stands in its results.json."""
    results = read_json(folder / "results.json")
    found = results["intervals"]
    low, high = found["miou"]
    between = "" if low is None else f" [{low:.4f}, {high:.4f}]"
    lines = [
        f"mIoU {result.miou:.4f}{between}, mAcc {result.macc:.4f}, aAcc {result.aacc:.4f}; rule {result.rule!r}; in "
        f"brackets 95 % over {found['units']} {found['unit']}s"
    ]
    for name, values in _FURTHER.items():
        shown = [f"{title} {results[name][key]:.4f}" for key, title in values.items() if results.get(name)]
        lines += [", ".join(shown)] if shown else []
    return "\n".join(lines)


def write_comparison(folder: Path, against: str, other: ImageCounts | None, classes: Sequence[str]) -> None:
    """Prints the paired comparison and adds it to results.json. ``other``: None where it was scored just now."""
    own = read_image_counts(folder)
    other = read_image_counts(folder / "against") if other is None else other
    assert own is not None
    assert other is not None
    try:
        found = paired_intervals(own, other)
    except ValueError as error:
        raise ValueError(f"against={against!r} cannot be compared: {error}") from error
    results = read_json(folder / "results.json")
    write_json({**results, "against": {"path": against, **against_content(found, classes)}}, folder / "results.json")
    get_console().print(against_table(found, classes))
    print("\n".join(against_lines(found, against)), flush=True)


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
