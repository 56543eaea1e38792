"""Files on disk as labels and images; the layouts of CamVid; specs that fit together."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import FRAMES
from PIL import Image

from pspnet_lightning.data import DataSpec, check_labels, count_classes, default_palette, first_images, list_file
from pspnet_lightning.data.public.camvid import CAMVID, camvid
from pspnet_lightning.data.reading import read_image, read_raw_label


def make_camvid(root: Path, suffix: str, *, lists: bool) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        lines = []
        for number in range(count):
            stem = f"0001TP_{number:05}"
            Image.fromarray(rng.integers(0, 256, (36, 48, 3), np.uint8)).save(root / split / f"{stem}{suffix}")
            Image.fromarray(rng.integers(0, 12, (36, 48), np.uint8)).save(root / f"{split}annot" / f"{stem}.png")
            lines.append(f"/SegNet/CamVid/{split}/{stem}{suffix} /SegNet/CamVid/{split}annot/{stem}.png\n")
        if lists:
            (root / f"{split}.txt").write_text("".join(lines[: count - 1]))


@pytest.mark.parametrize(("suffix", "lists", "count"), [(".jpg", False, 3), (".png", True, 2)])
def test_both_layouts_of_camvid(tmp_path: Path, suffix: str, lists: bool, count: int) -> None:
    make_camvid(tmp_path, suffix, lists=lists)
    data = camvid("train", root=str(tmp_path))
    assert len(data) == count
    image, label = data.read(0)
    raw = np.array(Image.open(tmp_path / "trainannot" / "0001TP_00000.png"))
    assert (label == np.where(raw == 11, 255, raw)).all()
    if suffix == ".png":
        assert (image == np.array(Image.open(tmp_path / "train" / "0001TP_00000.png"))).all()


def test_camvid_mistakes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder train/.*SegNet tutorial"):
        camvid("train", root=str(tmp_path))
    make_camvid(tmp_path, ".jpg", lists=False)
    (tmp_path / "trainannot" / "0001TP_00001.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 images .* have no label .*0001TP_00001\.jpg"):
        camvid("train", root=str(tmp_path))


@pytest.mark.skipif(not FRAMES.is_dir(), reason=f"the real frames are not at {FRAMES.name}/; set PSPNET_CAMVID")
def test_the_real_frames() -> None:
    train, val = camvid("train", root=str(FRAMES)), camvid("val", root=str(FRAMES))
    assert (len(train), len(val)) == (367, 101)
    assert train.read(0)[0].shape == (360, 480, 3)
    check_labels(train)
    counts = count_classes(val)
    assert counts.argmax() == CAMVID.classes.index("road") or counts.argmax() == CAMVID.classes.index("building")
    assert (counts > 0).all()


def test_palette_png_is_read_as_indices(tmp_path: Path) -> None:
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4)
    picture = Image.fromarray(indices, mode="P")
    picture.putpalette([value for colour in default_palette(12) for value in colour])
    picture.save(tmp_path / "palette.png")
    assert (read_raw_label(tmp_path / "palette.png") == indices).all()
    assert cv2.imread(str(tmp_path / "palette.png")).max() > 100  # what OpenCV makes of it: colours


def test_grey_images_become_three_equal_channels(tmp_path: Path) -> None:
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert (read_image(tmp_path / "grey.png") == grey[..., None]).all()


def test_label_map_and_off_by_one(small_list: Path) -> None:
    options = {"root": str(small_list), "train": "train.txt", "val": "val.txt"}
    shifted = list_file("train", **options, classes=["a", "b"], label_map={0: 255, 1: 0, 2: 1})
    plain = list_file("train", **options, classes=["a", "b", "c"])
    raw = plain.read(0)[1]
    assert (shifted.read(0)[1] == np.where(raw == 0, 255, raw.astype(int) - 1)).all()
    with pytest.raises(ValueError, match=r"values outside the 2 classes of list: 2 .*one too far: if 0 means other"):
        check_labels(list_file("train", **options, classes=["a", "b"]))
    with pytest.raises(ValueError, match=r"data\.test is not given"):
        list_file("test", **options, classes=["a", "b", "c"])


def test_first_images(small_list: Path) -> None:
    data = list_file("train", root=str(small_list), train="train.txt", val="val.txt", classes=["a", "b", "c"])
    first = first_images(data, 2)
    assert len(first) == 2
    assert first.name(1) == data.name(1)
    with pytest.raises(ValueError, match=r"data\.overfit=7 must lie in 1\.\.6"):
        first_images(data, 7)


def test_spec_survives_a_checkpoint() -> None:
    assert DataSpec.from_dict(CAMVID.to_dict()) == CAMVID


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ()}, "classes is empty"),
        ({"classes": ("a", "a")}, "occur twice: a"),
        ({"palette": ((0, 0, 0),)}, "1 colours for 2 classes"),
        ({"palette": ((0, 0, 0), (0, 0, 300))}, r"\[0, 0, 300\]"),
        ({"ignore_index": 1}, r"ignore_index=1 must lie in 2\.\.255"),
        ({"label_map": {0: 5}}, "sends 0 to 5"),
        ({"std": (0.0, 1.0, 1.0)}, "std above 0"),
        ({"classes": tuple(map(str, range(256))), "palette": default_palette(256)}, "at most 255"),
    ],
)
def test_spec_mistakes(changes: dict[str, object], message: str) -> None:
    options = {"name": "x", "classes": ("a", "b"), "palette": default_palette(2), **changes}
    with pytest.raises(ValueError, match=message):
        DataSpec(**options)
