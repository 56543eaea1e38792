"""Figures of numbers: curves of a run, the confusion matrix."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


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


def confusion_figure(confusion: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """The matrix with each row (truth) normalised to 1; numbers in the cells up to 25 classes."""
    from matplotlib.figure import Figure

    count = len(classes)
    total = confusion.sum(axis=1, keepdims=True)
    share = np.divide(confusion, total, out=np.zeros(confusion.shape), where=total > 0)
    side = min(4 + 0.42 * count, 30)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    font = 9 if count <= 25 else max(3.0, 220 / count)
    axes.set_xticks(range(count), classes, rotation=60, ha="right", rotation_mode="anchor", fontsize=font)
    axes.set_yticks(range(count), classes, fontsize=font)
    axes.set(xlabel="prediction", ylabel="truth", title="share of each true class")
    figure.colorbar(picture, ax=axes, shrink=0.8)
    if count <= 25:
        for row, column in np.argwhere(share >= 0.005):
            value = share[row, column]
            colour = "white" if value > 0.5 else "black"
            axes.text(column, row, f"{value:.2f}".lstrip("0"), ha="center", va="center", color=colour, fontsize=7)
    save_figure(figure, path)


def save_figure(figure: Any, path: Path, *, trim: bool = False) -> None:
    """Writes a matplotlib figure beside the target and renames; ``trim`` cuts off empty margins."""
    part = path.with_name(f".{path.name}.part")
    figure.savefig(part, format="png", dpi=110, bbox_inches="tight" if trim else None)
    os.replace(part, path)
