"""Cross-validation: folds that are deterministic, stratified by class presence, and keep groups together."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
from annotated_types import Ge

from pspnet_lightning.data.datasets import SegmentationDataset, Subset

Source = Callable[[str], SegmentationDataset]


class FoldSource:
    """Another source's training split as ``folds`` folds: fold number ``fold`` validates, the others train.

    The test split is the other source's. ``group`` is a regular expression searched in an image's name; its first
    bracket, or all of it, names the group (video sequence, patient) that no fold may divide.

    Raises ValueError for a fold that is not there, a pattern that does not match a name, and fewer groups than folds.
    """

    def __init__(
        self, source: Source, *, folds: int, fold: Annotated[int, Ge(0)], seed: int = 0, group: str | None = None
    ) -> None:
        if folds < 2:
            raise ValueError(f"data.folds={folds} must be 0 (none) or at least 2")
        if not 0 <= fold < folds:
            raise ValueError(f"data.fold={fold} must lie in 0..{folds - 1}, as data.folds={folds}")
        self.source = source
        self.folds = folds
        self.fold = fold
        self.seed = seed
        self.group = group
        self._assigned: tuple[SegmentationDataset, np.ndarray] | None = None

    def __call__(self, split: str) -> SegmentationDataset:
        if split == "test":
            return self.source("test")
        if self._assigned is None:
            data = self.source("train")
            names = [data.name(index) for index in range(len(data))]
            groups = None if self.group is None else group_names(names, self.group)
            self._assigned = data, stratified_folds(presence(data), self.folds, seed=self.seed, groups=groups)
        data, assigned = self._assigned
        chosen = assigned == self.fold if split == "val" else assigned != self.fold
        return Subset(data, np.flatnonzero(chosen).tolist())


def presence(data: SegmentationDataset) -> np.ndarray:
    """Which classes occur in which image, bool (N, K); reads every label once."""
    found = np.zeros((len(data), data.spec.num_classes), bool)
    for index in range(len(data)):
        counts = np.bincount(data.label(index).reshape(-1), minlength=256)
        found[index] = counts[: data.spec.num_classes] > 0
    return found


def group_names(names: Sequence[str], pattern: str) -> list[str]:
    """The group of each name: the first bracket of ``pattern``, or all that it matches."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"data.group={pattern!r} is not a regular expression: {error}") from error
    groups = []
    for name in names:
        match = expression.search(name)
        if match is None:
            raise ValueError(f"data.group={pattern!r} does not match the image {name!r}; every image needs a group")
        groups.append(match[1] if expression.groups else match[0])
    return groups


def shared_groups(one: SegmentationDataset, other: SegmentationDataset, pattern: str) -> list[str]:
    """The groups that have images in both splits, in order."""
    found = [set(group_names([data.name(index) for index in range(len(data))], pattern)) for data in (one, other)]
    return sorted(found[0] & found[1])


def stratified_folds(
    found: np.ndarray, folds: int, *, seed: int = 0, groups: Sequence[str] | None = None
) -> np.ndarray:
    """The fold 0..folds-1 of each image, int64 (N,).

    Iterative stratification (Sechidis et al. 2011) on ``found``, bool (N, K), with whole groups as its items: the
    rarest class left is dealt out first, to the fold that wants it most. Ties are broken by ``seed``.
    """
    labels = np.arange(len(found)) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(labels.max(initial=-1)) + 1
    if count < folds:
        kind = "images" if groups is None else "groups"
        raise ValueError(f"data.folds={folds}: there are only {count} {kind} to deal out")
    # Of each group: images that hold each class, and, in the last column, images.
    content = np.zeros((count, found.shape[1] + 1))
    np.add.at(content, labels, np.column_stack([found, np.ones(len(found))]))
    wanted = np.tile(content.sum(0) / folds, (folds, 1))
    fold_of = np.full(count, -1)
    generator = np.random.default_rng(seed)
    noise = generator.random((count, folds))
    order = generator.permutation(count)
    while (fold_of < 0).any():
        free = order[fold_of[order] < 0]
        remaining = (content[free, :-1] > 0).sum(0)
        # Without any class left only the number of images counts.
        column = int(np.where(remaining > 0, remaining, np.inf).argmin()) if remaining.any() else -1
        holding = free[content[free, column] > 0]
        # Big groups first: what is left over can still even them out.
        for item in sorted(holding, key=lambda one: -content[one, column]):
            # An empty fold must not stay empty while groups are few.
            empty = [fold for fold in range(folds) if not (fold_of == fold).any()]
            left = int((fold_of < 0).sum())
            candidates = empty if empty and left <= len(empty) else range(folds)
            best = max(candidates, key=lambda fold: (wanted[fold, column], wanted[fold, -1], noise[item, fold]))
            fold_of[item] = best
            wanted[best] -= content[item]
    return fold_of[labels]
