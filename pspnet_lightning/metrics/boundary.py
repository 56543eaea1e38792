"""How well outlines are met: Boundary IoU (Cheng et al., CVPR 2021) and the mIoU within bands around them (trimap)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from pspnet_lightning.metrics.image_counts import Parts
from pspnet_lightning.metrics.image_score import Answer
from pspnet_lightning.metrics.intervals import interval, iou, miou, resampling_weights

_DRAWS = 2000


def inner_boundary(mask: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a mask, bool (H, W), that lie within ``width`` of its outline; the image's edge is outline too.

    As ``mask_to_boundary`` of bowenc0221/boundary-iou-api: the mask without itself eroded ``width`` times by 3 x 3.
    """
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    # One erosion by a square of 2 width + 1 is the same as ``width`` by 3 x 3.
    eroded = cv2.erode(padded, np.ones((2 * width + 1, 2 * width + 1), np.uint8), borderValue=0)
    return np.asarray(mask & (eroded[1:-1, 1:-1] == 0))


def outline_distance(label: np.ndarray, ignore_index: int) -> np.ndarray:
    """The distance of each pixel's centre from the nearest pixel that touches another class, float32 (H, W).

    Pixels that touch another class have 0; infinity where there is none. What is ignored has no outline.
    """
    touching = np.zeros(label.shape, bool)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = (label[one] != label[other]) & (label[one] != ignore_index) & (label[other] != ignore_index)
        touching[one] |= differ
        touching[other] |= differ
    if not touching.any():
        return np.full(label.shape, np.inf, np.float32)
    return np.asarray(cv2.distanceTransform((~touching).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE))


@dataclass(frozen=True)
class _Image:
    """Of one image: boundary pixels that are common, the label's and the prediction's, (3, K); bands (W, 3, K)."""

    boundary: np.ndarray
    bands: np.ndarray


@dataclass
class BoundaryScores:
    """Boundary IoU and trimap mIoU over a split, image by image.

    ``ratio`` of an image's diagonal is the width of the boundary, at least one pixel (0.02 in the paper); ``widths``
    are those of the bands, in pixels to either side of the outline. Ignored pixels belong to no class, in the
    prediction neither.
    """

    classes: int
    ignore_index: int
    ratio: float = 0.02
    widths: Sequence[int] = (1, 2, 4, 8, 16)
    images: dict[int, _Image] = field(default_factory=dict)
    needs_probabilities = False

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 0.5:
            raise ValueError(
                f"evaluation.boundary={self.ratio} is a share of the image's diagonal and must lie in 0..0.5"
            )
        if any(width < 0 for width in self.widths):
            raise ValueError(f"evaluation.trimap={list(self.widths)} are widths in pixels and must be at least 0")

    def add(self, index: int, answer: Answer) -> None:
        label = answer.label
        valid = label != self.ignore_index
        prediction = np.where(valid, answer.prediction, self.ignore_index)
        width = max(1, round(self.ratio * math.hypot(*label.shape)))
        boundary = np.zeros((3, self.classes))
        for number in np.unique([*np.unique(label), *np.unique(prediction)]):
            if number != self.ignore_index:
                own, other = (inner_boundary(one == number, width) for one in (label, prediction))
                boundary[:, number] = (own & other).sum(), own.sum(), other.sum()
        distance = outline_distance(label, self.ignore_index)
        bands = np.zeros((len(self.widths), 3, self.classes))
        for row, band in enumerate(self.widths):
            inside = valid & (distance <= band)
            own, other = label[inside], prediction[inside]
            for part, values in enumerate((own[own == other], own, other)):
                bands[row, part] = np.bincount(values, minlength=self.classes)[: self.classes]
        self.images[index] = _Image(boundary, bands)

    def arrays(self) -> dict[str, np.ndarray]:
        found = list(self.images.values())
        return {
            "index": np.array(list(self.images), np.int64),
            "boundary": np.array([image.boundary for image in found]).reshape(-1, 3, self.classes),
            "bands": np.array([image.bands for image in found]).reshape(len(found), len(self.widths), 3, self.classes),
        }

    def gather(self, parts: Sequence[Mapping[str, np.ndarray]]) -> None:
        for part in parts:
            for index, boundary, bands in zip(part["index"], part["boundary"], part["bands"], strict=True):
                self.images[int(index)] = _Image(boundary, bands)

    def results(self) -> dict[str, Any]:
        """For results.json: shares of 1; the interval is over images, by the rule of ``metrics.intervals``."""
        images = [self.images[index] for index in sorted(self.images)]
        parts = Parts(*np.moveaxis(np.array([image.boundary for image in images]), 1, 0))
        resampled = parts.resampled(resampling_weights(len(images), _DRAWS))
        found = interval(miou(parts.total()), miou(resampled), len(images))
        bands = np.array([image.bands for image in images]).sum(0)
        return {
            "boundary": {
                "ratio": self.ratio,
                "miou": found.value,
                "interval": [found.low, found.high],
                "iou": iou(parts.total()).tolist(),
            },
            "trimap": {
                "widths": list(self.widths),
                "miou": [float(miou(Parts(*band))) for band in bands],
                "iou": [iou(Parts(*band)).tolist() for band in bands],
            },
        }
