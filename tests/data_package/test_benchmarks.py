"""The benchmarks' layouts: labels as published, splits of the right images, and a run of each through the command."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, Run
from miniatures import MINIATURES, SETTINGS, cityscapes

from pspnet_lightning.data import public
from pspnet_lightning.data.folds import FoldSource
from pspnet_lightning.data.public import aerial, scene_parsing
from pspnet_lightning.data.specs import known_classes

# Of each: classes, training samples, labels that the miniature's raw values become.
EXPECTED = {
    "ade20k": (150, 4, {0, 1, 149, 255}),
    "cityscapes": (19, 4, {0, 1, 18, 255}),
    "coco_stuff164k": (171, 4, {0, 11, 170, 255}),
    "drive": (2, 4, {0, 1, 255}),
    "kvasir_seg": (2, 4, {0, 1}),
    "loveda": (7, 4, {0, 6, 255}),
    "oxford_pet": (2, 4, {0, 1, 255}),
    "pascal_context": (59, 4, {0, 58, 255}),
    "potsdam": (6, 24 * 6, {0, 1, 2, 3, 4, 5}),
    "vaihingen": (6, 16 * 6, {0, 1, 2, 3, 4, 5}),
    "voc2012": (21, 4, {0, 1, 20, 255}),
    "voc2012_aug": (21, 7, {0, 1, 2, 3, 20, 255}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_layout(name: str, tmp_path: Path) -> None:
    MINIATURES[name](tmp_path)
    classes, count, labels = EXPECTED[name]
    options = {"tile_size": 64, "overlap": 32} if name in ("potsdam", "vaihingen") else {}
    if name == "kvasir_seg":
        options = {"val_images": 2}
    train = getattr(public, name)("train", root=str(tmp_path), **options)
    val = getattr(public, name)("val", root=str(tmp_path), **options)
    assert train.spec.num_classes == classes == val.spec.num_classes
    assert len(train) == count
    found: set[int] = set()
    for index in range(len(train)):
        image, label = train.read(index)
        assert image.dtype == np.uint8
        assert image.shape == (*label.shape, 3)
        found |= set(np.unique(label).tolist())
    assert found == labels
    assert not {train.name(index) for index in range(len(train))} & {val.name(index) for index in range(len(val))}


@pytest.mark.parametrize("name", MINIATURES)
def test_each_layout_trains(command: Run, name: str, tmp_path: Path) -> None:
    MINIATURES[name](tmp_path / "set")
    sizes = ["data.crop_size=33", "data.batch_size=4", "data.epochs=1", "hydra.run.dir=run", "callbacks.pictures=null"]
    short = ["trainer.limit_train_batches=1", "trainer.limit_val_batches=2", "data.check=2", "augment=strong"]
    result = command("train", f"data={name}", "data.root=set", *sizes, *short, *SMALL, *SETTINGS.get(name, []))
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "run" / "results.json").is_file()


def test_cityscapes_train_ids(tmp_path: Path) -> None:
    cityscapes(tmp_path, "labelTrainIds", (0, 1, 18, 255))
    data = public.cityscapes("train", root=str(tmp_path))
    assert set(np.unique(data.read(0)[1])) == {0, 1, 18, 255}


def test_cityscapes_label_map_is_the_official_one() -> None:
    # Two ends and the holes: 16 tunnel, 29 caravan and 30 trailer are not evaluated.
    table = scene_parsing.CITYSCAPES_LABEL_IDS.label_map
    assert table is not None
    assert [table[raw] for raw in (7, 8, 11, 16, 23, 24, 28, 29, 30, 31, 33, 0)] == [
        *(0, 1, 2, 255, 10, 11, 15, 255, 255, 16, 18, 255)
    ]
    assert known_classes("cityscapes")[0][10] == "sky"


def test_coco_stuff_map_leaves_out_what_was_never_annotated() -> None:
    table = scene_parsing.COCO_STUFF_RAW.label_map
    assert table is not None
    assert len(table) == 171
    assert (table[0], table[10], table[12], table[181]) == (0, 10, 11, 170)
    assert known_classes("coco_stuff164k")[0][11] == "stop sign"


def test_isprs_splits_are_the_published_ones() -> None:
    assert len(aerial.POTSDAM_TRAIN) == 24
    assert len(aerial.POTSDAM_VAL) == 14
    assert not set(aerial.POTSDAM_TRAIN) & set(aerial.POTSDAM_VAL)
    assert sorted((*aerial.VAIHINGEN_TRAIN, *aerial.VAIHINGEN_VAL))[-1] == 38
    assert len(aerial.VAIHINGEN_TRAIN) + len(aerial.VAIHINGEN_VAL) == 33


@pytest.mark.parametrize("name", ["pascal_context", "coco_stuff164k", "loveda", "kvasir_seg"])
def test_splits_without_public_labels_are_refused(name: str, tmp_path: Path) -> None:
    MINIATURES[name](tmp_path)
    with pytest.raises(ValueError, match="labels of the test split are not public"):
        getattr(public, name)("test", root=str(tmp_path))


@pytest.mark.parametrize("name", ["ade20k", "cityscapes", "voc2012", "voc2012_aug"])
def test_the_servers_images_are_asked_for_by_name(name: str, tmp_path: Path) -> None:
    MINIATURES[name](tmp_path)
    with pytest.raises(FileNotFoundError, match=r"test"):
        getattr(public, name)("test", root=str(tmp_path))


@pytest.mark.parametrize("name", EXPECTED)
def test_a_wrong_root_says_where_to_get_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="unpack"):
        getattr(public, name)("train", root=str(tmp_path))


def test_drive_by_cross_validation(tmp_path: Path) -> None:
    """All of training/ is dealt out to the folds, whether test/ has labels or not; outside the view nothing counts."""
    MINIATURES["drive"](tmp_path)
    labels = tmp_path / "test" / "1st_manual"
    for there in (True, False):
        if not there:
            labels.rename(tmp_path / "elsewhere")
        source = partial(public.drive, root=str(tmp_path), val_images=0)
        seen = []
        for fold in range(2):
            folds = FoldSource(source, folds=2, fold=fold)
            train, val = folds("train"), folds("val")
            assert (len(train), len(val)) == (2, 2)
            seen += [Path(val.name(index)).name for index in range(len(val))]
            assert all((val.label(index)[:8] == 255).all() for index in range(len(val)))
            assert not any((val.label(index)[8:] == 255).any() for index in range(len(val)))
        assert sorted(seen) == [f"{number}_training.tif" for number in range(21, 25)]
        assert [len(public.drive(split, root=str(tmp_path), val_images=1)) for split in ("train", "val")] == [3, 1]
    with pytest.raises(ValueError, match=r"data\.val_images=0 leaves no image of DRIVE's training/ for the val split"):
        public.drive("val", root=str(tmp_path), val_images=0)
    with pytest.raises(
        ValueError, match=r"data\.val_images=4 leaves no image of DRIVE's training/ for the train split"
    ):
        public.drive("train", root=str(tmp_path), val_images=4)
    with pytest.raises(ValueError, match="no 1st_manual/; its labels are not public"):
        public.drive("test", root=str(tmp_path))


def test_drive_without_a_field_of_view(tmp_path: Path) -> None:
    MINIATURES["drive"](tmp_path)
    (tmp_path / "training" / "mask" / "22_training_mask.gif").unlink()
    data = public.drive("train", root=str(tmp_path))
    data.read(0)
    with pytest.raises(FileNotFoundError, match=r"22_manual1\.gif' has no field of view .*22_\*_mask\.gif"):
        data.read(1)
