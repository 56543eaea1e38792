"""The user's own data without writing code: lists of files, and folders of images and masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Interval, MinLen

from pspnet_lightning.data.datasets import PairDataset, SegmentationDataset, require_folder, require_split
from pspnet_lightning.data.description import describe, image_reader, label_coding, statistics_needed
from pspnet_lightning.data.pairing import Pair, listing, pair_files, read_list, read_stems

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
    train: str | None = None,
    val: str | None = None,
    test: str | None = None,
    val_fraction: Annotated[float, Interval(gt=0, lt=1)] = 0.2,
    split_seed: Annotated[int, Ge(0)] = 0,
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
    """``data=folder``: images and masks of the same stem below two folders.

    Splits, the first that applies: lists of stems (``train`` and ``val`` name text files below ``root``); folders
    (``<root>/train/images`` and ``<root>/train/masks``, or ``<root>/images/train`` and ``<root>/masks/train``); or
    ``val_fraction`` of the pairs, drawn by ``split_seed``, for validation.

    Args:
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
    lists = {"train": train, "val": val, "test": test}

    def pairs_of(wanted: str) -> list[Pair]:
        return _folder_pairs(base, images, masks, wanted, lists, val_fraction, split_seed)

    pairs = pairs_of(split)
    train_pairs = pairs if split == "train" or not statistics_needed(channels, mean) else pairs_of("train")
    spec = describe(name, coding, ignore_index, label_map, channels, mean, std, train_pairs, reader)
    return PairDataset(pairs, spec, origin=f"{split} split of {str(base)!r}", read_image=reader, read_label=coding.read)


def _folder_pairs(
    base: Path,
    images: str,
    masks: str,
    split: str,
    lists: dict[str, str | None],
    val_fraction: float,
    seed: int,
) -> list[Pair]:
    if lists["train"] is not None or lists["val"] is not None:
        name = lists[split]
        if name is None:
            raise ValueError(f"data.{split} is not given: name the text file of the {split} split's stems")
        return _listed(pair_files(base / images, base / masks, every_image=False), base / name)
    for image_folder, mask_folder in (
        (base / split / images, base / split / masks),
        (base / images / split, base / masks / split),
    ):
        if image_folder.is_dir():
            return pair_files(image_folder, mask_folder)
    if (base / "train" / images).is_dir() or (base / images / "train").is_dir():
        raise FileNotFoundError(
            f"data.root={str(base)!r} has a train folder but none for {split}: make "
            f"{str(base / split / images)!r}, or give lists with data.train and data.val"
        )
    if split == "test":
        raise ValueError("data.test is not given, and a split by fraction has no test part")
    if not 0 < val_fraction < 1:
        raise ValueError(f"data.val_fraction={val_fraction} must lie between 0 and 1")
    pairs = pair_files(base / images, base / masks)
    count = round(len(pairs) * val_fraction)
    if not 1 <= count < len(pairs):
        raise ValueError(
            f"data.val_fraction={val_fraction} of {len(pairs)} images leaves one split empty; give another fraction"
        )
    order = np.random.default_rng(seed).permutation(len(pairs))
    chosen = order[:count] if split == "val" else order[count:]
    return [pairs[index] for index in sorted(chosen.tolist())]


def _listed(pairs: list[Pair], file: Path) -> list[Pair]:
    by_stem = {pair[0].stem: pair for pair in pairs}
    stems = [Path(word).stem for word in read_stems(file)]
    unknown = [stem for stem in stems if stem not in by_stem]
    if unknown:
        raise ValueError(f"list {str(file)!r}: {len(unknown)} stems have no image with a mask: {listing(unknown)}")
    return [by_stem[stem] for stem in stems]
