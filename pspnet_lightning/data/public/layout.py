"""What the benchmarks' layouts share: finding the folder, and splits without public labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pspnet_lightning.data.datasets import SPLITS, require_folder


def find_base(root: str | Path, needed: str, names: Sequence[str], remedy: str) -> Path:
    """``root`` or the folder of one of ``names`` below it, whichever holds ``needed``.

    People give the folder that they unpacked into, or the one that came out of it. Raises FileNotFoundError.
    """
    folder = require_folder(root, remedy)
    for candidate in (folder, *(folder / name for name in names)):
        if (candidate / needed).exists():
            return candidate
    raise FileNotFoundError(f"data.root={str(root)!r} has no {needed}/. {remedy}")


def labelled_split(split: str, available: dict[str, str], data: str) -> str:
    """The data set's own name of a split. Raises ValueError where its labels are not public."""
    if split in available:
        return available[split]
    if split not in SPLITS:
        raise ValueError(f"split={split!r} must be one of {', '.join(SPLITS)}")
    raise ValueError(f"{data}: the labels of the {split} split are not public; there are {', '.join(available)}")
