"""How far outlines lie from each other: HD95, and the share of them within a tolerance (surface Dice)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from pspnet_lightning.metrics.image_score import Answer

_CROSS = ndimage.generate_binary_structure(2, 1)


def outline(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask, bool (H, W), that have a neighbour outside, up, down, left or right; edges are outside."""
    return np.asarray(mask & ~ndimage.binary_erosion(mask, _CROSS))


def outline_distances(
    one: np.ndarray, other: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)
) -> tuple[np.ndarray, np.ndarray]:
    """From each pixel of one mask's outline the distance to the other's, and the other way round; neither is empty."""
    own, others = outline(one), outline(other)
    to_own, to_others = (ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in (own, others))
    return to_others[own], to_own[others]


@dataclass
class SurfaceScores:
    """HD95 and surface Dice of each class, image by image, then the mean over the images.

    HD95: the larger of both directions' 95th percentiles, as MONAI takes it; over the images that have the class in
    label and prediction. Surface Dice (Nikolov et al. 2018), of pixels: the share of both outlines within
    ``tolerance`` of the other one; 0 where a class is in one of the two only. Distances are in the unit of ``spacing``,
    a pixel's height and width. Ignored pixels belong to no class.
    """

    classes: int
    ignore_index: int
    tolerance: float = 2.0
    spacing: tuple[float, float] = (1.0, 1.0)
    images: dict[int, np.ndarray] = field(default_factory=dict)  # (2, K): HD95, surface Dice
    needs_probabilities = False

    def add(self, index: int, answer: Answer) -> None:
        label = answer.label
        prediction = np.where(label != self.ignore_index, answer.prediction, self.ignore_index)
        found = np.full((2, self.classes), np.nan)
        for number in set(np.unique(label).tolist()) | set(np.unique(prediction).tolist()):
            if number == self.ignore_index:
                continue
            own, other = label == number, prediction == number
            if not own.any() or not other.any():
                found[1, number] = 0
                continue
            both = outline_distances(own, other, self.spacing)
            found[0, number] = max(float(np.percentile(one, 95)) for one in both)
            near = sum(int((one <= self.tolerance).sum()) for one in both)
            found[1, number] = near / sum(map(len, both))
        self.images[index] = found

    def arrays(self) -> dict[str, np.ndarray]:
        values = np.array(list(self.images.values())).reshape(-1, 2, self.classes)
        return {"index": np.array(list(self.images), np.int64), "values": values}

    def gather(self, parts: Sequence[Mapping[str, np.ndarray]]) -> None:
        for part in parts:
            self.images.update(zip(part["index"].tolist(), part["values"], strict=True))

    def results(self) -> dict[str, Any]:
        values = np.array([self.images[index] for index in sorted(self.images)]).reshape(-1, 2, self.classes)
        known = np.isfinite(values)
        with np.errstate(invalid="ignore"):
            means = np.where(known, values, 0).sum(0) / known.sum(0)
        hd95, dice = (row[np.isfinite(row)] for row in means)
        return {
            "surface": {
                "tolerance": self.tolerance,
                "spacing": list(self.spacing),
                "hd95": float(hd95.mean()) if len(hd95) else float("nan"),
                "dice": float(dice.mean()) if len(dice) else float("nan"),
                "hd95_of_classes": means[0].tolist(),
                "dice_of_classes": means[1].tolist(),
                "images_with_class": known[:, 1].sum(0).tolist(),
                "in_one_of_both_only": (known[:, 1] & ~known[:, 0]).sum(0).tolist(),
            }
        }
