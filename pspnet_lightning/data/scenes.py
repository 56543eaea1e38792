"""The embedded data set: generated scenes in which the context decides.

Mist lies over a river, a street or a meadow. Things stand in the mist: hulls and posts, drawn alike in all three
settings. A hull is a boat on a river, a car in a street, a tractor in a meadow; a post is a buoy, a lamp, a
sapling. Only where the mist has a clearing does the ground show, and clearings keep a distance from the things: the
paper's boat that looks like a car (Figure 2), where the pixels of the thing say nothing about its class.
"""

from __future__ import annotations

import operator
import zlib
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Interval, Len

from pspnet_lightning.data.datasets import SegmentationDataset, require_split
from pspnet_lightning.data.drawing import SETTINGS, draw_scene
from pspnet_lightning.data.specs import DataSpec
from pspnet_lightning.data.transforms import as_size

# At least 27 apart from each other and from black in CIE L*a*b*, for every kind of colour vision.
_CLASSES = {
    "sky": (151, 155, 255),
    "mist": (209, 222, 185),
    "water": (38, 47, 205),
    "road": (73, 62, 82),
    "grass": (49, 149, 98),
    "boat": (183, 53, 10),
    "car": (255, 211, 12),
    "tractor": (195, 38, 169),
    "buoy": (248, 155, 75),
    "lamp": (68, 227, 241),
    "sapling": (98, 47, 29),
}
Side = Annotated[int, Ge(64)]  # smaller ones have no room for things and clearings

SCENES = DataSpec(
    name="scenes",
    classes=tuple(_CLASSES),
    palette=tuple(_CLASSES.values()),
    mean=(176.5, 186.5, 194.5),
    std=(39.0, 33.0, 39.0),
)


class Scenes(SegmentationDataset):
    """``length`` scenes of ``size`` (height, width); scene ``index`` is a function of (seed, split, index)."""

    def __init__(self, split: str, *, seed: int, size: tuple[int, int], length: int) -> None:
        self.spec = SCENES
        self.split = split
        self.seed = seed
        self.size = size
        self.length = length

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        return f"scene {self.split} {index}"

    def parameters(self) -> dict[str, Any]:
        return {"split": self.split, "seed": self.seed, "size": list(self.size), "length": self.length}

    def setting(self, index: int) -> str:
        """What lies under the mist of a scene."""
        return SETTINGS[index % len(SETTINGS)]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        index = operator.index(index)  # OpenCV takes none of NumPy's integers as a colour
        if not 0 <= index < self.length:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, zlib.crc32(self.split.encode()), index))
        return draw_scene(rng, index % len(SETTINGS), self.size)


def scenes(
    split: str,
    *,
    seed: Annotated[int, Ge(0)] = 0,
    size: Side | Annotated[Sequence[Side], Len(2, 2)] = (96, 96),
    train_length: Annotated[int, Interval(ge=1, le=10_000_000)] = 1600,
    val_length: Annotated[int, Interval(ge=1, le=10_000_000)] = 200,
    test_length: Annotated[int, Interval(ge=1, le=10_000_000)] = 200,
) -> SegmentationDataset:
    """``data=scenes``: the generated set, no files. ``seed`` is the set's, apart from the run's.

    Raises ValueError for an unknown split, a length below 1 or sides below 64 pixels, too few for the scenes.
    """
    require_split(split)
    height, width = as_size(size)
    length = {"train": train_length, "val": val_length, "test": test_length}[split]
    if length < 1:
        raise ValueError(f"data.{split}_length={length} must be at least 1")
    if min(height, width) < 64:
        raise ValueError(f"data.size={[height, width]}: scenes need sides of at least 64 pixels")
    return Scenes(split, seed=seed, size=(height, width), length=length)
