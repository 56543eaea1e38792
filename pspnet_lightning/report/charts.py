"""Charts as inline SVG: no script, no font, no file; their colours are the page's, in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup, escape

from pspnet_lightning.report.content import Series

# Settings beyond the first so many are drawn in grey: no one tells more colours apart.
COLOURS = 8
_WIDTH, _HEIGHT = 380, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 34

_Place = Callable[[float, float], tuple[float, float]]


def line_chart(series: Sequence[Series], title: str, scale: float = 1.0) -> Markup:
    """Values by epoch: a line for each setting's mean, faint ones for its jobs. ``scale`` multiplies the values."""
    points = [(x, scale * y) for item in series for curve in (item.mean, *item.jobs) for x, y in curve.items()]
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    ticks = nice_ticks(min(y for _, y in points), max(y for _, y in points))
    low_y, high_y = ticks[0], ticks[-1]
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        across = 0.5 if high_x == low_x else (x - low_x) / (high_x - low_x)
        return _LEFT + across * inner_width, _TOP + (1 - (y - low_y) / (high_y - low_y)) * inner_height

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)} by epoch">']
    for tick in ticks:
        y = place(low_x, tick)[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for epoch in whole_ticks(low_x, high_x):
        x = place(epoch, low_y)[0]
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{epoch + 1}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 3}" text-anchor="end">epoch</text>')
    for item in reversed(series):
        colour = colour_of(item)
        if len(item.jobs) > 1:
            parts += [_line(curve, scale, place, f"{colour} faint", item.label) for curve in item.jobs]
        parts.append(_line(item.mean, scale, place, colour, item.label))
    return Markup("".join([*parts, "</svg>"]))


def colour_of(series: Series) -> str:
    """The style of a setting's lines: the same in every chart."""
    return f"c{series.rank}" if series.rank < COLOURS else "cx"


def _line(curve: Mapping[int, float], scale: float, place: _Place, style: str, label: str) -> str:
    places = [place(x, scale * curve[x]) for x in sorted(curve)]
    if len(places) == 1:
        return f'<circle class="dot {style}" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3"/>'
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return f'<polyline class="{style}" points="{text}"><title>{escape(label)}</title></polyline>'


def strip(values: Sequence[float], mean: float, std: float | None, low: float, high: float, name: str) -> Markup:
    """A row's runs as dots, their mean as a bar, one standard deviation as a line, from ``low`` to ``high``."""
    width, height, margin = 180, 18, 6

    def place(value: float) -> float:
        share = 0.5 if high == low else (min(max(value, low), high) - low) / (high - low)
        return margin + share * (width - 2 * margin)

    parts = [f'<svg class="strip" viewBox="0 0 {width} {height}" role="img" aria-label="runs of {escape(name)}">']
    parts.append(f'<line class="grid" x1="0" x2="{width}" y1="9" y2="9"/>')
    if std:
        parts.append(f'<line class="spread" x1="{place(mean - std):.1f}" x2="{place(mean + std):.1f}" y1="9" y2="9"/>')
    parts += [f'<circle cx="{place(value):.1f}" cy="9" r="3.2"/>' for value in values]
    parts.append(f'<line class="mean" x1="{place(mean):.1f}" x2="{place(mean):.1f}" y1="2" y2="16"/>')
    return Markup("".join([*parts, "</svg>"]))


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round values that enclose ``low`` and ``high``; two at least, rising."""
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):  # no round values lie between them
        low, high = low - 0.5 * max(abs(low), 1e-6), high + 0.5 * max(abs(high), 1e-6)
    rough = (high - low) / (count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def whole_ticks(low: int, high: int, count: int = 8) -> list[int]:
    """At most ``count`` whole numbers from ``low`` to ``high``, evenly apart, the first among them."""
    step = max(1, math.ceil((high - low + 1) / count))
    return list(range(low, high + 1, step))
