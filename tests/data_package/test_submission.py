"""Names and values of prediction files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pspnet_lightning.data import DataSpec, default_palette
from pspnet_lightning.data.datasets import SegmentationDataset
from pspnet_lightning.data.public.scene_parsing import ADE20K, CITYSCAPES_LABEL_IDS, CITYSCAPES_TRAIN_IDS
from pspnet_lightning.data.public.voc import VOC2012
from pspnet_lightning.data.submission import png_names, prediction_files


class Named(SegmentationDataset):
    """A data set of names only."""

    def __init__(self, spec: DataSpec, *names: str) -> None:
        self.spec, self.names = spec, names

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def name(self, index: int) -> str:
        return self.names[index]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["/d/x/a.jpg", "/d/x/b.c.jpg"], ["a.png", "b.c.png"]),
        (["/d/x/a.jpg", "/d/y/a.jpg"], ["x/a.png", "y/a.png"]),
        (["/d/a.jpg", "/d/a.png", "/d/b.png"], ["a.jpg.png", "a.png.png", "b.png"]),
        (["/d/t_2_13.tif[0:512,512:1024]", "/d/t_2_13.tif[512:1024,0:512]"], ["t_2_13_0_512.png", "t_2_13_512_0.png"]),
        (["scene val 0", "scene val 1"], ["scene val 0.png", "scene val 1.png"]),
        (["2007.000346"], ["2007.000346.png"]),
    ],
)
def test_names(names: list[str], expected: list[str]) -> None:
    assert [path.as_posix() for path in png_names(names)] == expected


def test_whole_names_keep_a_folder_that_all_share() -> None:
    assert png_names(["a/x.jpg", "a/y.jpg"], whole=True) == (Path("a/x.png"), Path("a/y.png"))


@pytest.mark.parametrize("spec", [CITYSCAPES_LABEL_IDS, CITYSCAPES_TRAIN_IDS])
def test_cityscapes_ids_whatever_the_labels_on_disk_hold(spec: DataSpec) -> None:
    files = prediction_files(Named(spec, "/d/leftImg8bit/test/b/b_000000_000019_leftImg8bit.png"), "test")
    # cityscapesScripts, helpers/labels.py: id of road, sidewalk, ..., motorcycle, bicycle.
    assert files.values[:19].tolist() == [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert files.paths == (Path("b_000000_000019_leftImg8bit.png"),)
    assert files.palette is None


def test_ade20k_counts_from_one_and_voc_from_zero() -> None:
    assert prediction_files(Named(ADE20K, "x.jpg"), "test").values[:150].tolist() == list(range(1, 151))
    voc = prediction_files(Named(VOC2012, "2008_000006.jpg"), "test")
    assert voc.values[:21].tolist() == list(range(21))
    assert voc.paths == (Path("results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png"),)


def test_merged_and_wide_values_stay_class_indices() -> None:
    spec = DataSpec("own", ("a", "b"), default_palette(2), label_map={1: 0, 2: 0, 3: 1})
    assert prediction_files(Named(spec, "x.png"), "val").values[:2].tolist() == [0, 1]
    wide = DataSpec("own", ("a", "b"), default_palette(2), label_map={100: 0, 1000: 1})
    assert prediction_files(Named(wide, "x.png"), "val").values[:2].tolist() == [0, 1]
    own = DataSpec("own", ("a", "b"), default_palette(2), label_map={10: 0, 20: 1})
    files = prediction_files(Named(own, "x.png"), "val")
    assert files.values[:2].tolist() == [10, 20]
    assert files.palette is None, "its colours are those of class indices"
