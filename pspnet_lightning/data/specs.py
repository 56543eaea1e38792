"""What a data set is, apart from its files: classes, palette, label map, ignored value, channel statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any

import numpy as np

IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of RGB in 0..255
IMAGENET_STD = (58.395, 57.12, 57.375)
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class DataSpec:
    """A data set's classes and how its files encode them.

    ``classes[k]`` and ``palette[k]`` (RGB, 0..255) belong to label k; ``ignore_index`` marks pixels without label.
    ``label_map`` sends raw values of label files to labels or to ``ignore_index``, and names every value that may
    occur; None: the files hold labels as they are. ``mean`` and ``std`` are per channel, of images in 0..255.

    Raises ValueError where these do not fit each other.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    ignore_index: int = 255
    label_map: Mapping[int, int] | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        count = len(self.classes)
        if count == 0:
            raise ValueError(f"data set {self.name!r}: classes is empty; name at least one class")
        if count > 255:
            raise ValueError(f"data set {self.name!r}: {count} classes; labels are 8-bit, at most 255 classes fit")
        if len(set(self.classes)) != count:
            twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
            raise ValueError(f"data set {self.name!r}: class names occur twice: {', '.join(twice)}")
        if len(self.palette) != count:
            raise ValueError(
                f"data set {self.name!r}: palette has {len(self.palette)} colours for {count} classes; give one each"
            )
        for colour in self.palette:
            if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
                raise ValueError(f"data set {self.name!r}: palette colour {list(colour)} is not [r, g, b] in 0..255")
        if not count <= self.ignore_index <= 255:
            raise ValueError(
                f"data set {self.name!r}: ignore_index={self.ignore_index} must lie in {count}..255, outside classes"
            )
        for raw, label in (self.label_map or {}).items():
            if not (0 <= label < count or label == self.ignore_index):
                raise ValueError(
                    f"data set {self.name!r}: label_map sends {raw} to {label}, which is neither one of the {count} "
                    f"classes nor ignore_index={self.ignore_index}"
                )
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise ValueError(
                f"data set {self.name!r}: mean={list(self.mean)} and std={list(self.std)} need one value a channel, "
                f"std above 0"
            )

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def allowed(self) -> dict[int, int]:
        """Raw value -> label for every value that may occur in label files."""
        given = self.label_map if self.label_map is not None else {label: label for label in range(self.num_classes)}
        return {**given, self.ignore_index: self.ignore_index}

    @cached_property
    def lookup(self) -> tuple[np.ndarray, int | None]:
        """For 8-bit raw values their labels, uint8 (256,), and the mark that stands for values that must not occur.

        None for the mark where every value from 0 to 255 is a label: then no value is foreign.
        """
        allowed = self.allowed
        free = sorted(set(range(256)) - set(allowed.values()))
        table = np.full(256, free[-1] if free else self.ignore_index, np.uint8)
        for value, label in allowed.items():
            if 0 <= value < 256:
                table[value] = label
        return table, free[-1] if free else None

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types only, for a checkpoint."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "palette": [list(colour) for colour in self.palette],
            "ignore_index": self.ignore_index,
            "label_map": None if self.label_map is None else dict(self.label_map),
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> DataSpec:
        return cls(
            name=content["name"],
            classes=tuple(content["classes"]),
            palette=as_palette(content["palette"]),
            ignore_index=content["ignore_index"],
            label_map=content["label_map"],
            mean=tuple(content["mean"]),
            std=tuple(content["std"]),
        )


def as_palette(colours: Sequence[Sequence[int]]) -> tuple[Colour, ...]:
    """Lists of lists, as YAML gives them, as a palette."""
    return tuple((int(colour[0]), int(colour[1]), int(colour[2])) for colour in colours)


def default_palette(count: int) -> tuple[Colour, ...]:
    """The first ``count`` of 256 colours that people with any colour vision tell apart; none is black or white.

    Each is the one farthest from those before it, in CIE L*a*b*, for trichromats and for protan-, deutan- and
    tritanopes as simulated by Machado et al. 2009. Smallest distances: 28 among 8 classes, 19 among 16, 16 among 24.
    """
    lines = (resources.files(__package__) / "classes" / "default_colours.txt").read_text().splitlines()
    return as_palette([[int(value) for value in line.split()] for line in lines[:count]])


def known_classes(name: str) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Names and official colours of a benchmark's classes, from ``data/classes/<name>.txt``."""
    lines = (resources.files(__package__) / "classes" / f"{name}.txt").read_text().splitlines()
    rows = [line.split(maxsplit=3) for line in lines]
    return tuple(row[3] for row in rows), as_palette([[int(value) for value in row[:3]] for row in rows])


def public_spec(name: str, classes: str | None = None, *, label_map: Mapping[int, int] | None = None) -> DataSpec:
    """The spec of a benchmark whose class table is ``classes`` (default: its own name)."""
    names, palette = known_classes(classes or name)
    return DataSpec(name=name, classes=names, palette=palette, label_map=label_map)
