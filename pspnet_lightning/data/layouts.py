"""How a user's own files lie: folders or patterns, and how they become splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from pspnet_lightning.data.folds import group_names
from pspnet_lightning.data.pairing import Pair, UnpairedError, listing, pair_files, read_stems
from pspnet_lightning.data.patterns import pair_by_patterns, proposal


class Layout(Protocol):
    """Where images and labels are."""

    base: Path
    # First label file -> those of further annotators.
    annotators: dict[Path, tuple[Path, ...]]

    def split(self, name: str) -> list[Pair] | None:
        """The pairs of a split that the layout itself names; None where it names none."""

    def all(self, *, every_image: bool) -> list[Pair]:
        """All pairs. With ``every_image`` an image without label is an error."""


class Folders:
    """Two folders whose files have the same stems, perhaps in a folder for each split."""

    def __init__(self, base: Path, images: str, masks: str) -> None:
        self.base, self.images, self.masks = base, images, masks
        self.annotators: dict[Path, tuple[Path, ...]] = {}

    def split(self, name: str) -> list[Pair] | None:
        base, images, masks = self.base, self.images, self.masks
        for image_folder, mask_folder in (
            (base / name / images, base / name / masks),
            (base / images / name, base / masks / name),
        ):
            if image_folder.is_dir():
                return self._pairs(image_folder, mask_folder)
        if (base / "train" / images).is_dir() or (base / images / "train").is_dir():
            raise FileNotFoundError(
                f"data.root={str(base)!r} has a train folder but none for {name}: make "
                f"{str(base / name / images)!r}, or give lists with data.train and data.val"
            )
        return None

    def all(self, *, every_image: bool) -> list[Pair]:
        return self._pairs(self.base / self.images, self.base / self.masks, every_image=every_image)

    def _pairs(self, images: Path, masks: Path, *, every_image: bool = True) -> list[Pair]:
        try:
            return pair_files(images, masks, every_image=every_image)
        except UnpairedError as error:
            raise ValueError(f"{error}. {proposal(self.base, error.images)}") from error


class Patterns:
    """Two patterns; see ``patterns``."""

    def __init__(self, base: Path, images: str, labels: list[str]) -> None:
        self.base, self.images, self.labels = base, images, labels
        self.annotators: dict[Path, tuple[Path, ...]] = {}

    def split(self, name: str) -> list[Pair] | None:
        return self._pairs(name) if "{split}" in self.images else None

    def all(self, *, every_image: bool) -> list[Pair]:
        return self._pairs("all", every_image=every_image)

    def _pairs(self, split: str, *, every_image: bool = True) -> list[Pair]:
        found = pair_by_patterns(self.base, self.images, self.labels, split, every_image=every_image)
        self.annotators.update({labels[0]: labels[1:] for _, labels in found if len(labels) > 1})
        return [(image, labels[0]) for image, labels in found]


@dataclass(frozen=True)
class Division:
    """How pairs become splits: by ``lists`` of stems, by the layout's own folders, or by a fraction of them."""

    lists: Mapping[str, str | None]
    val_fraction: float | None
    seed: int
    group: str | None = field(default=None)

    def part(self, layout: Layout, split: str) -> list[Pair]:
        """The pairs of a split. Raises ValueError and FileNotFoundError where there is no such split."""
        if self.lists["train"] is not None or self.lists["val"] is not None:
            name = self.lists[split]
            if name is None:
                raise ValueError(f"data.{split} is not given: name the text file of the {split} split's stems")
            return _listed(layout.all(every_image=False), layout.base / name)
        if (named := layout.split(split)) is not None:
            return named
        if split == "test":
            raise ValueError("data.test is not given, and a split by fraction has no test part")
        pairs = layout.all(every_image=True)
        if self.val_fraction is None:
            if split == "val":
                raise ValueError("data.val_fraction=null: all images train, there is no validation split; give a share")
            return pairs
        chosen = self._validates(pairs, self.val_fraction)
        return [pair for pair, validates in zip(pairs, chosen, strict=True) if validates == (split == "val")]

    def _validates(self, pairs: list[Pair], fraction: float) -> np.ndarray:
        """Which pairs validate, bool (N,): of the groups, in a drawn order, those that make up the fraction best."""
        if not 0 < fraction < 1:
            raise ValueError(f"data.val_fraction={fraction} must lie between 0 and 1")
        names = [str(image) for image, _ in pairs]
        labels = range(len(pairs)) if self.group is None else group_names(names, self.group)
        member = np.unique(np.array(labels), return_inverse=True)[1]
        sizes = np.bincount(member)
        order = np.random.default_rng(self.seed).permutation(len(sizes))
        count = int(np.abs(sizes[order].cumsum() - round(len(pairs) * fraction)).argmin()) + 1
        if not round(len(pairs) * fraction) or count == len(sizes):
            kind = "images" if self.group is None else "groups"
            raise ValueError(
                f"data.val_fraction={fraction} of {len(sizes)} {kind} leaves one split empty; give another fraction"
            )
        return np.isin(member, order[:count])


def _listed(pairs: list[Pair], file: Path) -> list[Pair]:
    by_stem = {pair[0].stem: pair for pair in pairs}
    stems = [Path(word).stem for word in read_stems(file)]
    unknown = [stem for stem in stems if stem not in by_stem]
    if unknown:
        raise ValueError(f"list {str(file)!r}: {len(unknown)} stems have no image with a mask: {listing(unknown)}")
    return [by_stem[stem] for stem in stems]
