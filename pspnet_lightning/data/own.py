"""The user's own data without writing code: lists of files, and folders of images and masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, MinLen

from pspnet_lightning.data.combined import CombinedLabels, Where, find_masks
from pspnet_lightning.data.datasets import PairDataset, SegmentationDataset, require_folder, require_split
from pspnet_lightning.data.description import describe, image_reader, label_coding, statistics_needed
from pspnet_lightning.data.layouts import Division, Folders, Layout, Patterns
from pspnet_lightning.data.pairing import Pair, read_list

Byte = Annotated[int, Interval(ge=0, le=255)]
Labels = Literal["index", "binary", "colour"]


def list_file(
    split: str,
    *,
    root: str,
    train: str,
    val: str,
    classes: Annotated[Sequence[str], MinLen(1)] | None,
    test: str | None = None,
    labels: Labels = "index",
    colour_map: str | None = None,
    palette: Sequence[tuple[Byte, Byte, Byte]] | None = None,
    ignore_index: Byte = 255,
    label_map: dict[int, Byte] | None = None,
    channels: Annotated[int, Ge(1)] = 3,
    bands: Sequence[Annotated[int, Ge(0)]] | None = None,
    mean: Sequence[float] | Literal["compute"] | None = None,
    std: Sequence[Annotated[float, Gt(0)]] | None = None,
    name: str = "list",
) -> SegmentationDataset:
    """``data=list``: text files of ``image label`` pairs, semseg's format; all paths are relative to ``root``.

    See ``folder`` for the arguments that they share.
    """
    require_split(split)
    base = require_folder(root, "Give the folder that the lists' paths are relative to.")
    lists = {"train": train, "val": val, "test": test}
    chosen = lists[split]
    if chosen is None:
        raise ValueError(f"data.{split} is not given: name the list file of the {split} split")
    coding = label_coding(base, labels, colour_map, classes, palette, ignore_index)
    reader = image_reader(channels, bands)
    pairs = read_list(base / chosen, base)
    train_pairs = pairs if split == "train" or not statistics_needed(channels, mean) else read_list(base / train, base)
    spec = describe(name, coding, ignore_index, label_map, channels, mean, std, train_pairs, reader)
    origin = f"list {str(base / chosen)!r}"
    return PairDataset(pairs, spec, origin=origin, read_image=reader, read_label=coding.read)


def folder(
    split: str,
    *,
    root: str,
    classes: Annotated[Sequence[str], MinLen(1)] | None,
    images: str = "images",
    masks: str = "masks",
    image_pattern: str | None = None,
    label_pattern: str | Annotated[Sequence[str], MinLen(1)] | None = None,
    ignore_masks: str | None = None,
    ignore_where: Where = "nonzero",
    train: str | None = None,
    val: str | None = None,
    test: str | None = None,
    val_fraction: Annotated[float, Interval(gt=0, lt=1)] | None = 0.2,
    split_seed: Annotated[int, Ge(0)] = 0,
    group: str | None = None,
    labels: Labels = "index",
    colour_map: str | None = None,
    palette: Sequence[tuple[Byte, Byte, Byte]] | None = None,
    ignore_index: Byte = 255,
    label_map: dict[int, Byte] | None = None,
    channels: Annotated[int, Ge(1)] = 3,
    bands: Sequence[Annotated[int, Ge(0)]] | None = None,
    mean: Sequence[float] | Literal["compute"] | None = None,
    std: Sequence[Annotated[float, Gt(0)]] | None = None,
    name: str = "folder",
) -> SegmentationDataset:
    """``data=folder``: images and masks of the same stem below two folders, or of two patterns.

    Splits, the first that applies: lists of stems (``train`` and ``val`` name text files below ``root``); folders
    (``<root>/train/images`` and ``<root>/train/masks``, or ``<root>/images/train`` and ``<root>/masks/train``; with
    patterns ``{split}`` in them); or ``val_fraction`` of the pairs, drawn by ``split_seed``, for validation.

    Args:
        image_pattern, label_pattern: paths below ``root`` that share ``{stem}``, see ``patterns``; instead of
            ``images`` and ``masks``. Several label patterns are several annotators, whose majority counts.
        ignore_masks: a folder below ``root`` with a mask of each image; pixels ``ignore_where`` it is not zero (or is
            zero) are ignored.
        val_fraction: null: all pairs train, as for cross-validation.
        group: a regular expression; images whose match is equal stay in one split (patient, sequence).
        labels: "index" (index or palette PNG, TIFF), "binary" (black and white), "colour" (by ``colour_map``).
        colour_map: a file of ``r g b name`` lines below ``root``; it also names the classes.
        label_map: raw value -> class index or ``ignore_index``, for index labels.
        channels, bands: of the images; ``bands`` chooses among the file's, from 0.
        mean, std: of each channel in the file's units; null: ImageNet's for RGB, computed otherwise; "compute".
    """
    require_split(split)
    base = require_folder(root, "Give the folder that holds images/ and masks/.")
    coding = label_coding(base, labels, colour_map, classes, palette, ignore_index)
    reader = image_reader(channels, bands)
    if image_pattern is None or label_pattern is None:
        if image_pattern is not None or label_pattern is not None:
            raise ValueError("data.image_pattern and data.label_pattern belong together: give both, or neither")
        layout: Layout = Folders(base, images, masks)
    else:
        layout = Patterns(base, image_pattern, [label_pattern] if isinstance(label_pattern, str) else [*label_pattern])
    division = Division({"train": train, "val": val, "test": test}, val_fraction, split_seed, group)

    def pairs_of(wanted: str) -> list[Pair]:
        return division.part(layout, wanted)

    pairs = pairs_of(split)
    train_pairs = pairs if split == "train" or not statistics_needed(channels, mean) else pairs_of("train")
    spec = describe(name, coding, ignore_index, label_map, channels, mean, std, train_pairs, reader)
    read_label = coding.read
    if layout.annotators or ignore_masks is not None:
        masks_of = [] if ignore_masks is None else find_masks(base / ignore_masks, [image for image, _ in pairs])
        regions = dict(zip((label for _, label in pairs), masks_of, strict=False))
        read_label = CombinedLabels(coding.read, layout.annotators, regions, ignore_where)
    return PairDataset(pairs, spec, origin=f"{split} split of {str(base)!r}", read_image=reader, read_label=read_label)
