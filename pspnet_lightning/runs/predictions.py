"""A folder of anybody's label maps as predictions of a split: found by name, their coding recognised.

Index PNGs and TIFFs of any framework: class indices, the values of the data set's own label files, its colours, or
black and white of two classes.
What cannot be right (missing files, other sizes, labels off by one) is an error that says so.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pspnet_lightning.data import DataSpec, SegmentationDataset, sample_indices
from pspnet_lightning.data.encodings import ColourLabels
from pspnet_lightning.data.limits import check_header, open_image, read_tiff
from pspnet_lightning.data.reading import decoding, map_label, read_raw_label
from pspnet_lightning.data.submission import png_names

SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
CODINGS = ("classes", "labels", "colours", "binary", "minus_one", "plus_one")
# Images that are looked at to recognise the coding, and by how much more of their pixels another must be right.
_LOOK, _BETTER = 24, 0.05
# What data sets and frameworks add to an image's name.
_ADDED = re.compile(r"(_leftImg8bit|_gtFine_labelIds|_gtFine_labelTrainIds|_labelIds|_pred|_prediction|_mask|_0000)$")


@dataclass(frozen=True)
class Predictions:
    """``paths[index]`` is the prediction of image ``index`` of ``data``; ``extra`` files belong to none."""

    data: SegmentationDataset
    paths: tuple[Path, ...]
    extra: tuple[Path, ...]
    coding: str

    def read(self, index: int, label: np.ndarray) -> np.ndarray:
        """Classes uint8 (H, W) of the label's size. Raises ValueError naming the file and what is wrong with it."""
        return _decode(self.paths[index], self.data.spec, self.coding, label)


def find_predictions(folder: Path, data: SegmentationDataset, coding: str | None = None) -> Predictions:
    """The predictions of a split below ``folder``; ``coding`` None: recognised from some of them.

    A file belongs to the image, or to the label file, of the same stem; where stems repeat, of the same path. Raises
    ValueError where there is no such folder, an image has no file or several, or the coding cannot be told.
    """
    if not folder.is_dir():
        raise ValueError(f"predictions={str(folder)!r} is not a folder of label maps")
    if coding is not None and coding not in CODINGS:
        raise ValueError(f"coding={coding!r} must be one of {', '.join(CODINGS)}")
    paths, extra = _matched(folder, data)
    return Predictions(data, paths, extra, coding or _recognised(paths, data))


def _matched(folder: Path, data: SegmentationDataset) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        others = sorted({path.suffix.lower() for path in folder.rglob("*") if path.is_file()} - {""})
        found_there = f", only {', '.join(others[:5])}: save label maps without loss, as index PNGs" if others else ""
        raise ValueError(f"predictions={str(folder)!r} holds no label map ({', '.join(SUFFIXES)}){found_there}")
    by_stem: dict[str, list[Path]] = {}
    for path in files:
        for stem in {path.stem, _plain(path.stem)}:
            by_stem.setdefault(stem, []).append(path)
    by_path = {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}
    names = [data.name(index) for index in range(len(data))]
    found: list[Path] = []
    missing, several = [], []
    for index, relative in enumerate(png_names(names)):
        own = by_path.get(relative.with_suffix("").as_posix())
        stems = [Path(name).stem for name in (names[index], *map(str, data.files(index)[::-1]))]
        candidates = next((by_stem[s] for s in [*stems, *map(_plain, stems)] if s in by_stem), [])
        if own is not None or len(candidates) == 1:
            found.append(own or candidates[0])
        elif candidates:
            several.append(f"{names[index]}: {', '.join(map(str, candidates[:3]))}")
        else:
            missing.append(names[index])
    if missing:
        raise ValueError(
            f"predictions={str(folder)!r}: {len(missing)} of {len(data)} images have no prediction: {_few(missing)}. "
            f"There are {len(files)} files, such as {files[0].name}; a prediction has the stem of its image or label "
            f"file. Is this the right split?"
        )
    if several:
        raise ValueError(
            f"predictions={str(folder)!r}: {len(several)} images have several predictions: {_few(several)}. Where "
            f"stems repeat, the folders below must be the data set's"
        )
    if len(set(found)) != len(found):
        twice = sorted({str(path) for path in found if found.count(path) > 1})
        raise ValueError(f"predictions={str(folder)!r}: one file is the prediction of several images: {_few(twice)}")
    return tuple(found), tuple(sorted(set(files) - set(found)))


def _recognised(paths: Sequence[Path], data: SegmentationDataset) -> str:
    """The coding by which most pixels are right; ``classes`` where that is not clearly better."""
    spec = data.spec
    right: dict[str, float] = dict.fromkeys(CODINGS, 0.0)
    labelled = 0
    for index in sample_indices(len(data), _LOOK):
        label = data.label(index)
        valid = label != spec.ignore_index
        labelled += int(valid.sum())
        for coding in list(right):
            try:
                prediction = _decode(paths[index], spec, coding, label)
            except _OutOfRange:
                del right[coding]
                continue
            right[coding] += float((prediction[valid] == label[valid]).sum())
    if not right:
        # The reader of class indices says best what is wrong.
        for index in range(len(data)):
            _decode(paths[index], spec, "classes", data.label(index))
    shares = {coding: count / max(labelled, 1) for coding, count in right.items()}
    best = max(shares, key=lambda coding: (shares[coding], -CODINGS.index(coding)))
    if "classes" in shares and shares[best] - shares["classes"] < _BETTER:
        return "classes"
    if best in ("minus_one", "plus_one"):
        own = f"{100 * shares['classes']:.1f} % of the pixels are right" if "classes" in shares else "they do not fit"
        step = "too high" if best == "minus_one" else "too low"
        raise ValueError(
            f"the predictions look off by one: as class indices 0..{spec.num_classes - 1} {own}, taken as one {step} "
            f"{100 * shares[best]:.1f} %. If they are numbered like that, give coding={best}; otherwise coding=classes"
        )
    return best


class _OutOfRange(ValueError):
    """These values are not of this coding."""


def _decode(path: Path, spec: DataSpec, coding: str, label: np.ndarray) -> np.ndarray:
    pixels = _pixels(path)
    if pixels.shape[:2] != label.shape:
        raise ValueError(
            f"prediction {str(path)!r} is {pixels.shape[1]} x {pixels.shape[0]}, its label {label.shape[1]} x "
            f"{label.shape[0]} (width x height): scores are of the labels' own size; enlarge the logits before the "
            f"maximum, or the label map by nearest neighbour"
        )
    if pixels.ndim == 3:
        if coding != "colours":
            raise _OutOfRange(
                f"prediction {str(path)!r} is a colour image, and its colours are not all in the palette of {spec.name}"
            )
        try:
            colours = {colour: number for number, colour in enumerate(spec.palette)}
            return ColourLabels(colours).decode(pixels, spec, path)
        except ValueError as error:
            raise _OutOfRange(str(error)) from error
    if coding == "colours":
        raise _OutOfRange(f"prediction {str(path)!r} holds indices, not colours")
    fractions = pixels.dtype.kind == "f" and bool((pixels != np.round(pixels)).any())
    if fractions:
        raise ValueError(
            f"prediction {str(path)!r} holds fractions ({pixels.min():.3g} to {pixels.max():.3g}), which are "
            f"probabilities or logits and no classes: take the class with the largest one, of two classes 1 above 0.5"
        )
    if coding == "binary":
        if spec.num_classes != 2 or not np.isin(pixels, (0, 255)).all():
            raise _OutOfRange(f"prediction {str(path)!r} is no black and white mask (0, 255) of two classes")
        values = (pixels == 255).astype(np.int64)
    elif coding == "labels":
        if spec.label_map is None:
            raise _OutOfRange(f"{spec.name} has no coding of its own: its label files hold class indices")
        try:
            values = map_label(pixels, spec, path)
        except ValueError as error:
            raise _OutOfRange(str(error)) from error
    else:
        values = pixels.astype(np.int64) + {"classes": 0, "minus_one": -1, "plus_one": 1}[coding]
    foreign = (values < 0) | (values >= spec.num_classes)
    if foreign.any():
        found = np.unique(pixels[foreign]).tolist()
        raise _OutOfRange(
            f"prediction {str(path)!r} has the values {', '.join(map(str, found[:8]))}, which are none of the "
            f"{spec.num_classes} classes of {spec.name} (coding {coding}): every pixel needs a class, also where the "
            f"label is ignored"
        )
    return values.astype(np.uint8)


def _pixels(path: Path) -> np.ndarray:
    """Values (H, W); or colours uint8 (H, W, 3). Grey pixels that were saved as RGB are values."""
    try:
        if path.suffix.lower() != ".gif":  # whose indices are of its writer's making
            return read_raw_label(path)
    except ValueError as error:
        if "is a colour image" not in str(error):
            raise
    content = path.read_bytes()
    with decoding(path, "label"):
        if path.suffix.lower() in (".tif", ".tiff") and (shape := read_tiff(path).shape)[2:] not in ((3,), (4,)):
            raise ValueError(
                f"prediction {str(path)!r} has the shape {shape}: a label map has one value a pixel; of one plane a "
                f"class take the class with the largest value"
            )
        if content[:4] == b"\x89PNG":
            check_header(path, content)
        with open_image(path, io.BytesIO(content)) as file:
            pixels = np.asarray(file.convert("RGB"))
    grey = (pixels == pixels[..., :1]).all()
    return pixels[..., 0] if grey else pixels


def _plain(stem: str) -> str:
    return _ADDED.sub("", stem)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
