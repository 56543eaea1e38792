"""Label maps as files: the values, names and palette that a benchmark's server, or the data set's own tools, expect."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pspnet_lightning.data.datasets import SegmentationDataset
from pspnet_lightning.data.specs import Colour, DataSpec

# Stem, suffix of a file, first row and column of a window.
_NAME = re.compile(r"(.+?)(\.[A-Za-z]\w{1,4})?(?:\[(\d+):\d+,(\d+):\d+\])?", re.DOTALL)


@dataclass(frozen=True)
class PredictionFiles:
    """How predictions of a split are written.

    ``values[label]`` is what stands in the file, ``paths[index]`` where image number ``index`` goes, relative to the
    folder of all. ``palette`` colours the values for viewers; None: a plain grey PNG, for servers that want one.
    """

    values: np.ndarray  # uint8 (256,)
    paths: tuple[Path, ...]
    palette: tuple[Colour, ...] | None
    format: str  # for people: what the values are


def prediction_files(data: SegmentationDataset, split: str) -> PredictionFiles:
    """The files that a data set's server takes; for a data set without one, the coding of its own label files.

    Cityscapes: label ids (7 road, 8 sidewalk, ...), not train ids, under the images' names in one folder. ADE20K: label
    + 1, from 1 to 150. PASCAL VOC 2012: class indices with the palette, in
    ``results/VOC2012/Segmentation/comp6_<split>_cls`` (comp5 is for those who trained on VOC's own images alone).
    """
    spec = data.spec
    names = [data.name(index) for index in range(len(data))]
    if spec.name == "cityscapes":
        # Of train ids on disk too: the map is known, whatever the labels' files hold.
        from pspnet_lightning.data.public.scene_parsing import CITYSCAPES_LABEL_IDS

        return PredictionFiles(
            _inverse(CITYSCAPES_LABEL_IDS), _flat(names), None, "Cityscapes label ids, as its server takes them"
        )
    if spec.name == "ade20k":
        return PredictionFiles(_inverse(spec), _flat(names), None, "ADE20K labels 1..150, as its server takes them")
    if spec.name == "voc2012":
        folder = Path("results", "VOC2012", "Segmentation", f"comp6_{split}_cls")
        paths = tuple(folder / path for path in _flat(names))
        return PredictionFiles(_identity(), paths, spec.palette, "PASCAL VOC classes, as its server takes them")
    values = _inverse(spec)
    own = not np.array_equal(values, _identity())
    return PredictionFiles(
        values,
        png_names(names),
        None if own else spec.palette,
        f"values of {spec.name}'s own label files" if own else f"class indices of {spec.name}",
    )


def png_names(names: Sequence[str], *, whole: bool = False) -> tuple[Path, ...]:
    """A PNG's path for each image: its own below the folder that all share; its suffix stays where stems are equal.

    ``whole``: the path as it is, also where all share a folder.
    Windows of bigger images (``FILE.tif[512:1024,0:512]``) are called FILE_512_0.
    """
    parents = [Path(name).parent.parts for name in names]
    shared = 0
    while not whole and all(len(parts) > shared and parts[shared] == parents[0][shared] for parts in parents):
        shared += 1
    stems, full_names = [], []
    for name in names:
        match = _NAME.fullmatch(Path(*Path(name).parts[shared:]).as_posix())
        assert match is not None
        window = f"_{match[3]}_{match[4]}" if match[3] else ""
        stems.append(match[1] + window)
        full_names.append(match[1] + (match[2] or "") + window)
    often = Counter(stems)
    return tuple(
        Path(f"{stem if often[stem] == 1 else full}.png") for stem, full in zip(stems, full_names, strict=True)
    )


def _flat(names: Sequence[str]) -> tuple[Path, ...]:
    return tuple(Path(f"{Path(name).stem}.png") for name in names)


def _identity() -> np.ndarray:
    return np.arange(256, dtype=np.uint8)


def _inverse(spec: DataSpec) -> np.ndarray:
    """label -> raw value; class indices themselves where several raw values are one class, or values exceed 8 bits."""
    raws: dict[int, list[int]] = {label: [] for label in range(spec.num_classes)}
    for raw, label in (spec.label_map or {}).items():
        if label in raws:
            raws[label].append(raw)
    if spec.label_map is None or any(len(found) != 1 or found[0] > 255 for found in raws.values()):
        return _identity()
    table = _identity()
    table[: spec.num_classes] = [found[0] for found in raws.values()]
    return table
