"""Labels made of several files: annotators by majority, and masks of regions that are ignored."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from pspnet_lightning.data.encodings import LabelReader
from pspnet_lightning.data.pairing import IMAGE_TAILS, find_images, listing
from pspnet_lightning.data.reading import read_any
from pspnet_lightning.data.specs import DataSpec

Where = Literal["nonzero", "zero"]
# A JPEG's black is not 0 everywhere.
_LOSSY = (".jpg", ".jpeg", ".webp")


class CombinedLabels:
    """A label reader: the label of a file, of further annotators' files too, without the pixels that a mask names.

    A pixel has the class that more than half of the annotators give it; where there is none, it is ignored.
    ``annotators`` and ``masks`` map the first label file to the others. ``where`` says which pixels of a mask are
    ignored: those that are not zero (clouds), or those that are (outside a field of view).
    """

    def __init__(
        self,
        read: LabelReader,
        annotators: Mapping[Path, Sequence[Path]],
        masks: Mapping[Path, Path],
        where: Where = "nonzero",
    ) -> None:
        self.read, self.where = read, where
        self._others = {path: tuple(others) for path, others in annotators.items()}
        self._masks = dict(masks)

    def __call__(self, path: Path, spec: DataSpec) -> np.ndarray:
        label = self.read(path, spec)
        others = [(other, self.read(other, spec)) for other in self._others.get(path, ())]
        for other, found in others:
            _same_size(path, label, other, found)
        if others:
            label = majority([label, *(found for _, found in others)], spec.ignore_index)
        if (mask := self._masks.get(path)) is not None:
            values = read_any(mask)
            _same_size(path, label, mask, values)
            set_ = (values > (127 if mask.suffix.lower() in _LOSSY else 0)).any(-1)
            label[set_ if self.where == "nonzero" else ~set_] = spec.ignore_index
        return label

    def files(self, path: Path) -> tuple[Path, ...]:
        """The further files that the label of this one is made of."""
        mask = self._masks.get(path)
        return (*self._others.get(path, ()), *(() if mask is None else (mask,)))


def majority(labels: Sequence[np.ndarray], ignore_index: int) -> np.ndarray:
    """What more than half of the label maps say, uint8 (H, W); ``ignore_index`` where there is no such class."""
    stacked = np.stack(labels)
    result = np.full(stacked.shape[1:], ignore_index, np.uint8)
    for value in np.unique(stacked):
        result[(stacked == value).sum(0) * 2 > len(labels)] = value
    return result


def find_masks(folder: Path, images: Sequence[Path]) -> list[Path]:
    """The mask of each image: of the same stem, or of a name that goes on after it (``21_training_mask.gif``).

    Raises FileNotFoundError for the folder, and ValueError listing images without mask or with several.
    """
    found = find_images(folder, IMAGE_TAILS)
    masks, wrong = [], []
    for image in images:
        named = [path for path in found if path.stem == image.stem]
        named = named or [path for path in found if re.match(re.escape(image.stem) + r"[^A-Za-z0-9]", path.stem)]
        if len(named) == 1:
            masks += named
        else:
            wrong.append(f"{image.name} ({len(named)})")
    if wrong:
        raise ValueError(
            f"data.ignore_masks: {len(wrong)} of {len(images)} images do not have one mask below {str(folder)!r}, "
            f"whose name is the image's stem or begins with it: {listing(wrong)}"
        )
    return masks


def _same_size(path: Path, label: np.ndarray, other: Path, found: np.ndarray) -> None:
    if label.shape[:2] != found.shape[:2]:
        raise ValueError(
            f"sizes differ: label {str(path)!r} is {label.shape[1]} x {label.shape[0]}, {str(other)!r} is "
            f"{found.shape[1]} x {found.shape[0]} (width x height)"
        )
