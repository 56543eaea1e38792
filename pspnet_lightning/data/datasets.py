"""Data sets of images and label maps: the base that all stand on, pairs of files, and samples for training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pspnet_lightning.data.encodings import LabelReader, index_labels
from pspnet_lightning.data.reading import ImageReader, check_sizes, read_image
from pspnet_lightning.data.specs import DataSpec

Transform = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
# Wraps a loop over so many things, to show how far it is.
Progress = Callable[[Iterable[Any], int], Iterable[Any]]
SPLITS = ("train", "val", "test")


def silent(items: Iterable[Any], total: int) -> Iterable[Any]:
    """The ``Progress`` that shows nothing."""
    return items


class Sample(TypedDict):
    """One image and its label map."""

    image: Tensor  # uint8 or float32 (C, H, W), the channel's stride being 1
    label: Tensor  # uint8 (H, W)
    name: str
    index: int


class SegmentationDataset(ABC):
    """A split: ``len``, ``read(index)`` and ``name(index)``, all without randomness."""

    spec: DataSpec
    # False where a benchmark's server keeps the labels: there is something to predict, but nothing to score.
    labelled: bool = True

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 or float32 (H, W, C) and label uint8 (H, W) of classes or ``spec.ignore_index``."""

    def label(self, index: int) -> np.ndarray:
        """The label of ``read`` alone, for those who count classes and need no image."""
        return self.read(index)[1]

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call this image in messages and pictures."""

    def files(self, index: int) -> tuple[Path, ...]:
        """The files that ``read`` reads, for the fingerprint; none where samples are generated."""
        return ()

    def parameters(self) -> dict[str, Any]:
        """What else decides the samples, plain types, for the fingerprint: a generator's parameters."""
        return {}


class PairDataset(SegmentationDataset):
    """Pairs of image and label files. ValueError when there are none, FileNotFoundError listing missing ones."""

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        spec: DataSpec,
        *,
        origin: str,
        read_image: ImageReader = read_image,
        read_label: LabelReader = index_labels,
    ) -> None:
        if not pairs:
            raise ValueError(f"{origin} names no image: the split is empty")
        missing = [str(path) for pair in pairs for path in pair if not path.is_file()]
        if missing:
            shown = "\n  ".join(missing[:10]) + (f"\n  ... and {len(missing) - 10} more" if len(missing) > 10 else "")
            raise FileNotFoundError(f"{origin}: {len(missing)} files do not exist:\n  {shown}")
        self.pairs = list(pairs)
        self.spec = spec
        self.read_image = read_image
        self.read_label = read_label

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image_path, label_path = self.pairs[index]
        image, label = self.read_image(image_path), self.label(index)
        check_sizes(image_path, image, label_path, label)
        return image, label

    def label(self, index: int) -> np.ndarray:
        return self.read_label(self.pairs[index][1], self.spec)

    def name(self, index: int) -> str:
        return str(self.pairs[index][0])

    def files(self, index: int) -> tuple[Path, ...]:
        further = getattr(self.read_label, "files", None)  # of a reader that makes a label of several
        return (*self.pairs[index], *(further(self.pairs[index][1]) if further else ()))


class UnlabelledDataset(SegmentationDataset):
    """Images whose labels a benchmark's server keeps: ``read`` answers the ignored value everywhere."""

    labelled = False

    def __init__(
        self, images: Sequence[Path], spec: DataSpec, *, origin: str, read_image: ImageReader = read_image
    ) -> None:
        missing = [str(path) for path in images if not path.is_file()]
        if missing or not images:
            raise FileNotFoundError(
                f"{origin} names no image: the split is empty"
                if not images
                else f"{origin}: {len(missing)} files do not exist: {', '.join(missing[:10])}"
            )
        self.images = list(images)
        self.spec = spec
        self.read_image = read_image

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image = self.read_image(self.images[index])
        return image, np.full(image.shape[:2], self.spec.ignore_index, np.uint8)

    def name(self, index: int) -> str:
        return str(self.images[index])


class Subset(SegmentationDataset):
    """The images of ``indices`` of another data set, in that order."""

    def __init__(self, data: SegmentationDataset, indices: Sequence[int]) -> None:
        self.data = data
        self.indices = [int(index) for index in indices]
        self.spec = data.spec
        self.labelled = data.labelled

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.data.read(self.indices[index])

    def label(self, index: int) -> np.ndarray:
        return self.data.label(self.indices[index])

    def name(self, index: int) -> str:
        return self.data.name(self.indices[index])

    def files(self, index: int) -> tuple[Path, ...]:
        return self.data.files(self.indices[index])

    def parameters(self) -> dict[str, Any]:
        return self.data.parameters()


def first_images(data: SegmentationDataset, count: int) -> Subset:
    """The first ``count`` images of a split. Raises ValueError where there are fewer."""
    if not 1 <= count <= len(data):
        raise ValueError(f"data.overfit={count} must lie in 1..{len(data)}, the images of the training split")
    return Subset(data, range(count))


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
        rng = np.random.default_rng((self.seed, epoch, index))
        image, label = self.transform(*self.data.read(index), rng)
        mixer = getattr(self.transform, "mixer", None)
        if mixer is not None and (partner := mixer.partner(len(self.data), rng)) is not None:
            image, label = mixer(image, label, *self.transform(*self.data.read(partner), rng), rng)
        # (H, W, C) seen as (C, H, W): no copy, and the layout that channels_last needs.
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1),
            "label": torch.from_numpy(np.ascontiguousarray(label)),
            "name": self.data.name(index),
            "index": index,
        }


def require_folder(root: str | Path, remedy: str) -> Path:
    """``root`` as a path; raises FileNotFoundError with the remedy where there is no such folder."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"data.root={str(root)!r} is not a folder. {remedy}")
    return folder


def require_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split={split!r} must be one of {', '.join(SPLITS)}")


def count_classes(data: SegmentationDataset, progress: Progress = silent) -> np.ndarray:
    """Labelled pixels of each class over a split, int64 (K,). ``progress`` wraps the loop over the labels."""
    counts = np.zeros(256, np.int64)
    for index in progress(range(len(data)), len(data)):
        counts += np.bincount(data.label(index).reshape(-1), minlength=256)
    return counts[: data.spec.num_classes]


def check_labels(data: SegmentationDataset, *, limit: int = 16) -> None:
    """Reads ``limit`` pairs spread over a split, so that foreign labels and broken files show before training."""
    for index in sample_indices(len(data), limit):
        data.read(index)


def sample_indices(length: int, count: int) -> Iterable[int]:
    """``count`` indices spread evenly over ``length``, the first and the last among them."""
    return sorted({round(position) for position in np.linspace(0, length - 1, min(count, length))})
