"""Oxford-IIIT Pet: the trimaps as pet and background."""

from __future__ import annotations

from pspnet_lightning.data.datasets import PairDataset, SegmentationDataset
from pspnet_lightning.data.download import PET_ARCHIVES, obtain
from pspnet_lightning.data.pairing import pair_stems, read_stems
from pspnet_lightning.data.public.layout import find_base, labelled_split
from pspnet_lightning.data.specs import DataSpec

# Trimap values: 1 pet, 2 background, 3 border, which is not scored.
OXFORD_PET = DataSpec(
    name="oxford_pet",
    classes=("background", "pet"),
    palette=((0, 0, 0), (128, 0, 0)),
    label_map={1: 1, 2: 0, 3: 255},
)


def oxford_pet(split: str, *, root: str, download: bool = False) -> SegmentationDataset:
    """``data=oxford_pet``: ``images/*.jpg``, ``annotations/trimaps/*.png``; trainval.txt trains, test.txt validates."""
    name = labelled_split(split, {"train": "trainval", "val": "test", "test": "test"}, "Oxford-IIIT Pet")
    if download:
        obtain(PET_ARCHIVES, root, done="annotations/trimaps")
    base = find_base(
        root,
        "annotations",
        ["oxford-iiit-pet"],
        "Oxford-IIIT Pet: data.download=true fetches it (0.8 GB); or unpack images.tar.gz and annotations.tar.gz here",
    )
    listed = base / "annotations" / f"{name}.txt"
    pairs = pair_stems(base / "images", base / "annotations" / "trimaps", read_stems(listed), ".jpg", ".png")
    return PairDataset(pairs, OXFORD_PET, origin=str(listed))
