"""Pictures of what context does: which scale decided each pixel, what each is worth, how far a pixel sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pspnet_lightning.data.specs import Colour, DataSpec
from pspnet_lightning.explain.context import ContextResult
from pspnet_lightning.explain.contributions import BACKBONE, CONSTANT
from pspnet_lightning.explain.receptive_field import ReceptiveField
from pspnet_lightning.visualize.figures import save_figure
from pspnet_lightning.visualize.sheets import as_rgb, colorize

# Okabe and Ito's colours, which people with any colour vision tell apart: the bins, the coarsest first.
_BINS = ("#D55E00", "#E69F00", "#009E73", "#56B4E9", "#CC79A7", "#0072B2", "#F0E442", "#7F3C8D")
_OTHERS = {BACKBONE: "#4A4A4A", CONSTANT: "#D0D0D0"}
# Orange and purple: the two ends differ for people with any colour vision.
_DIVERGING = "PuOr_r"
_FAINT = 0.1  # logits
_MOST_CLASSES, _MOST_BARS = 24, 12
_DECADES = 4  # of a receptive field's picture


@dataclass(frozen=True)
class ContextItem:
    """One image (H, W, C) and what explains it: arrays as in ``Explanation``, of this image; label (H, W) or None."""

    name: str
    image: np.ndarray
    label: np.ndarray | None
    prediction: np.ndarray
    runner_up: np.ndarray
    margin: np.ndarray
    without: np.ndarray
    result: ContextResult


def source_colours(sources: Sequence[str]) -> list[str]:
    """A colour for each source, and for the constant."""
    names = [*sources, CONSTANT]
    bins = [name for name in names if name not in _OTHERS]
    return [_OTHERS.get(name) or _BINS[bins.index(name) % len(_BINS)] for name in names]


def context_sheet(item: ContextItem, spec: DataSpec, path: Path) -> None:
    """One image: what decided each pixel, each source's share of the margin, and the prediction without each source.

    The rows: image, truth, prediction, the runner-up at each pixel, the source with the largest share of the margin
    between the two, and the bin with the largest share, white where none reaches 0.1 logits; these shares as maps on
    one scale; the prediction with each source removed; the pixels that this flips, in their new class's colour. In
    the corner the mean shares over each predicted class's pixels.
    """
    from matplotlib.colors import SymLogNorm
    from matplotlib.figure import Figure

    sources = item.result.sources
    colours = source_colours(sources)
    columns = max(len(sources) + 1, 6)
    height, width = item.prediction.shape
    cell = 2.3
    figure = Figure(figsize=(cell * columns, 4 * (cell * height / width + 0.3)), layout="compressed")
    grid = figure.subplots(4, columns)
    for axes in grid.flat:
        axes.axis("off")

    def show(row: int, column: int, picture: np.ndarray, title: str, **options: Any) -> Any:
        grid[row, column].set_title(title, fontsize=9)
        return grid[row, column].imshow(picture, interpolation="nearest", **options)

    rgb = as_rgb(item.image)
    cells = [(rgb, "image")]
    if item.label is not None:
        cells.append((colorize(item.label, spec.palette), "truth"))
    cells.append((colorize(item.prediction, spec.palette), "prediction"))
    cells.append((colorize(item.runner_up, spec.palette), "runner-up"))
    table = _colours_of([*colours, "#FFFFFF"])
    cells.append((table[item.margin.argmax(axis=0)], "decided by"))
    bins = item.margin[1:-1]
    if len(bins):
        strongest = np.where(bins.max(axis=0) > _FAINT, 1 + bins.argmax(axis=0), len(sources) + 1)
        cells.append((table[strongest], "strongest bin"))
    for column, (picture, title) in enumerate(cells):
        show(0, column, picture, title)

    # Sky and road are decided by ten logits, a boat by two: a logarithm beyond 1 shows both.
    limit = max(float(np.abs(item.margin).max()), 1.5)
    scale = SymLogNorm(linthresh=1.0, vmin=-limit, vmax=limit)
    for number, name in enumerate((*sources, CONSTANT)):
        shown = show(1, number, item.margin[number], f"share of {name}", cmap=_DIVERGING, norm=scale)
    ticks = sorted({sign * value for value in (0, 1, 2, 5, 10, 20, 50) if value <= limit for sign in (-1, 1)})
    bar = figure.colorbar(shown, ax=grid[1, :], aspect=12, pad=0.01, ticks=ticks, format="%g")
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=7)
    bar.set_label("logits", fontsize=8)

    pale = np.repeat(rgb.mean(axis=2, keepdims=True) * 0.15 + 217, 3, axis=2).astype(np.uint8)
    for number, name in enumerate(sources):
        changed = colorize(item.without[number], spec.palette)
        flipped = item.without[number] != item.prediction
        show(2, number, changed, f"without {name}")
        show(3, number, np.where(flipped[..., None], changed, pale), f"{100 * flipped.mean():.1f} % flip")
    # What follows lies outside the cells and must not push the maps apart.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    _class_bars(grid[3, columns - 1], item.result, spec, colours)
    _legends(grid, item, spec, sources, colours)
    save_figure(figure, path, trim=True)


def _legends(grid: Any, item: ContextItem, spec: DataSpec, sources: Sequence[str], colours: Sequence[str]) -> None:
    """The image's name and the sources' colours above, the classes' below."""
    from matplotlib.patches import Patch

    maps = [item.prediction, item.runner_up, item.without] + ([] if item.label is None else [item.label])
    counts = np.bincount(np.concatenate([values.ravel() for values in maps]), minlength=256)
    occurring = sorted(label for label in np.argsort(-counts)[:_MOST_CLASSES] if counts[label])
    classes = [
        Patch(facecolor=_unit(spec.palette[label]), edgecolor="#555555", label=spec.classes[label])
        for label in occurring
        if label < spec.num_classes
    ]
    if item.label is not None and (item.label == spec.ignore_index).any():
        classes.append(Patch(facecolor="black", edgecolor="#555555", label="no label"))
    scales = [
        Patch(facecolor=colour, edgecolor="#555555", label=name)
        for name, colour in zip((*sources, CONSTANT), colours, strict=True)
    ]
    options: dict[str, Any] = {"frameon": False, "fontsize": 8, "ncols": 12, "handlelength": 1.2, "borderaxespad": 0}
    name = "/".join(Path(item.name).parts[-2:])
    first, last = grid[0, 0], grid[3, 0]
    pixel = 1 / first.get_window_extent().height
    figure = first.figure
    # Artists of the figure count when its margins are trimmed; those of an axes that is off do not.
    figure.text(0, 1 + 52 * pixel, name, fontsize=10, transform=first.transAxes)
    for axes, handles, place, y in (
        (first, scales, "lower left", 1 + 28 * pixel),
        (last, classes, "upper left", -8 * pixel),
    ):
        figure.legend(handles=handles, loc=place, bbox_to_anchor=(0, y), bbox_transform=axes.transAxes, **options)


def _class_bars(corner: Any, result: ContextResult, spec: DataSpec, colours: Sequence[str]) -> None:
    """Of each predicted class the mean share of every source: to the right what speaks for it, to the left against."""
    from matplotlib.ticker import MaxNLocator

    order = np.argsort(-result.pixels.numpy())
    classes = [label for label in order if result.pixels[label]][:_MOST_BARS]
    # Two cells high.
    axes = corner.inset_axes((0.28, 0.08, 0.72, 2.0))
    for row, label in enumerate(classes):
        right, left = 0.0, 0.0
        for number, value in enumerate(result.margin[label].tolist()):
            start = right if value >= 0 else left
            axes.barh(row, value, left=start, height=0.72, color=colours[number], edgecolor="white", linewidth=0.4)
            right, left = (right + value, left) if value >= 0 else (right, left + value)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(classes)), [_clipped(spec.classes[label]) for label in classes], fontsize=7)
    axes.invert_yaxis()
    axes.tick_params(axis="x", labelsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_title("mean shares for and against, logits", fontsize=8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def context_figure(result: ContextResult, spec: DataSpec, path: Path) -> None:
    """What each source is worth over a data set: mIoU and each class's IoU without it, and what decided each class.

    Raises ValueError where the result has no scores, for want of labels.
    """
    if result.scores is None or result.without is None:
        raise ValueError("context_figure: there were no labels, so there is no IoU to lose")
    from matplotlib.figure import Figure

    sources, count = result.sources, spec.num_classes
    names = [f"{name}   {100 * iou:.1f}" for name, iou in zip(spec.classes, result.scores.iou, strict=True)]
    rows = np.array([item.iou for item in result.without]).T * 100 - np.array(result.scores.iou)[:, None] * 100
    means = np.array([item.miou - result.scores.miou for item in result.without]) * 100
    table = np.vstack([means, rows])
    decided = np.vstack([(result.decided * result.pixels[:, None]).nansum(0) / result.pixels.sum(), result.decided])
    side = max(0.28 * (count + 1), 1.5)
    figure = Figure(figsize=(3.2 + 1.05 * (2 * len(sources) + 1), min(side, 40) + 1.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(len(sources), len(sources) + 1))
    # A backbone removed leaves nothing: the scale is that of the bins, if there are any.
    scale = np.abs(table[:, 1:] if len(sources) > 1 else table)
    limit = max(float(np.nanmax(scale, initial=0)), 1.0)
    left.imshow(table, cmap=_DIVERGING, vmin=-limit, vmax=limit, aspect="auto")
    right.imshow(decided * 100, cmap="Purples", vmin=0, vmax=100, aspect="auto")
    small = 8 if count <= 40 else 6
    for axes, values, form in ((left, table, "{:+.1f}"), (right, decided * 100, "{:.0f}")):
        for row, column in np.ndindex(values.shape):
            value = values[row, column]
            dark = abs(value) > 0.6 * (limit if axes is left else 100)
            axes.text(
                column,
                row,
                "-" if np.isnan(value) else form.format(value),
                ha="center",
                va="center",
                fontsize=small,
                color="white" if dark else "black",
                fontweight="bold" if row == 0 else None,
            )
        axes.axhline(0.5, color="black", linewidth=1)
        axes.tick_params(length=0)
    left.set_xticks(range(len(sources)), [f"without\n{name}" for name in sources], fontsize=8)
    right.set_xticks(range(len(sources) + 1), [*sources, CONSTANT], fontsize=8)
    left.set_yticks(range(count + 1), [f"mIoU   {100 * result.scores.miou:.1f}", *names], fontsize=small)
    right.set_yticks(range(count + 1), ["all", *spec.classes], fontsize=small)
    left.set_title("IoU in %, and its change without a source, in points", fontsize=9)
    right.set_title("who decided the pixels of each predicted class, in %", fontsize=9)
    save_figure(figure, path)


def receptive_field_figure(fields: Mapping[str, ReceptiveField], path: Path) -> None:
    """The measured fields side by side, with the theoretical one's bounds and the squares that hold 50 and 95 %."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    height, width = next(iter(fields.values())).field.shape
    figure = Figure(figsize=(4.1 * len(fields) + 0.6, 4.0 * height / width + 1.2), layout="compressed")
    row = figure.subplots(1, len(fields), squeeze=False)[0]
    for axes, (name, found) in zip(row, fields.items(), strict=True):
        # As a share of the largest value, on a logarithmic scale: the tails are what the figure is about.
        values = found.field.numpy() / max(float(found.field.max()), 1e-300)
        shown = axes.imshow(np.log10(np.clip(values, 10.0**-_DECADES, 1)), cmap="magma", vmin=-_DECADES, vmax=0)
        top, bottom, left, right = found.theoretical
        _rectangle(axes, Rectangle, (top, bottom, left, right), "#56B4E9", "-")
        sides = []
        for share, style in ((0.5, ":"), (0.95, "--")):
            side = found.side_holding(share)
            sides.append(f"{100 * share:.0f} % within {side}")
            reach, (y, x) = side // 2, found.centre
            box = (max(y - reach, 0), min(y + reach + 1, height), max(x - reach, 0), min(x + reach + 1, width))
            _rectangle(axes, Rectangle, box, "white", style)
        whole = (top, bottom, left, right) == (0, height, 0, width)
        size = "everything" if whole else f"{bottom - top} px"
        axes.set_title(f"{name}\ntheoretical: {size}; {', '.join(sides)}", fontsize=9)
        axes.tick_params(labelsize=7)
    bar = figure.colorbar(shown, ax=list(row), shrink=0.85, pad=0.01, ticks=range(-_DECADES, 1))
    bar.ax.set_yticklabels([f"$10^{{{power}}}$" for power in range(-_DECADES, 1)], fontsize=7)
    bar.set_label("|gradient|, share of the largest", fontsize=8)
    figure.supxlabel(
        "squares around the centre that hold 50 % (dotted) and 95 % (dashed) of the gradient; blue: theoretical field",
        fontsize=8,
    )
    save_figure(figure, path, trim=True)


def _rectangle(axes: Any, kind: Any, box: tuple[int, int, int, int], colour: str, style: str) -> None:
    top, bottom, left, right = box
    axes.add_patch(
        kind((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor=colour, linestyle=style, lw=1.6)
    )


def _clipped(name: str) -> str:
    return name if len(name) <= 12 else f"{name[:11]}\N{HORIZONTAL ELLIPSIS}"


def _unit(colour: Colour) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def _colours_of(names: Sequence[str]) -> np.ndarray:
    """Hexadecimal names as uint8 (n, 3)."""
    return np.array([[int(name[start : start + 2], 16) for start in (1, 3, 5)] for name in names], np.uint8)
