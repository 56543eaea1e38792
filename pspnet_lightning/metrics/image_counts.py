"""The confusion matrix of every image of a split, sparse: what intervals and comparisons are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Parts:
    """What IoU, recall and precision need of a confusion matrix; float64 (..., K) each."""

    right: np.ndarray
    labelled: np.ndarray
    predicted: np.ndarray

    def resampled(self, weights: np.ndarray) -> Parts:
        """The sums (draws, K) under weights (draws, units) of these (units, K)."""
        return Parts(*(weights @ part for part in (self.right, self.labelled, self.predicted)))

    def total(self) -> Parts:
        """The sum over the first axis."""
        return Parts(*(part.sum(0) for part in (self.right, self.labelled, self.predicted)))


@dataclass(frozen=True)
class ImageCounts:
    """Confusion matrices of N images over K classes: of each only the pairs that occur.

    Image ``i`` has ``counts[a:b]`` pixels of the pairs ``pairs[a:b]`` (truth x K + prediction) with ``a, b =
    offsets[i:i + 2]``. ``groups`` names what images belong together (a sequence, a patient), one for each image, and
    is empty where that is not known.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    offsets: np.ndarray  # int64 (N + 1,)
    pairs: np.ndarray  # uint32
    counts: np.ndarray  # uint32; uint64 above four billion pixels
    groups: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        matrices: Iterable[np.ndarray],
        classes: Sequence[str],
        groups: Sequence[str] = (),
    ) -> ImageCounts:
        """From one matrix (K, K) for each name; rows are the truth."""
        found = []
        for matrix in matrices:
            flat = np.asarray(matrix).reshape(-1)
            pairs = np.flatnonzero(flat)
            found.append((pairs, flat[pairs]))
        return cls.of_pairs(names, found, classes, groups)

    @classmethod
    def of_pairs(
        cls,
        names: Sequence[str],
        images: Sequence[tuple[np.ndarray, np.ndarray]],
        classes: Sequence[str],
        groups: Sequence[str] = (),
    ) -> ImageCounts:
        """From the pairs that occur in each image and their pixels."""
        offsets = np.cumsum([0, *(len(pairs) for pairs, _ in images)])
        pairs = np.concatenate([np.empty(0, np.int64), *(pairs for pairs, _ in images)])
        counts = np.concatenate([np.empty(0, np.int64), *(counts for _, counts in images)])
        kind = np.uint32 if counts.max(initial=0) < 1 << 32 else np.uint64
        return cls(tuple(names), tuple(classes), offsets, pairs.astype(np.uint32), counts.astype(kind), tuple(groups))

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def parts(self) -> Parts:
        """Right, labelled and predicted pixels of each image and class, (N, K)."""
        count = len(self.classes)
        image = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        truth, prediction = np.divmod(self.pairs.astype(np.int64), count)
        right, labelled, predicted = (np.zeros((len(self), count)) for _ in range(3))
        np.add.at(labelled, (image, truth), self.counts)
        np.add.at(predicted, (image, prediction), self.counts)
        same = truth == prediction
        np.add.at(right, (image[same], truth[same]), self.counts[same])
        return Parts(right, labelled, predicted)

    def confusion(self) -> np.ndarray:
        """The sum over all images, int64 (K, K)."""
        count = len(self.classes)
        total = np.zeros(count * count, np.int64)
        np.add.at(total, self.pairs, self.counts.astype(np.int64))
        return total.reshape(count, count)

    def units(self) -> tuple[tuple[str, ...], Parts]:
        """What is resampled: the groups by name, summed, or, where none are known, the images."""
        if not self.groups:
            return self.names, self.parts
        names, index = np.unique(self.groups, return_inverse=True)
        return tuple(map(str, names)), _summed(self.parts, index, len(names))

    def chosen(self, indices: Sequence[int]) -> ImageCounts:
        """These images, in this order."""
        ranges = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in indices]
        where = np.concatenate([*ranges, np.empty(0, np.int64)]).astype(np.int64)
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in ranges])]).astype(np.int64)
        return ImageCounts(
            tuple(self.names[i] for i in indices),
            self.classes,
            offsets,
            self.pairs[where],
            self.counts[where],
            tuple(self.groups[i] for i in indices) if self.groups else (),
        )


def aligned(first: ImageCounts, second: ImageCounts) -> ImageCounts:
    """``second``'s images in the order of ``first``'s; of names that differ in their folders only, too.

    Raises ValueError where classes, images or their labels differ: such scores cannot be paired.
    """
    if first.classes != second.classes:
        raise ValueError(f"classes differ: {_few(first.classes)} here, {_few(second.classes)} there")
    own, other = first.names, second.names
    if set(own) != set(other):
        own, other = without_shared_folders(own), without_shared_folders(other)
    missing = sorted(set(own) - set(other)) + sorted(set(other) - set(own))
    if missing:
        raise ValueError(
            f"images differ: {len(own)} here, {len(other)} there, and {len(missing)} are in one of them only "
            f"({_few(missing)}); a paired comparison needs the same split"
        )
    for names in (own, other):
        if len(set(names)) != len(names):
            raise ValueError(f"image names are not unique ({_few(sorted({n for n in names if names.count(n) > 1}))})")
    place = {name: index for index, name in enumerate(other)}
    found = second.chosen([place[name] for name in own])
    differ = np.flatnonzero((first.parts.labelled != found.parts.labelled).any(1))
    if len(differ):
        raise ValueError(
            f"the labels of {len(differ)} images differ between the two ({_few([own[i] for i in differ])}): they were "
            f"scored against other label files, or with another ignored value or size"
        )
    return found


def without_shared_folders(names: Sequence[str]) -> tuple[str, ...]:
    """Names without the folders that all of them begin with."""
    parts = [name.replace("\\", "/").split("/") for name in names]
    shared = 0
    while parts and all(len(own) > shared + 1 and own[shared] == parts[0][shared] for own in parts):
        shared += 1
    return tuple("/".join(own[shared:]) for own in parts)


def _summed(parts: Parts, index: np.ndarray, count: int) -> Parts:
    found = []
    for part in (parts.right, parts.labelled, parts.predicted):
        total = np.zeros((count, part.shape[1]))
        np.add.at(total, index, part)
        found.append(total)
    return Parts(*found)


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:3])) + (", ..." if len(names) > 3 else "")
