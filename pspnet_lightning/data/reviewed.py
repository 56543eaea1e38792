"""What a review of the labels found: images that are left out, and labels that are put in place of others."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pspnet_lightning.data.datasets import SegmentationDataset, Subset
from pspnet_lightning.data.folds import Source
from pspnet_lightning.data.reading import map_label, read_raw_label
from pspnet_lightning.data.submission import png_names


class ReviewedSource:
    """Another source without the images that ``exclude`` names, and with the labels that lie below ``fix``.

    ``exclude`` is a text file with a name a line: an image's path, or the end of it; ``#`` begins a comment. It holds
    for training and validation, the test split keeps all. ``fix`` holds class-index PNGs, ``train/NAME.png`` and
    ``val/NAME.png``, by the names that `pspnet-audit` gives them. Raises ValueError for a name that is no image's, or
    several images', for a file that is no image's, and where there is no such file or folder.
    """

    def __init__(self, source: Source, *, exclude: str | None = None, fix: str | None = None) -> None:
        self.source = source
        self.excluded = [] if exclude is None else _names(Path(exclude))
        self.exclude, self.fix = exclude, fix
        if fix is not None and not any((Path(fix) / split).is_dir() for split in ("train", "val")):
            raise ValueError(f"data.fix={fix!r} holds neither train/ nor val/ with class-index PNGs")

    def __call__(self, split: str) -> SegmentationDataset:
        data = self.source(split)
        if split == "test":
            return data
        if self.fix is not None and (Path(self.fix) / split).is_dir():
            data = FixedLabels(data, Path(self.fix) / split)
        if not self.excluded:
            return data
        dropped = self._dropped(data)
        if split == "train":
            self._check_names(dropped)
        return Subset(data, [index for index in range(len(data)) if index not in set(dropped.values())])

    def _dropped(self, data: SegmentationDataset) -> dict[str, int]:
        found: dict[str, int] = {}
        names = [Path(data.name(index)).parts for index in range(len(data))]
        for wanted in self.excluded:
            parts = Path(wanted).parts
            matches = [index for index, own in enumerate(names) if own[-len(parts) :] == parts]
            if len(matches) > 1:
                raise ValueError(
                    f"data.exclude={self.exclude!r}: {wanted!r} is the end of {len(matches)} images' names, such as "
                    f"{data.name(matches[0])} and {data.name(matches[1])}; write more of the path"
                )
            found.update(dict.fromkeys([wanted], matches[0]) if matches else {})
        return found

    def _check_names(self, known: Container[str]) -> None:
        """Each name is an image's of the training split, which knows those, or of the validation split."""
        unknown = [name for name in self.excluded if name not in known]
        if unknown:
            validation = self._dropped(self.source("val"))
            unknown = [name for name in unknown if name not in validation]
        if unknown:
            raise ValueError(
                f"data.exclude={self.exclude!r} names {unknown[0]!r}, which is no image's name or its end"
                + (f", and {len(unknown) - 1} more" if len(unknown) > 1 else "")
            )


class FixedLabels(SegmentationDataset):
    """Another data set, with the labels of some images read from class-index PNGs below ``folder``."""

    def __init__(self, data: SegmentationDataset, folder: Path) -> None:
        self.data = data
        self.spec = data.spec
        self.labelled = data.labelled
        # Class indices as they are, whatever the data set's own files hold.
        self._coding = replace(data.spec, label_map=None)
        paths = fix_names(data)
        there = {path.relative_to(folder) for path in folder.rglob("*.png")}
        if foreign := sorted(there - set(paths)):
            raise ValueError(
                f"data.fix: {str(folder / foreign[0])!r} is no image's label; there {len(paths)} names are known, such "
                f"as {paths[0]}"
            )
        self.fixed = {index: folder / path for index, path in enumerate(paths) if path in there}

    def __len__(self) -> int:
        return len(self.data)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, label = self.data.read(index)
        return image, label if index not in self.fixed else self._fixed(index, image.shape[:2])

    def label(self, index: int) -> np.ndarray:
        return self.data.label(index) if index not in self.fixed else self._fixed(index, None)

    def _fixed(self, index: int, size: Sequence[int] | None) -> np.ndarray:
        path = self.fixed[index]
        label = map_label(read_raw_label(path), self._coding, path)
        if size is not None and label.shape != tuple(size):
            raise ValueError(
                f"data.fix: {str(path)!r} is {label.shape[1]} x {label.shape[0]}, its image {size[1]} x {size[0]} "
                f"(width x height)"
            )
        return label

    def name(self, index: int) -> str:
        return self.data.name(index)

    def files(self, index: int) -> tuple[Path, ...]:
        return self.data.files(index)

    def parameters(self) -> dict[str, Any]:
        # Not among the files: a fingerprint takes their paths from the one folder that holds all of them.
        fixed = {index: hashlib.sha256(path.read_bytes()).hexdigest() for index, path in self.fixed.items()}
        return {**self.data.parameters(), "fixed": fixed}


def fix_names(data: SegmentationDataset) -> tuple[Path, ...]:
    """The file below ``data.fix``/SPLIT that stands for each image's label."""
    return png_names([data.name(index) for index in range(len(data))])


def _names(file: Path) -> list[str]:
    if not file.is_file():
        raise ValueError(f"data.exclude={str(file)!r} is no file; it names an image a line")
    lines = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    return list(dict.fromkeys(line for line in lines if line))
