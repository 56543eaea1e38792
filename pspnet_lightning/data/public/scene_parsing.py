"""ADE20K (SceneParsing), Cityscapes, COCO-Stuff 164k."""

from __future__ import annotations

from pspnet_lightning.data.datasets import PairDataset, SegmentationDataset, UnlabelledDataset
from pspnet_lightning.data.download import ADE20K_ARCHIVE, obtain
from pspnet_lightning.data.pairing import find_images, pair_files
from pspnet_lightning.data.public.layout import find_base, labelled_split
from pspnet_lightning.data.specs import public_spec

# Labels 1..150 are the classes; 0 is "other", which is neither trained nor scored.
ADE20K = public_spec("ade20k", label_map={0: 255, **{raw: raw - 1 for raw in range(1, 151)}})

# labelIds -> the 19 train ids (cityscapesScripts, helpers/labels.py); -1, the licence plate, is 255 in 8 bits, and 34
# in the label files of several other tools.
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES_LABEL_IDS = public_spec(
    "cityscapes",
    label_map={**dict.fromkeys(range(35), 255), **{raw: label for label, raw in enumerate(_CITYSCAPES_IDS)}},
)
CITYSCAPES_TRAIN_IDS = public_spec("cityscapes")

# The pixel maps hold category id - 1; these eleven ids were never annotated.
_COCO_UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
_COCO_USED = [raw for raw in range(182) if raw not in _COCO_UNUSED]
COCO_STUFF_RAW = public_spec("coco_stuff164k", label_map={raw: label for label, raw in enumerate(_COCO_USED)})
COCO_STUFF_TRAIN_IDS = public_spec("coco_stuff164k")


def ade20k(split: str, *, root: str, download: bool = False) -> SegmentationDataset:
    """``data=ade20k``: ``ADEChallengeData2016/{images,annotations}/{training,validation}``, 150 classes.

    The test split, without labels, is ``release_test/testing`` as its archive has it, or ``images/testing``.
    """
    if split == "test":
        return _ade20k_test(root)
    name = labelled_split(split, {"train": "training", "val": "validation"}, "ADE20K")
    remedy = (
        "ADE20K: data.download=true fetches ADEChallengeData2016.zip (0.9 GB) from its owners; or unpack it and "
        "give the folder that holds images/ and annotations/"
    )
    if download:
        obtain([ADE20K_ARCHIVE], root, done="ADEChallengeData2016/images/validation")
    base = find_base(root, "annotations", ["ADEChallengeData2016"], remedy)
    pairs = pair_files(base / "images" / name, base / "annotations" / name, (".jpg",), (".png",))
    return PairDataset(pairs, ADE20K, origin=str(base / "images" / name))


def _ade20k_test(root: str) -> SegmentationDataset:
    remedy = "ADE20K: unpack release_test.zip (sceneparsing.csail.mit.edu) and give the folder that holds it"
    base = find_base(root, "testing", ["release_test", "ADEChallengeData2016/images", "images"], remedy)
    return UnlabelledDataset(find_images(base / "testing", (".jpg",)), ADE20K, origin=str(base / "testing"))


def cityscapes(split: str, *, root: str) -> SegmentationDataset:
    """``data=cityscapes``: ``leftImg8bit/<split>/<city>`` and ``gtFine/<split>/<city>``, 19 train ids.

    From ``labelIds`` as they come in the archive, or ``labelTrainIds`` where only those are there. The test split has
    images only.
    """
    name = labelled_split(split, {"train": "train", "val": "val", "test": "test"}, "Cityscapes")
    remedy = (
        "Cityscapes: register at cityscapes-dataset.com, unpack leftImg8bit_trainvaltest.zip and "
        "gtFine_trainvaltest.zip into one folder and give it; nothing needs to be prepared"
    )
    base = find_base(root, "leftImg8bit", ["cityscapes", "Cityscapes"], remedy)
    if split == "test":
        images = base / "leftImg8bit" / "test"
        return UnlabelledDataset(find_images(images, ("_leftImg8bit.png",)), CITYSCAPES_LABEL_IDS, origin=str(images))
    labels = base / "gtFine" / name
    if not labels.is_dir():
        raise FileNotFoundError(f"data.root={str(root)!r} has no gtFine/{name}/. {remedy}")
    raw = next(labels.rglob("*_gtFine_labelIds.png"), None) is not None
    tail, spec = (
        ("_gtFine_labelIds.png", CITYSCAPES_LABEL_IDS) if raw else ("_gtFine_labelTrainIds.png", CITYSCAPES_TRAIN_IDS)
    )
    pairs = pair_files(base / "leftImg8bit" / name, labels, ("_leftImg8bit.png",), (tail,))
    return PairDataset(pairs, spec, origin=str(base / "leftImg8bit" / name))


def coco_stuff164k(split: str, *, root: str) -> SegmentationDataset:
    """``data=coco_stuff164k``: ``train2017``, ``val2017`` (or ``images/...``) and the pixel maps, 171 classes.

    Pixel maps as in the archive ``stuffthingmaps_trainval2017`` (category id - 1), or mmseg's ``_labelTrainIds``.
    """
    name = labelled_split(split, {"train": "train2017", "val": "val2017"}, "COCO-Stuff 164k")
    remedy = (
        "COCO-Stuff 164k: unpack train2017.zip and val2017.zip (cocodataset.org) into images/, and "
        "stuffthingmaps_trainval2017.zip (github.com/nightrome/cocostuff) into annotations/"
    )
    base = find_base(root, "images", ["coco_stuff164k", "cocostuff"], remedy)
    candidates = [base / "annotations" / name, base / "stuffthingmaps_trainval2017" / name, base / "labels" / name]
    labels = next((folder for folder in candidates if folder.is_dir()), None)
    if labels is None:
        raise FileNotFoundError(f"data.root={str(root)!r} has no annotations/{name}/. {remedy}")
    converted = next(labels.glob("*_labelTrainIds.png"), None) is not None
    tail, spec = ("_labelTrainIds.png", COCO_STUFF_TRAIN_IDS) if converted else (".png", COCO_STUFF_RAW)
    pairs = pair_files(base / "images" / name, labels, (".jpg",), (tail,))
    return PairDataset(pairs, spec, origin=str(base / "images" / name))
