"""What an evaluation leaves: results.json, each image's counts and scores, the worst and the best, by whoever it is."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pspnet_lightning.data import DataSpec, SegmentationDataset
from pspnet_lightning.data.folds import group_names
from pspnet_lightning.disk import despite_full_disk, replacing
from pspnet_lightning.metrics import (
    ImageCounts,
    ScoreIntervals,
    SegmentationScores,
    all_conventions,
    class_statistics,
    score_intervals,
    scores,
)
from pspnet_lightning.runs.fields import cell
from pspnet_lightning.runs.image_counts import NAME, write_image_counts
from pspnet_lightning.runs.json_files import write_json
from pspnet_lightning.visualize import (
    SheetItem,
    class_table,
    confusion_picture,
    confusion_shares,
    plot_reliability,
    prediction_sheet,
    save_png,
)

# Columns of the table of images.
_TIMES, _LABELLED, _IGNORED, _MIOU, _AACC = range(5)


class Counted(NamedTuple):
    """The pairs (truth x K + prediction) that occur in one image, and their pixels."""

    name: str
    pairs: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, name: str, confusion: Tensor) -> Counted:
        """From a confusion matrix (K, K)."""
        flat = confusion.flatten().cpu().numpy()
        found = np.flatnonzero(flat)
        return cls(name, found, flat[found])


def packed(images: dict[int, Counted]) -> dict[str, np.ndarray]:
    """The counts of this process as arrays, for the others; see ``unpacked``."""
    found = list(images.values())
    return {
        "index": np.array(list(images), np.int64),
        "names": np.array([image.name for image in found], np.str_),
        "ends": np.cumsum([len(image.pairs) for image in found], dtype=np.int64),
        "pairs": np.concatenate([np.empty(0, np.int64), *(image.pairs for image in found)]),
        "counts": np.concatenate([np.empty(0, np.int64), *(image.counts for image in found)]),
    }


def unpacked(arrays: Mapping[str, np.ndarray]) -> dict[int, Counted]:
    """What ``packed`` made arrays of."""
    pairs, counts = (np.split(arrays[key], arrays["ends"][:-1]) for key in ("pairs", "counts"))
    return {
        int(index): Counted(str(name), own, pixels)
        for index, name, own, pixels in zip(arrays["index"], arrays["names"], pairs, counts, strict=False)
    }


def image_counts(images: dict[int, Counted], classes: Sequence[str], group: str | None) -> ImageCounts:
    """The counts by their number in the data set; ``group`` as in ``FoldSource``."""
    ordered = [images[index] for index in sorted(images)]
    names = [image.name for image in ordered]
    groups = () if group is None else group_names(names, group)
    return ImageCounts.of_pairs(names, [(image.pairs, image.counts) for image in ordered], classes, groups)


def write_results(
    folder: Path, split: str, spec: DataSpec, confusion: Tensor, counts: ImageCounts, details: dict[str, Any]
) -> tuple[SegmentationScores, ScoreIntervals]:
    """``results.json``, ``images.npz``, ``confusion.png``, ``reliability.png``; prints the table of classes.

    ``confusion`` int64 (K, K) is of the whole split, ``details`` what ``results.json`` holds besides the scores.
    """
    result, intervals = scores(confusion), score_intervals(counts)
    content = {
        "split": split,
        "data": spec.name,
        **result.to_dict(),
        **class_statistics(confusion),
        "classes": list(spec.classes),
        "palette": [list(colour) for colour in spec.palette],
        "conventions": all_conventions(confusion),
        "confusion": confusion.tolist(),
        "intervals": intervals.to_dict(),
        **details,
    }
    write_json(content, folder / "results.json")
    with despite_full_disk(folder / NAME):
        write_image_counts(counts, folder)
    save_png(confusion_picture(confusion_shares(confusion.numpy()), spec.classes), folder / "confusion.png")
    if "calibration" in details:
        plot_reliability(details["calibration"], spec.classes, folder / "reliability.png")
    from rich import get_console  # the bar's own: above it, not into it

    get_console().print(class_table(result, spec.classes, intervals))
    return result, intervals


class Kept(NamedTuple):
    """An image whose prediction may be shown."""

    miou: float
    number: int  # in the data set
    prediction: np.ndarray


class ImageScores:
    """Each image's own mIoU and aAcc, and ``pictures`` images with the lowest and the highest mIoU.

    ``table`` float64 (N, 5) can be added up over processes, ``kept`` handed to another's ``keep``.
    """

    def __init__(self, data: SegmentationDataset, pictures: int) -> None:
        if pictures < 0:
            raise ValueError(f"evaluation.pictures={pictures} must be at least 0")
        self.data = data
        self.pictures = pictures
        self.table = torch.zeros(len(data), 5, dtype=torch.float64)
        self._worst: list[Kept] = []
        self._best: list[Kept] = []

    def add(self, index: int, confusion: Tensor, prediction: Tensor) -> None:
        """One image: its matrix (K, K) and label map (H, W)."""
        result = scores(confusion)
        labelled = int(confusion.sum())
        self.table[index] += torch.tensor(
            [1, labelled, prediction.numel() - labelled, np.nan_to_num(result.miou), np.nan_to_num(result.aacc)]
        )
        if labelled and self.pictures:
            self.keep([Kept(result.miou, index, prediction.to(torch.uint8).cpu().numpy())])

    @property
    def kept(self) -> list[Kept]:
        return [*self._worst, *self._best]

    def keep(self, items: Sequence[Kept]) -> None:
        """Candidates for the sheets; those that are there already are passed over."""
        for kept in items:
            if not any(kept.number == own.number for own in self._worst):
                self._worst = sorted([*self._worst, kept], key=lambda one: (one.miou, one.number))[: self.pictures]
            if not any(kept.number == own.number for own in self._best):
                self._best = sorted([*self._best, kept], key=lambda one: (-one.miou, one.number))[: self.pictures]

    def check(self) -> None:
        """Raises RuntimeError where an image was counted more than once."""
        twice = (self.table[:, _TIMES] > 1).nonzero().flatten().tolist()
        if twice:
            raise RuntimeError(f"images were counted more than once: {[self.data.name(index) for index in twice]}")

    def details(self) -> dict[str, Any]:
        """For results.json: how much was counted, the worst and the best."""
        counts = self.table.sum(0)
        return {
            "counts": {
                "images": int(counts[_TIMES]),
                "pixels": int(counts[_LABELLED]),
                "ignored_pixels": int(counts[_IGNORED]),
            },
            **{
                name: [
                    {
                        "name": self.data.name(kept.number),
                        "miou": kept.miou,
                        "aacc": float(self.table[kept.number, _AACC]),
                    }
                    for kept in chosen
                ]
                for name, chosen in (("worst", self._worst), ("best", self._best))
            },
        }

    def write(self, folder: Path) -> None:
        """``images.csv``, ``worst.png`` and ``best.png``."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["name", "miou", "aacc", "pixels", "ignored_pixels"])
        for index, row in enumerate(self.table.tolist()):
            if row[_TIMES]:
                # An image without any labelled pixel has no score.
                values = [f"{row[column]:.6f}" if row[_LABELLED] else "" for column in (_MIOU, _AACC)]
                writer.writerow([cell(self.data.name(index)), *values, int(row[_LABELLED]), int(row[_IGNORED])])
        with replacing(folder / "images.csv") as part:
            part.write_text(text.getvalue())
        for name, chosen in (("worst", self._worst), ("best", self._best)):
            if chosen:
                sheet = prediction_sheet([self._item(kept) for kept in chosen], self.data.spec)
                save_png(sheet, folder / f"{name}.png")

    def _item(self, kept: Kept) -> SheetItem:
        image, label = self.data.read(kept.number)
        name = f"{Path(self.data.name(kept.number)).name}   mIoU {100 * kept.miou:.1f} %,"
        return SheetItem(image, label, kept.prediction, name)
