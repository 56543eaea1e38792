"""A sweep's folder as runs leave it, without training: for the tests of reports."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import yaml

from pspnet_lightning.data import DataSpec, default_palette
from pspnet_lightning.visualize import SheetItem, cell_notes, prediction_sheet, save_png


def make_spec(count: int) -> DataSpec:
    return DataSpec(
        name="made", classes=tuple(f"class {number}" for number in range(count)), palette=default_palette(count)
    )


def write_run(
    folder: Path,
    overrides: list[str],
    iou: list[float | None] | None,
    *,
    folds: int = 0,
    error: str | None = None,
    losses: tuple[float, ...] = (1.5, 0.9, 0.7),
    spec: DataSpec | None = None,
) -> None:
    """A run that finished with these IoUs, whose curve rises to their mean; with ``iou`` None one that failed."""
    spec = spec or make_spec(len(iou) if iou else 3)
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    (folder / ".hydra" / "config.yaml").write_text("seed: 0\n")
    config = {"seed": 0, "data": {"folds": folds, "fold": 0, "epochs": 3}, "model": {"bins": [1, 2, 3, 6], "depth": 50}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    miou = None if iou is None else float(np.mean([value for value in iou if value is not None]))
    record = {
        "status": "finished" if iou else "failed",
        "error": error,
        "overrides": overrides,
        "seconds": 61.5,
        "attempts": 1,
        "objective": {"name": "val/miou", "value": miou},
        "peak_memory_bytes": {"host": 2_500_000_000, "device": None},
        "git": {"commit": "0123456789abcdef"},
        "versions": {"torch": "2.14.1"},
    }
    (folder / "run.json").write_text(json.dumps(record))
    if iou is None:
        return
    results = {"split": "val", "miou": miou, "macc": miou, "aacc": miou, "iou": iou, "classes": list(spec.classes)}
    (folder / "results.json").write_text(json.dumps({**results, "palette": [list(c) for c in spec.palette]}))
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", "images_per_second", "train/loss", "val/loss", "val/miou"])
        writer.writeheader()
        for epoch, loss in enumerate(losses):
            writer.writerow({"epoch": epoch, "images_per_second": 70, "train/loss": loss})
            score = (miou or 0) * (epoch + 1) / len(losses)
            writer.writerow({"epoch": epoch, "val/loss": loss + 0.1, "val/miou": score})
    generator = np.random.default_rng(0)
    items = []
    for number in range(3):
        label = np.kron(generator.integers(0, spec.num_classes, (3, 4)), np.ones((16, 16))).astype(np.uint8)
        items.append(
            SheetItem(
                image=np.repeat(label[..., None] * 9, 3, axis=2),
                label=label,
                prediction=np.full_like(label, len(overrides[0]) % spec.num_classes),
                name=f"some/where/image {number}.png",
            )
        )
    save_png(prediction_sheet(items, spec), folder / "validation.png", notes=cell_notes(items))


# mIoU: bins [1,2,3,6], [1], []; columns: folds.
SCORES = np.array([[0.55, 0.48, 0.70], [0.52, 0.47, 0.64], [0.30, 0.22, 0.41]])


def write_sweep(folder: Path) -> Path:
    """Three settings of three folds each, and a job that failed."""
    number = 0
    for bins, row in zip(("[1, 2, 3, 6]", "[1]", "[]"), SCORES, strict=True):
        for fold, miou in enumerate(row):
            words = [f"model.bins={bins}", f"data.fold={fold}", "data.folds=3", f"hydra.sweep.dir={folder}"]
            write_run(folder / str(number), words, [miou - 0.1, miou + 0.1, None], folds=3)
            number += 1
    words = ["model.bins=[0]", "data.fold=0", "data.folds=3"]
    write_run(folder / str(number), words, None, folds=3, error="ValueError: <b>0</b> is no bin & never was")
    return folder
