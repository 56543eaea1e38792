"""Data sets of images and label maps: the base that all stand on, lists of files, and samples for training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pspnet_lightning.data.reading import read_pair
from pspnet_lightning.data.specs import IMAGENET_MEAN, IMAGENET_STD, DataSpec, as_palette, default_palette

Transform = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
SPLITS = ("train", "val", "test")


class Sample(TypedDict):
    """One image and its label map."""

    image: Tensor  # uint8 (C, H, W), the channel's stride being 1
    label: Tensor  # uint8 (H, W)
    name: str
    index: int


class SegmentationDataset(ABC):
    """A split: ``len``, ``read(index)`` and ``name(index)``, all without randomness."""

    spec: DataSpec

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 (H, W, C) RGB and label uint8 (H, W) of classes or ``spec.ignore_index``."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call this image in messages and pictures."""


class PairDataset(SegmentationDataset):
    """Pairs of image and label files. ValueError when there are none, FileNotFoundError listing missing ones."""

    def __init__(self, pairs: Sequence[tuple[Path, Path]], spec: DataSpec, *, origin: str) -> None:
        if not pairs:
            raise ValueError(f"{origin} names no image: the split is empty")
        missing = [str(path) for pair in pairs for path in pair if not path.is_file()]
        if missing:
            shown = "\n  ".join(missing[:10]) + (f"\n  ... and {len(missing) - 10} more" if len(missing) > 10 else "")
            raise FileNotFoundError(f"{origin}: {len(missing)} files do not exist:\n  {shown}")
        self.pairs = list(pairs)
        self.spec = spec

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return read_pair(*self.pairs[index], self.spec)

    def name(self, index: int) -> str:
        return str(self.pairs[index][0])


class FirstImages(SegmentationDataset):
    """The first ``count`` images of a split. Raises ValueError where there are fewer."""

    def __init__(self, data: SegmentationDataset, count: int) -> None:
        if not 1 <= count <= len(data):
            raise ValueError(f"data.overfit={count} must lie in 1..{len(data)}, the images of the training split")
        self.data = data
        self.count = count
        self.spec = data.spec

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.data.read(index)

    def name(self, index: int) -> str:
        return self.data.name(index)


class TransformedDataset(Dataset[Sample]):
    """Samples for a loader. A key is (epoch, index), and with ``seed`` it alone decides the random numbers."""

    def __init__(self, data: SegmentationDataset, transform: Transform, *, seed: int = 0) -> None:
        self.data = data
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        image, label = self.data.read(index)
        image, label = self.transform(image, label, np.random.default_rng((self.seed, epoch, index)))
        # (H, W, C) seen as (C, H, W): no copy, and the layout that channels_last needs.
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1),
            "label": torch.from_numpy(np.ascontiguousarray(label)),
            "name": self.data.name(index),
            "index": index,
        }


def read_list(file: Path, root: Path) -> list[tuple[Path, Path]]:
    """The pairs of a text file of ``image label`` lines (semseg's format), relative to ``root``; blank lines may occur.

    Raises FileNotFoundError for the file, and ValueError listing every line that is not a pair.
    """
    if not file.is_file():
        raise FileNotFoundError(f"the list {str(file)!r} does not exist; paths of lists are relative to data.root")
    pairs, wrong = [], []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        words = line.split()
        if len(words) == 2:
            pairs.append((root / words[0], root / words[1]))
        elif words:
            wrong.append(f"line {number}: {line.strip()!r}")
    if wrong:
        shown = "\n  ".join(wrong[:10]) + (f"\n  ... and {len(wrong) - 10} more" if len(wrong) > 10 else "")
        raise ValueError(
            f"list {str(file)!r}: {len(wrong)} lines are not a pair `image label`; an image without label cannot be "
            f"used:\n  {shown}"
        )
    return pairs


def require_folder(root: str | Path, remedy: str) -> Path:
    """``root`` as a path; raises FileNotFoundError with the remedy where there is no such folder."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"data.root={str(root)!r} is not a folder. {remedy}")
    return folder


def require_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split={split!r} must be one of {', '.join(SPLITS)}")


def list_file(
    split: str,
    *,
    root: str,
    train: str,
    val: str,
    classes: Sequence[str],
    test: str | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    ignore_index: int = 255,
    label_map: dict[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    name: str = "list",
) -> SegmentationDataset:
    """``data=list``: text files of ``image label`` pairs, semseg's format; all paths are relative to ``root``."""
    require_split(split)
    folder = require_folder(root, "Give the folder that the lists' paths are relative to.")
    chosen = {"train": train, "val": val, "test": test}[split]
    if chosen is None:
        raise ValueError(f"data.{split} is not given: name the list file of the {split} split")
    spec = DataSpec(
        name=name,
        classes=tuple(classes),
        palette=as_palette(palette) if palette else default_palette(len(classes)),
        ignore_index=ignore_index,
        label_map=label_map,
        mean=tuple(mean) if mean else IMAGENET_MEAN,
        std=tuple(std) if std else IMAGENET_STD,
    )
    file = folder / chosen
    return PairDataset(read_list(file, folder), spec, origin=f"list {str(file)!r}")


def count_classes(data: SegmentationDataset) -> np.ndarray:
    """Labelled pixels of each class over a split, int64 (K,)."""
    counts = np.zeros(256, np.int64)
    for index in range(len(data)):
        counts += np.bincount(data.read(index)[1].reshape(-1), minlength=256)
    return counts[: data.spec.num_classes]


def check_labels(data: SegmentationDataset, *, limit: int = 16) -> None:
    """Reads ``limit`` pairs spread over a split, so that foreign labels and broken files show before training."""
    for index in sample_indices(len(data), limit):
        data.read(index)


def sample_indices(length: int, count: int) -> Iterable[int]:
    """``count`` indices spread evenly over ``length``, the first and the last among them."""
    return sorted({round(position) for position in np.linspace(0, length - 1, min(count, length))})
