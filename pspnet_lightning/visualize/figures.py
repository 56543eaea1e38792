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


def save_figure(figure: Any, path: Path, *, trim: bool = False) -> None:
    """Writes a matplotlib figure beside the target and renames; ``trim`` cuts off empty margins."""
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=110, bbox_inches="tight" if trim else None)
