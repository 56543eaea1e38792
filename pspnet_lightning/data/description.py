"""From a user's arguments to readers and a spec: classes, label coding, channels, mean and standard deviation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pspnet_lightning.data.datasets import sample_indices
from pspnet_lightning.data.encodings import BinaryLabels, ColourLabels, LabelReader, index_labels, read_colour_map
from pspnet_lightning.data.pairing import Pair
from pspnet_lightning.data.reading import BandReader, ImageReader, read_image
from pspnet_lightning.data.specs import IMAGENET_MEAN, IMAGENET_STD, Colour, DataSpec, as_palette, default_palette

# Images that the mean and standard deviation are computed from, spread over the training split.
STATISTICS_IMAGES = 200


class LabelCoding(NamedTuple):
    """How label files become classes."""

    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    read: LabelReader


def label_coding(
    base: Path,
    labels: str,
    colour_map: str | None,
    classes: Sequence[str] | None,
    palette: Sequence[Sequence[int]] | None,
    ignore_index: int,
) -> LabelCoding:
    """Class names, palette and the reader of label files; see ``own.folder`` for the arguments.

    Raises ValueError where they do not fit each other.
    """
    kinds = ("index", "binary", "colour")
    if labels not in kinds:
        raise ValueError(f"data.labels={labels!r} must be one of {', '.join(kinds)}")
    if labels == "colour":
        if colour_map is None:
            raise ValueError("data.labels=colour needs data.colour_map: a file of `r g b name` lines below data.root")
        names, colours, table = read_colour_map(base / colour_map, ignore_index)
        if classes is not None and list(classes) != names:
            raise ValueError(
                f"data.classes={list(classes)} differs from the colour map's classes {names}; leave it out"
            )
        return LabelCoding(tuple(names), tuple(colours), ColourLabels(table))
    if colour_map is not None:
        raise ValueError(f"data.colour_map={colour_map!r} has no use with data.labels={labels}; set data.labels=colour")
    if not classes:
        raise ValueError(
            "data.classes is required: name the classes in the order of their label values, [road,car,...]"
        )
    if labels == "binary" and len(classes) != 2:
        raise ValueError(f"data.labels=binary has two classes, background and thing; data.classes={list(classes)}")
    colours_ = as_palette(palette) if palette else default_palette(len(classes))
    return LabelCoding(tuple(classes), colours_, BinaryLabels() if labels == "binary" else index_labels)


def image_reader(channels: int, bands: Sequence[int] | None) -> ImageReader:
    """The reader for images of so many channels; ``bands`` chooses among those of the file."""
    if channels < 1:
        raise ValueError(f"data.channels={channels} must be at least 1")
    if bands is not None and (len(bands) != channels or min(bands) < 0):
        raise ValueError(f"data.bands={list(bands)} must name data.channels={channels} bands, from 0")
    return (
        read_image if channels == 3 and bands is None else BandReader(channels, None if bands is None else tuple(bands))
    )


def statistics_needed(channels: int, mean: Sequence[float] | str | None) -> bool:
    """Whether the mean is to be computed: asked for, or no RGB, for which ImageNet's serves."""
    return mean == "compute" or (mean is None and channels != 3)


def describe(
    name: str,
    coding: LabelCoding,
    ignore_index: int,
    label_map: dict[int, int] | None,
    channels: int,
    mean: Sequence[float] | str | None,
    std: Sequence[float] | None,
    train_pairs: list[Pair],
    reader: ImageReader,
) -> DataSpec:
    """The spec of a user's data set; mean and standard deviation are computed over ``train_pairs`` where needed."""
    if isinstance(mean, str) and mean != "compute":
        raise ValueError(f"data.mean={mean!r} must be null, compute, or one number a channel")
    values: tuple[Sequence[float], Sequence[float]]
    if statistics_needed(channels, mean):
        values = statistics(tuple(pair[0] for pair in train_pairs), reader)
    elif mean is None:
        values = IMAGENET_MEAN, IMAGENET_STD
    else:
        values = [float(value) for value in mean], std or [1.0] * len(mean)
    if len(values[0]) != channels:
        raise ValueError(f"data.mean={list(values[0])} has {len(values[0])} values for data.channels={channels}")
    return DataSpec(
        name=name,
        classes=coding.classes,
        palette=coding.palette,
        ignore_index=ignore_index,
        label_map=label_map,
        mean=tuple(values[0]),
        std=tuple(std or values[1]),
    )


@lru_cache(maxsize=8)
def statistics(paths: tuple[Path, ...], reader: ImageReader) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over at most ``STATISTICS_IMAGES`` images spread over ``paths``."""
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    for index in sample_indices(len(paths), STATISTICS_IMAGES):
        image = reader(paths[index])
        pixels = image.reshape(-1, image.shape[2]).astype(np.float64)
        count, total, squares = count + len(pixels), total + pixels.sum(0), squares + (pixels**2).sum(0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-6))
    return tuple(float(f"{value:.6g}") for value in mean), tuple(float(f"{value:.6g}") for value in std)
