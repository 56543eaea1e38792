"""Curves of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pspnet_lightning.disk import replacing


def plot_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss, validation scores and learning rate over steps, from the rows of a ``metrics.csv``."""
    from matplotlib.figure import (
        Figure,
    )  # takes a second to import, and a training run may end without a picture

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    panels = (
        ("loss", {"train/loss": "training", "val/loss": "validation"}),
        ("validation", {"val/miou": "mIoU", "val/macc": "mAcc", "val/aacc": "aAcc"}),
        ("learning rate", {"lr/backbone": "backbone", "lr/head": "head"}),
    )
    for axes, (title, series) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for key, label in series.items():
            points = [(float(row["step"]), float(row[key])) for row in rows if row.get(key) not in (None, "")]
            if points:
                x, y = zip(*points, strict=True)
                axes.plot(x, y, label=label, marker="o" if len(points) < 30 else None, markersize=3, linewidth=1.2)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.25)
        if axes.lines:
            axes.legend(frameon=False)
        if title == "validation":
            axes.set_ylim(0, 1)
    save_figure(figure, path)


def plot_reliability(found: Mapping[str, Any], classes: Sequence[str], path: Path) -> None:
    """Accuracy over confidence of all pixels and of each class, at most 24, from the ``calibration`` of results.json.

    On the diagonal probabilities are what they say. Bars are as dark as their share of the pixels.
    """
    from matplotlib.figure import Figure

    most = sorted(range(len(classes)), key=lambda index: -sum(found["bins_of_classes"][index]["pixels"]))[:24]
    panels = [("all pixels", found["bins"], found["ece"])]
    panels += [(classes[i], found["bins_of_classes"][i], found["ece_of_classes"][i]) for i in sorted(most)]
    columns = min(5, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.3 * columns, 2.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (name, bins, error) in zip(grid, panels, strict=False):
        count, total = len(bins["pixels"]), max(1, sum(bins["pixels"]))
        for place, (pixels, accuracy) in enumerate(zip(bins["pixels"], bins["accuracy"], strict=True)):
            if pixels:
                shade = 0.25 + 0.75 * min(1.0, 4 * pixels / total)
                axes.bar((place + 0.5) / count, accuracy, 0.9 / count, color="#2a6fbb", alpha=shade)
        axes.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle="--")
        said = f"ECE {100 * error:.1f} %" if sum(bins["pixels"]) else "never predicted"
        axes.set_title(f"{name}\n{said}", fontsize=9)
        axes.set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axes.tick_params(labelsize=7)
    for axes in list(grid):
        axes.set_visible(False)
    figure.supxlabel("confidence", fontsize=9)
    figure.supylabel("share that is right", fontsize=9)
    save_figure(figure, path)


def save_figure(figure: Any, path: Path, *, trim: bool = False) -> None:
    """Writes a matplotlib figure beside the target and renames; ``trim`` cuts off empty margins."""
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=110, bbox_inches="tight" if trim else None)
