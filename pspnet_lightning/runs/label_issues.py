"""Regions whose label is most likely wrong, by predictions of networks that have not seen it.

Confident learning (Northcutt, Jiang & Chuang, JAIR 2021), made for regions: a network's own errors lie along outlines
and are thin, a wrong label covers a region.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from pspnet_lightning.metrics import Answer

_SQUARE = np.ones((3, 3), bool)


class Region(NamedTuple):
    """Connected pixels of one label for which one other class is more likely."""

    image: int
    given: int
    suggested: int
    top: int
    left: int
    mask: np.ndarray  # bool (h, w)
    confidence: float  # the mean probability of the suggested class in the region's core
    given_probability: float
    weight: float  # pixels, each by how much more likely the suggested class is

    @property
    def pixels(self) -> int:
        return int(self.mask.sum())

    @property
    def window(self) -> tuple[slice, slice]:
        """Where ``mask`` lies in the image."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


class LabelIssues:
    """Collects regions image by image; ``regions`` answers them, the most likely wrong ones first.

    What two erosions by 3 x 3 leave of a region is its core: by an outline no network is sure. Regions of fewer than
    ``smallest`` pixels, and those without a core, do not count.
    """

    def __init__(self, classes: int, ignore_index: int, smallest: int = 64) -> None:
        self.classes, self.ignore_index, self.smallest = classes, ignore_index, smallest
        self._found: list[Region] = []
        # Of the pixels of each label: how many, and the sum of that class's probability.
        self._pixels, self._own = np.zeros(classes), np.zeros(classes)

    def add(self, index: int, answer: Answer) -> None:
        """One image; the probabilities are of networks that were not trained on it."""
        probabilities, label = answer.probabilities, answer.label
        assert probabilities is not None
        valid = label != self.ignore_index
        safe = np.where(valid, label, 0).astype(np.int64)
        given = np.take_along_axis(probabilities, safe[None], 0)[0]
        self._pixels += np.bincount(label[valid], minlength=self.classes)
        self._own += np.bincount(label[valid], given[valid], minlength=self.classes)
        best = answer.prediction.astype(np.int64)
        likely = np.take_along_axis(probabilities, best[None], 0)[0]
        differs = valid & (best != safe)
        pairs = np.where(differs, safe * self.classes + best, -1)
        for pair in np.unique(pairs[differs]).tolist():
            label_there, suggested = divmod(int(pair), self.classes)
            parts, _ = ndimage.label(pairs == pair, _SQUARE)
            for number, window in enumerate(ndimage.find_objects(parts), start=1):
                mask = parts[window] == number
                if mask.sum() < self.smallest:
                    continue
                core = ndimage.binary_erosion(mask, _SQUARE, iterations=2)
                if core.any():
                    own, other = given[window], likely[window]
                    self._found.append(
                        Region(
                            index,
                            label_there,
                            suggested,
                            window[0].start,
                            window[1].start,
                            mask,
                            float(other[core].mean(dtype=np.float64)),
                            float(own[core].mean(dtype=np.float64)),
                            float((other - own)[core].sum()),
                        )
                    )

    @property
    def thresholds(self) -> np.ndarray:
        """How sure the networks are, on average, of pixels that have this label: float64 (K,)."""
        return self._own / np.maximum(self._pixels, 1)

    def regions(self) -> list[Region]:
        """Those whose suggested class is as likely as where it is the label."""
        thresholds = self.thresholds - 1e-9  # sums of equal numbers differ in their last bits
        kept = [region for region in self._found if region.confidence >= thresholds[region.suggested]]
        return sorted(kept, key=lambda region: -region.weight)
