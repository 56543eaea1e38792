"""From the ``evaluation`` node and a checkpoint's config to a protocol, and to further scores."""

from __future__ import annotations

import hashlib
from pathlib import Path

from omegaconf import DictConfig

from pspnet_lightning.config import as_plain
from pspnet_lightning.config.trusted import StoredConfig
from pspnet_lightning.data import DataSpec
from pspnet_lightning.data.transforms import as_size
from pspnet_lightning.inference import SlidingWindow
from pspnet_lightning.metrics import Further, ImageScore, further_scores

# The long side at scale 1 in hszhao/semseg's configs.
OFFICIAL_BASE_SIZE = {"ade20k": 512, "voc2012": 512, "cityscapes": 2048}


def build_protocol(node: DictConfig, config: StoredConfig, data_name: str) -> SlidingWindow:
    """The protocol of an ``evaluation`` node for a checkpoint that was trained with ``config``.

    ``crop_size``: checkpoint, whole, a number or [height, width]. ``base_size``: official, null or a number. Raises
    ValueError for anything else.
    """
    plain = as_plain(node)
    crop, base = plain["crop_size"], plain["base_size"]
    if crop == "checkpoint":
        crop = trained_crop(config)
    elif crop == "whole":
        crop = None
    else:
        crop = as_size(crop)
    if base == "official":
        base = OFFICIAL_BASE_SIZE.get(data_name)
    return SlidingWindow(
        crop, base, tuple(plain["scales"]), plain["flip"], plain["stride_rate"], batch_size=plain["batch_size"]
    )


def build_scores(node: DictConfig, spec: DataSpec, images: int) -> list[ImageScore]:
    """The further scores that an ``evaluation`` node asks for, of a split of so many images.

    Raises ValueError where one is not of this data set.
    """
    names: list[Further] = [*node.metrics]
    return further_scores(
        [*names, "calibration"] if node.calibrate else names,
        spec.num_classes,
        spec.ignore_index,
        boundary=node.boundary,
        trimap=tuple(node.trimap),
        tolerance=node.tolerance,
        spacing=tuple(node.spacing),
        fit_images=images if node.calibrate else 0,
    )


def trained_crop(config: StoredConfig) -> tuple[int, int]:
    """The crop that a checkpoint was trained with. Raises ValueError where its config has none."""
    for key in ("augment", "data"):
        if size := config.whole_numbers(key, "crop_size"):
            return as_size(size if len(size) > 1 else size[0])
    raise ValueError("the checkpoint's config has no data.crop_size; give evaluation.crop_size=...")


def trained_bands(config: StoredConfig) -> list[int] | None:
    """The bands of a file that a checkpoint was trained with, None for all of them."""
    return config.whole_numbers("data", "bands")  # of Potsdam the key names a set of files


def protocol_text(protocol: SlidingWindow) -> str:
    """A protocol in half a line."""
    if protocol.is_one_pass:
        return "whole images at their own size"
    crop = "whole images" if protocol.crop is None else f"windows of {protocol.crop[0]} x {protocol.crop[1]}"
    base = "the image's own size" if protocol.base_size is None else f"long side {protocol.base_size}"
    scales = "" if protocol.scales == (1.0,) else f" x {', '.join(f'{scale:g}' for scale in protocol.scales)}"
    return f"{crop}, {base}{scales}{', mirrored as well' if protocol.flip else ''}"


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
