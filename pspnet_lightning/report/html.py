"""The report as one HTML file: style, charts and pictures are in it, and nothing is asked of a network or a script."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from pspnet_lightning.metrics import Interval
from pspnet_lightning.metrics.intervals import LEVEL
from pspnet_lightning.report.charts import colour_of, line_chart, strip
from pspnet_lightning.report.content import Content, Series
from pspnet_lightning.report.tables import comparison_words, gigabytes, job_facts, spent
from pspnet_lightning.report.verdict import as_score, headline, method, verdict
from pspnet_lightning.runs import Group

# Points of IoU at which the heat map's colour is full, at least: smaller ranges are noise, and should look like it.
_FULL = 5.0
_UP, _DOWN = (0, 114, 178), (213, 94, 0)  # told apart by colour-blind eyes too
_CURVES = {"val/loss": "validation loss", "train/loss": "training loss"}


def html_report(content: Content) -> str:
    """The whole page."""
    environment = Environment(
        loader=PackageLoader("pspnet_lightning.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["id"] = id
    return environment.get_template("page.html").render(
        c=content,
        headline=headline(content),
        verdict=verdict(content),
        charts=_charts(content),
        legend=_legend(content),
        strips=_strips(content),
        heat=_heat(content),
        pictures=_pictures(content),
        picture_classes=_picture_classes(content),
        score=lambda value: as_score(content, value),
        comparison=lambda group: comparison_words(content, group),
        method=method(content),
        facts=lambda job: job_facts(content, job),
        spent=spent,
        gigabytes=gigabytes,
        on_device=any(job_facts(content, job).device_bytes for job in content.jobs),
        total=spent(sum(job.seconds or 0.0 for job in content.jobs)),
        value=_value,
    )


def _value(group: Group, repetition: tuple[str, ...]) -> float | None:
    return group.by_repetition().get(repetition)


def _charts(content: Content) -> list[tuple[str, Markup]]:
    scale = content.scaled(1.0) or 1.0
    return [
        (name, line_chart(series, name, scale if name == content.metric_name else 1.0))
        for name, series in _curves(content).items()
    ]


def _curves(content: Content) -> dict[str, list[Series]]:
    """The series of each chart by its title; charts without any are left out."""
    metric = content.metric if "/" in content.metric else f"val/{content.metric}"
    wanted = {**_CURVES, metric: content.metric_name}
    found = {name: content.curves(key) for key, name in sorted(wanted.items(), key=lambda item: item[0] != metric)}
    return {name: series for name, series in found.items() if series}


def _legend(content: Content) -> list[tuple[str, str]]:
    """(style, name) of each line; those without a colour of their own share one entry."""
    lines = {item.rank: item for series in _curves(content).values() for item in series}
    styled = [(colour_of(lines[rank]), lines[rank].label) for rank in sorted(lines)]
    own = [pair for pair in styled if pair[0] != "cx"]
    rest = len(styled) - len(own)
    return own + ([("cx", f"{rest} further")] if rest else [])


def _strips(content: Content) -> dict[int, Markup]:
    values = [value for group in content.groups for value in group.values]
    if len(content.groups) < 2 or not values:
        return {}
    edges = [min(values), max(values)]
    for group in content.groups:
        if group.mean is not None and group.std is not None:
            edges += [group.mean - group.std, group.mean + group.std]
    return {
        id(group): strip(group.values, group.mean, group.std, min(edges), max(edges), content.name(group))
        for group in content.groups
        if group.mean is not None
    }


def _heat(content: Content) -> list[dict[str, Any]]:
    """Rows of the class table: each cell's number, and its colour by the difference to the reference's."""
    columns = len(content.scored)
    partner = [_reference_column(content, group) for group in content.scored]
    rows = []
    for row in content.classes:
        differences = []
        for index, own in enumerate(row.iou):
            other = partner[index]
            base = None if other is None else row.iou[other]
            differences.append(None if own is None or base is None or other == index else own - base)
        rows.append((row, differences))
    tests = [content.class_differences.get(id(group), []) for group in content.scored]
    largest = max([_FULL, *(abs(d) for _, differences in rows for d in differences if d is not None)])
    shown_rows = []
    for index, (row, differences) in enumerate(rows):
        cells = []
        for iou, change, tested in zip(row.iou, differences, tests, strict=True):
            if columns == 1 and iou is not None:
                style = _tint(_UP, iou / 100)
            elif change is not None:
                style = _tint(_UP if change > 0 else _DOWN, abs(change) / largest)
            else:
                style = ""
            cells.append(
                {
                    "iou": "absent" if iou is None else f"{iou:.1f}",
                    "change": "" if change is None else f"{change:+.1f}",
                    "style": style,
                    "bounds": _bounds(tested[index][0]) if change is not None and tested else "",
                    "shown": change is not None and bool(tested) and tested[index][1] <= LEVEL,
                }
            )
        shown_rows.append({"name": row.name, "cells": cells})
    return shown_rows


def _bounds(item: Interval) -> str:
    return "" if item.low != item.low else f"95 %: {100 * item.low:+.1f} to {100 * item.high:+.1f}"


def _reference_column(content: Content, group: Group) -> int | None:
    found = content.comparisons.get(id(group))
    if found is None:
        return None
    return next(index for index, other in enumerate(content.scored) if other is found.difference.baseline)


def _tint(colour: tuple[int, int, int], share: float) -> str:
    return f"background: rgba({colour[0]}, {colour[1]}, {colour[2]}, {0.45 * share:.3f})"


def _pictures(content: Content) -> list[dict[str, Any]]:
    """Rows of (caption, data URI); the settings in their order, those without a sheet left out."""
    rows = []
    for row in content.pictures:
        cells = [("image", _jpeg(row.image)), ("truth", _png(row.truth))]
        for group in content.groups:
            if id(group) in row.predictions:
                name = "prediction" if content.single else content.name(group)
                cells.append((name, _png(row.predictions[id(group)])))
        rows.append({"name": "/".join(row.name.replace("\\", "/").split("/")[-2:]), "cells": cells})
    return rows


def _picture_classes(content: Content) -> list[tuple[str, str]]:
    """(name, CSS colour) of the classes that the pictures show."""
    maps = [part for row in content.pictures for part in (row.truth, *row.predictions.values())]
    if not maps:
        return []
    present = {tuple(colour) for part in maps for colour in np.unique(part.reshape(-1, 3), axis=0).tolist()}
    return [
        (name, f"rgb({colour[0]}, {colour[1]}, {colour[2]})")
        for name, colour in content.palette.items()
        if colour in present
    ]


def _jpeg(pixels: np.ndarray) -> str:
    return _uri(pixels, "JPEG", quality=88)


def _png(pixels: np.ndarray) -> str:
    return _uri(pixels, "PNG", optimize=True)


def _uri(pixels: np.ndarray, kind: str, **options: Any) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
