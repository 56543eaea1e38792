"""Looking a data set through: what is in it, what is broken, and what will spoil a training run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pspnet_lightning.data.datasets import Progress, SegmentationDataset, sample_indices, silent
from pspnet_lightning.data.pixels import PixelError


@dataclass
class Inspection:
    """What ``inspect_split`` found. Pixels and images are per class, int64 (K,); mean and std per channel."""

    split: str
    images: int
    read: int
    sizes: Counter[tuple[int, int]]
    pixels: np.ndarray
    images_with: np.ndarray
    ignored: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    broken: list[tuple[str, str]] = field(default_factory=list)
    not_finite: int = 0  # pixels of broken images that are NaN or infinite

    def absent(self, classes: tuple[str, ...]) -> list[str]:
        """Classes without a pixel in what was read."""
        return [name for name, count in zip(classes, self.pixels.tolist(), strict=True) if count == 0]

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, for JSON; sizes as "width x height"."""
        return {
            "split": self.split,
            "images": self.images,
            "read": self.read,
            "sizes": {f"{width} x {height}": count for (height, width), count in self.sizes.most_common()},
            "pixels": self.pixels.tolist(),
            "images_with": self.images_with.tolist(),
            "ignored": self.ignored,
            "not_finite": self.not_finite,
            "mean": list(self.mean),
            "std": list(self.std),
            "broken": [{"file": name, "reason": reason} for name, reason in self.broken],
        }


def inspect_split(
    data: SegmentationDataset,
    split: str,
    *,
    limit: int | None = None,
    threads: int = 4,
    progress: Progress = silent,
) -> Inspection:
    """Reads a split, or ``limit`` pairs spread over it, with ``threads`` threads; broken pairs are collected."""
    indices = list(sample_indices(len(data), limit or len(data)))
    classes, channels = data.spec.num_classes, len(data.spec.mean)
    result = Inspection(
        split, len(data), 0, Counter(), np.zeros(classes, np.int64), np.zeros(classes, np.int64), 0, (), ()
    )
    count, total, squares = 0, np.zeros(channels), np.zeros(channels)
    for name, found in progress(_read_all(data, indices, threads), len(indices)):
        if isinstance(found, Exception):
            result.broken.append((name, str(found)))
            result.not_finite += found.count if isinstance(found, PixelError) else 0
            continue
        size, counts, pixels, image_total, image_squares = found
        result.read += 1
        result.sizes[size] += 1
        result.pixels += counts[:classes]
        result.images_with += counts[:classes] > 0
        result.ignored += int(counts[classes:].sum())
        count, total, squares = count + pixels, total + image_total, squares + image_squares
    if count:
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        result.mean = tuple(round(float(value), 3) for value in mean)
        result.std = tuple(round(float(value), 3) for value in std)
    return result


def _read_all(data: SegmentationDataset, indices: list[int], threads: int) -> Iterator[tuple[str, Any]]:
    def look(index: int) -> tuple[str, Any]:
        try:
            image, label = data.read(index)
        except (OSError, ValueError) as error:
            return data.name(index), error
        values = image.reshape(-1, image.shape[2])
        if values.dtype == np.uint8:
            # Sums by histogram: exact, and faster than converting every pixel.
            histograms = [np.bincount(values[:, channel], minlength=256) for channel in range(values.shape[1])]
            levels = np.arange(256, dtype=np.float64)
            total = np.array([histogram @ levels for histogram in histograms])
            squares = np.array([histogram @ levels**2 for histogram in histograms])
        else:
            wide = values.astype(np.float64)
            total, squares = wide.sum(0), (wide**2).sum(0)
        counts = np.bincount(label.reshape(-1), minlength=256)
        return data.name(index), (label.shape, counts, len(values), total, squares)

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(look, indices)


def label_warnings(data: SegmentationDataset, *, limit: int = 64) -> list[str]:
    """What a sample of a training split's labels says against it, with remedies; no image is read."""
    spec = data.spec
    counts = np.zeros(256, np.int64)
    indices = list(sample_indices(len(data), limit))
    for index in indices:
        counts += np.bincount(data.label(index).reshape(-1), minlength=256)
    present = counts[: spec.num_classes] > 0
    labelled = int(counts[: spec.num_classes].sum())
    of = f"{len(indices)} of {len(data)} training labels"
    if labelled == 0:
        raise ValueError(f"not one labelled pixel in {of} of {spec.name}: all are ignored. Is the label map right?")
    warnings = []
    # Not all of the others: of 150 classes a sample shows some two thirds. The first is rarely the rarest.
    if not present[0] and present[1:].mean() > 0.5 and spec.label_map is None:
        warnings.append(
            f"class 0 ({spec.classes[0]}) is in none of {of}, {int(present.sum())} of the "
            f"{spec.num_classes - 1} others are: do the values begin at 1? Then shift them with data.label_map, as "
            f"ADE20K's are ({{0: 255, 1: 0, 2: 1, ...}})"
        )
    missing = [name for name, there in zip(spec.classes, present.tolist(), strict=True) if not there]
    if missing and len(indices) == len(data):
        warnings.append(
            f"{len(missing)} classes are in no training label and cannot be learnt: {', '.join(missing[:10])}"
            f"{', ...' if len(missing) > 10 else ''}"
        )
    elif missing and len(missing) <= spec.num_classes // 2:
        warnings.append(f"not seen in {of}: {', '.join(missing[:10])}{', ...' if len(missing) > 10 else ''}")
    share = 1 - labelled / int(counts.sum())
    if share > 0.5:
        warnings.append(f"{share:.0%} of the pixels in {of} are ignored; is the label map right?")
    return warnings
