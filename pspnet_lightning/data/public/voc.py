"""PASCAL VOC 2012, the same with SBD's annotations, and PASCAL-Context."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pspnet_lightning.data.datasets import PairDataset, SegmentationDataset, UnlabelledDataset
from pspnet_lightning.data.download import SBD_ARCHIVE, VOC2012_ARCHIVE, obtain
from pspnet_lightning.data.encodings import index_labels, sbd_labels
from pspnet_lightning.data.pairing import Pair, pair_stems, read_stems
from pspnet_lightning.data.public.layout import find_base, labelled_split
from pspnet_lightning.data.specs import DataSpec, known_classes, public_spec

VOC2012 = public_spec("voc2012")
PASCAL_CONTEXT_60 = public_spec("pascal_context")
_NAMES, _COLOURS = known_classes("pascal_context")
# The usual 59 classes: the background is neither trained nor scored.
PASCAL_CONTEXT_59 = DataSpec(
    name="pascal_context59",
    classes=_NAMES[1:],
    palette=_COLOURS[1:],
    label_map={0: 255, **{raw: raw - 1 for raw in range(1, 60)}},
)

_REMEDY = (
    "PASCAL VOC 2012: data.download=true fetches VOCtrainval_11-May-2012.tar (2 GB); or unpack it yourself and give "
    "the folder that holds VOCdevkit/"
)


def voc2012(split: str, *, root: str, download: bool = False) -> SegmentationDataset:
    """``data=voc2012``: ``VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation}``, 21 classes.

    The test split, without labels, is that of VOC2012test.tar, unpacked into the same folder.
    """
    if split == "test":
        return _voc_test(root)
    name = labelled_split(split, {"train": "train", "val": "val"}, "PASCAL VOC 2012")
    base = _voc_base(root, download)
    listed = base / "ImageSets" / "Segmentation" / f"{name}.txt"
    pairs = pair_stems(base / "JPEGImages", base / "SegmentationClass", read_stems(listed), ".jpg", ".png")
    return PairDataset(pairs, VOC2012, origin=str(listed))


def voc2012_aug(split: str, *, root: str, sbd_root: str | None = None, download: bool = False) -> SegmentationDataset:
    """``data=voc2012_aug``: VOC 2012 with SBD (Hariharan et al. 2011): 10,582 training images.

    Labels from ``SegmentationClassAug/*.png`` in the VOC folder where it exists, with its list
    ``ImageSets/Segmentation/trainaug.txt`` or else by the rule below; otherwise from SBD's own
    ``dataset/cls/*.mat`` in ``sbd_root`` (default: ``root``). The rule: all that VOC's train or
    SBD's train and val name, without VOC's val. VOC's own annotation is taken where there is one. The test split is
    VOC's.
    """
    if split == "test":
        return _voc_test(root)
    name = labelled_split(split, {"train": "train", "val": "val"}, "PASCAL VOC 2012")
    base = _voc_base(root, download)
    if name == "val":
        return voc2012("val", root=root)
    lists = base / "ImageSets" / "Segmentation"
    merged = base / "SegmentationClassAug"
    if merged.is_dir():
        listed = lists / "trainaug.txt"
        held_out = set(read_stems(lists / "val.txt"))
        stems = (
            read_stems(listed)
            if listed.is_file()
            else [path.stem for path in sorted(merged.glob("*.png")) if path.stem not in held_out]
        )
        # Some lists are of pairs `/JPEGImages/x.jpg /SegmentationClassAug/x.png`.
        stems = [Path(stem).stem for stem in stems]
        return PairDataset(pair_stems(base / "JPEGImages", merged, stems, ".jpg", ".png"), VOC2012, origin=str(listed))
    if download:
        obtain([SBD_ARCHIVE], sbd_root or root, done="benchmark_RELEASE/dataset/cls")
    sbd = find_base(
        sbd_root or root,
        "dataset/cls",
        ["benchmark_RELEASE", "SBD"],
        "SBD: data.download=true fetches benchmark.tgz (1.4 GB); or unpack it and give its folder as data.sbd_root; or "
        "put SegmentationClassAug/ into the VOC2012 folder",
    )
    pairs = _augmented_pairs(base, sbd / "dataset")
    return PairDataset(pairs, VOC2012, origin=str(sbd), read_label=_either)


def pascal_context(split: str, *, root: str, background: bool = False) -> SegmentationDataset:
    """``data=pascal_context``: ``VOCdevkit/VOC2010/{JPEGImages,SegmentationClassContext}`` and its ImageSets.

    59 classes, or 60 with ``background=True``. The index PNGs are those that mmsegmentation's converter writes from the
    Detail annotations: 0 is the background.
    """
    name = labelled_split(split, {"train": "train", "val": "val"}, "PASCAL-Context")
    base = find_base(
        root,
        "SegmentationClassContext",
        ["VOCdevkit/VOC2010", "VOC2010"],
        "PASCAL-Context: unpack VOC 2010 and convert trainval_merged.json (cs.stanford.edu/~roozbeh/pascal-context) "
        "to SegmentationClassContext/*.png and ImageSets/SegmentationContext/{train,val}.txt",
    )
    listed = base / "ImageSets" / "SegmentationContext" / f"{name}.txt"
    pairs = pair_stems(base / "JPEGImages", base / "SegmentationClassContext", read_stems(listed), ".jpg", ".png")
    return PairDataset(pairs, PASCAL_CONTEXT_60 if background else PASCAL_CONTEXT_59, origin=str(listed))


def _voc_test(root: str) -> SegmentationDataset:
    remedy = (
        "PASCAL VOC 2012: the test images are VOC2012test.tar, from host.robots.ox.ac.uk after registration; unpack "
        "it and give the folder that holds VOCdevkit/"
    )
    base = find_base(root, "ImageSets/Segmentation/test.txt", ["VOCdevkit/VOC2012", "VOC2012"], remedy)
    listed = base / "ImageSets" / "Segmentation" / "test.txt"
    return UnlabelledDataset(
        [base / "JPEGImages" / f"{stem}.jpg" for stem in read_stems(listed)], VOC2012, origin=str(listed)
    )


def _voc_base(root: str, download: bool) -> Path:
    if download:
        obtain([VOC2012_ARCHIVE], root, done="VOCdevkit/VOC2012/SegmentationClass")
    return find_base(root, "SegmentationClass", ["VOCdevkit/VOC2012", "VOC2012"], _REMEDY)


def _augmented_pairs(base: Path, sbd: Path) -> list[Pair]:
    lists = base / "ImageSets" / "Segmentation"
    own, held_out = set(read_stems(lists / "train.txt")), set(read_stems(lists / "val.txt"))
    theirs = {stem for name in ("train.txt", "val.txt") for stem in read_stems(sbd / name)}
    return [
        (
            base / "JPEGImages" / f"{stem}.jpg",
            base / "SegmentationClass" / f"{stem}.png" if stem in own else sbd / "cls" / f"{stem}.mat",
        )
        for stem in sorted((own | theirs) - held_out)
    ]


def _either(path: Path, spec: DataSpec) -> np.ndarray:
    return sbd_labels(path, spec) if path.suffix == ".mat" else index_labels(path, spec)
