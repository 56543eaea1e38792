"""Augmentation from two images: CutMix, ClassMix, copy-paste."""

from __future__ import annotations

import cv2
import numpy as np

KINDS = ("cutmix", "classmix", "copy_paste")


class Mixer:
    """Pastes a part of a second training image, transformed like the first, with a probability.

    Args:
        kind: "cutmix" (Yun et al. 2019): a rectangle whose share of the area is uniform; "classmix" (Olsson et
            al. 2021): half of the second image's classes; "copy_paste" (Ghiasi et al. 2021): one connected thing
            of ``classes``, all classes when empty.
        probability: of mixing at all, 0..1.
        classes: label indices that copy_paste may take.

    Raises ValueError for another kind or probability.
    """

    def __init__(
        self, kind: str, *, probability: float = 0.5, classes: tuple[int, ...] = (), ignore_index: int = 255
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"augment.mix={kind!r} must be one of {', '.join(KINDS)}, or null")
        if not 0 <= probability <= 1:
            raise ValueError(f"augment.mix_probability={probability} must lie in 0..1")
        self.kind = kind
        self.probability = probability
        self.classes = tuple(classes)
        self.ignore_index = ignore_index

    def partner(self, length: int, rng: np.random.Generator) -> int | None:
        """The second image's index, or None to leave the first alone."""
        mix, position = rng.random(2)
        return min(int(position * length), length - 1) if mix < self.probability else None

    def __call__(
        self,
        image: np.ndarray,
        label: np.ndarray,
        other_image: np.ndarray,
        other_label: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Crops of equal size, (H, W, C) and (H, W); the first one's arrays are changed."""
        mask = self._mask(other_label, rng)
        image[mask] = other_image[mask]
        label[mask] = other_label[mask]
        return image, label

    def _mask(self, label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        mask = np.zeros(label.shape, bool)
        if self.kind == "cutmix":
            side, y, x = np.sqrt(rng.random()), rng.random(), rng.random()
            height, width = round(label.shape[0] * side), round(label.shape[1] * side)
            top, left = int(y * (label.shape[0] - height + 1)), int(x * (label.shape[1] - width + 1))
            mask[top : top + height, left : left + width] = True
            return mask
        present = [value for value in np.unique(label).tolist() if value != self.ignore_index]
        if self.kind == "classmix":
            chosen = rng.permutation(present)[: (len(present) + 1) // 2]
            return np.isin(label, chosen)
        candidates = [value for value in present if not self.classes or value in self.classes]
        if not candidates:
            return mask
        return _one_thing(label == candidates[int(rng.random() * len(candidates))], rng)


def _one_thing(region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of the connected parts of a region."""
    count, parts = cv2.connectedComponents(region.astype(np.uint8))
    return parts == 1 + int(rng.random() * (count - 1))
