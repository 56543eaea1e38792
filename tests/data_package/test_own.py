"""data=folder and data=list with every way of coding labels, channels and splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import SMALL, Run
from miniatures import blocks, picture, save
from PIL import Image

from pspnet_lightning import load
from pspnet_lightning.data import TrainTransform, folder, list_file
from pspnet_lightning.data.tiles import TiledDataset, cut

CLASSES = ["a", "b", "c"]


def make(root: Path, *, count: int = 10, images: str = "images", masks: str = "masks") -> None:
    for number in range(count):
        label = blocks([0, 1, 2], number)
        save(picture(label), root / images / f"{number:02}.png")
        save(label, root / masks / f"{number:02}.png")


def names(data: object) -> list[str]:
    return [Path(data.name(index)).stem for index in range(len(data))]


def test_splits_by_fraction_by_folder_and_by_list(tmp_path: Path) -> None:
    make(tmp_path / "fraction")
    options = {"root": str(tmp_path / "fraction"), "classes": CLASSES}
    train, val = folder("train", **options), folder("val", **options)
    assert (len(train), len(val)) == (8, 2)
    assert sorted(names(train) + names(val)) == [f"{number:02}" for number in range(10)]
    assert names(folder("val", **options)) == names(val) != names(folder("val", **options, split_seed=1))

    (tmp_path / "fraction" / "train.txt").write_text("00\n01.png\nimages/02.png\n")
    (tmp_path / "fraction" / "val.txt").write_text("03\n")
    listed = {**options, "train": "train.txt", "val": "val.txt"}
    assert names(folder("train", **listed)) == ["00", "01", "02"]

    for parts in (("train/images", "train/masks"), ("images/train", "masks/train")):
        root = tmp_path / parts[0].replace("/", "_")
        make(root, images=parts[0], masks=parts[1])
        assert len(folder("train", root=str(root), classes=CLASSES)) == 10
        with pytest.raises(FileNotFoundError, match="has a train folder but none for val"):
            folder("val", root=str(root), classes=CLASSES)


def test_colour_coded_masks(tmp_path: Path) -> None:
    (tmp_path / "map.txt").write_text("# r g b name\n0 0 0 soil\n10 200 30 crop\n20 210 30 crop\n255 0 0 ignore\n")
    label = np.zeros((32, 48, 3), np.uint8)
    label[:8], label[8:16], label[16:20] = (10, 200, 30), (20, 210, 30), (255, 0, 0)
    for number in range(3):
        save(label, tmp_path / "masks" / f"{number}.png")
        save(picture(label[..., 0]), tmp_path / "images" / f"{number}.jpg")
    options = {"root": str(tmp_path), "classes": None, "labels": "colour", "colour_map": "map.txt", "val_fraction": 0.4}
    data = folder("train", **options)
    assert data.spec.classes == ("soil", "crop")
    assert [int(data.read(0)[1][row, 0]) for row in (0, 8, 16, 31)] == [1, 1, 255, 0]
    label[0, :2] = (1, 2, 3)
    for number in range(3):
        save(label, tmp_path / "masks" / f"{number}.png")
    with pytest.raises(ValueError, match=r"colours that the colour map .* does not name: \(1, 2, 3\) in 2 pixels"):
        data.read(0)


def test_binary_jpeg_masks(tmp_path: Path) -> None:
    for number in range(4):
        label = blocks([0, 255], number)
        save(picture(label), tmp_path / "images" / f"{number}.png")
        save(label, tmp_path / "masks" / f"{number}.jpg")
    data = folder("train", root=str(tmp_path), classes=["no", "yes"], labels="binary", val_fraction=0.25)
    assert set(np.unique(data.read(0)[1])) == {0, 1}
    assert data.read(0)[1].mean() == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["planes_first", "planes_last"])
def test_multi_band_sixteen_bit_images(tmp_path: Path, kind: str) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 60000, (5, 48, 64, 6), dtype=np.uint16)
    for number, image in enumerate(pixels):
        (tmp_path / "images").mkdir(exist_ok=True)
        written = np.moveaxis(image, 2, 0) if kind == "planes_first" else image
        tifffile.imwrite(tmp_path / "images" / f"{number}.tif", written, photometric="minisblack")
        save(blocks([0, 1, 2], number), tmp_path / "masks" / f"{number}.png")
    options = {"root": str(tmp_path), "classes": CLASSES, "channels": 6}
    train, val = folder("train", **options), folder("val", **options)
    image, label = train.read(0)
    assert image.dtype == np.float32
    assert np.array_equal(image, pixels[int(names(train)[0])])
    assert train.spec == val.spec
    used = np.concatenate([pixels[int(name)].reshape(-1, 6) for name in names(train)]).astype(float)
    assert train.spec.mean == pytest.approx(used.mean(0), rel=1e-5)
    assert train.spec.std == pytest.approx(used.std(0), rel=1e-5)
    chosen = folder("train", **{**options, "channels": 2, "bands": [5, 0]})
    assert np.array_equal(chosen.read(0)[0], image[..., [5, 0]])
    crop, crop_label = TrainTransform(33, mean=train.spec.mean)(image, label, np.random.default_rng(0))
    assert crop.shape == (33, 33, 6)
    assert crop.dtype == np.float32
    assert crop_label.shape == (33, 33)
    with pytest.raises(ValueError, match="has 6 channels, expected 4"):
        folder("train", root=str(tmp_path), classes=CLASSES, channels=4, mean=[0.0] * 4).read(0)


def test_grey_images(tmp_path: Path) -> None:
    for number in range(4):
        label = blocks([0, 1, 2], number)
        save(picture(label)[..., 0], tmp_path / "images" / f"{number}.png")
        save(label, tmp_path / "masks" / f"{number}.png")
    data = folder("train", root=str(tmp_path), classes=CLASSES, channels=1)
    image, label = data.read(0)
    assert image.shape == (*label.shape, 1)
    assert len(data.spec.mean) == 1
    assert TrainTransform(40, mean=data.spec.mean)(image, label, np.random.default_rng(1))[0].shape == (40, 40, 1)


def test_palette_png_gives_its_indices(tmp_path: Path) -> None:
    for number in range(2):
        label = blocks([0, 1, 2], number)
        save(picture(label), tmp_path / f"{number}.jpg")
        indexed = Image.fromarray(label, mode="P")
        indexed.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        indexed.save(tmp_path / f"{number}.png")
    (tmp_path / "all.txt").write_text("0.jpg 0.png\n1.jpg 1.png\n")
    data = list_file("train", root=str(tmp_path), train="all.txt", val="all.txt", classes=CLASSES)
    assert np.array_equal(data.read(1)[1], blocks([0, 1, 2], 1))


def test_tiles_cover_every_pixel() -> None:
    for height, width, size in ((100, 130, 32), (32, 32, 64), (64, 64, 32)):
        counts = np.zeros((height, width), int)
        for window in cut(height, width, size, 0):
            counts[window.top : window.top + window.height, window.left : window.left + window.width] += 1
        assert (counts == 1).all()
        for window in cut(height, width, size, size // 2):
            counts[window.top : window.top + window.height, window.left : window.left + window.width] += 1
            assert window.height == min(size, height)
        assert (counts >= 2).all()


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_windows_of_tiles_equal_the_whole(tmp_path: Path, compression: str | None) -> None:
    from pspnet_lightning.data.public.aerial import _ISPRS_LABELS
    from pspnet_lightning.data.specs import known_classes, public_spec

    label = blocks([0, 1, 2, 3, 4, 5], 0, (96, 128))
    tifffile.imwrite(tmp_path / "i.tif", picture(label), compression=compression)
    tifffile.imwrite(tmp_path / "l.tif", np.array(known_classes("isprs")[1], np.uint8)[label], compression=compression)
    data = TiledDataset(
        [(tmp_path / "i.tif", tmp_path / "l.tif")],
        public_spec("potsdam", "isprs"),
        tile_size=40,
        overlap=10,
        origin="here",
        coding=_ISPRS_LABELS,
    )
    for index in range(len(data)):
        _, window = data.windows[index]
        rows, columns = slice(window.top, window.top + 40), slice(window.left, window.left + 40)
        image, found = data.read(index)
        assert np.array_equal(found, label[rows, columns])
        assert np.array_equal(image, picture(label)[rows, columns])


def test_multi_band_images_train_evaluate_and_predict(command: Run, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for number in range(6):
        label = blocks([0, 1, 2], number)
        image = label[..., None].astype(int) * 9000 + generator.integers(0, 5000, (*label.shape, 5))
        (tmp_path / "set" / "images").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(
            tmp_path / "set" / "images" / f"{number}.tif", image.astype(np.uint16), photometric="minisblack"
        )
        save(label, tmp_path / "set" / "masks" / f"{number}.png")
    arguments = ["data=folder", "data.root=set", "data.classes=[a,b,c]", "data.channels=5", "data.crop_size=33"]
    result = command("train", *arguments, "data.batch_size=2", "data.epochs=1", "hydra.run.dir=run", *SMALL)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "validation.png").is_file()
    # The checkpoint knows mean and deviation: no training image is needed to evaluate.
    for number in range(5):
        (tmp_path / "set" / "images" / f"{number}.tif").write_bytes(b"gone")
    (tmp_path / "set" / "val.txt").write_text("5\n")
    result = command("evaluate", "checkpoint=run/checkpoints/best.ckpt", "+data.val=val.txt", "hydra.run.dir=evaluated")
    assert result.returncode == 0, result.stderr
    module = load(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert module.predict(tifffile.imread(tmp_path / "set" / "images" / "5.tif")).shape == (48, 64)
