"""NaN, infinite and complex pixels: errors that name the file and say how many."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import SMALL, Run
from PIL import Image

from pspnet_lightning.data.pixels import PixelError
from pspnet_lightning.data.rasters import TiffRows
from pspnet_lightning.data.reading import read_any, read_raw_label


def bands(dtype: type) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 1000, (20, 30, 4)).astype(dtype)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_pixel_counts_once_whatever_its_bands(tmp_path: Path, value: float) -> None:
    image = bands(np.float32)
    image[3, 4] = value
    image[7, 5:7, 1] = value
    tifffile.imwrite(tmp_path / "a.tif", image)
    with pytest.raises(PixelError, match=r"image '.*a\.tif': 3 of 600 pixels are no finite numbers") as caught:
        read_any(tmp_path / "a.tif")
    assert caught.value.count == 3
    rows = TiffRows(tmp_path / "a.tif", 4)
    assert rows.rows(0, 3).shape == (3, 30, 4)
    with pytest.raises(PixelError, match="2 of 60 pixels"):
        rows.rows(7, 9)
    # A loader's worker sends the class and the message.
    assert str(type(caught.value)(str(caught.value))) == str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_what_is_finite_stays_as_it_is(tmp_path: Path) -> None:
    for dtype in (np.uint8, np.uint16, np.int16, np.float32, np.float64):
        image = bands(dtype)
        tifffile.imwrite(tmp_path / "a.tif", image)
        found = read_any(tmp_path / "a.tif")
        assert found.dtype == (np.uint8 if dtype is np.uint8 else np.float32)
        assert np.array_equal(found, image.astype(found.dtype))
    image = bands(np.float64)
    image[0, 0, 0] = 1e300  # infinite in float32
    tifffile.imwrite(tmp_path / "a.tif", image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PixelError, match="1 of 600"):
            read_any(tmp_path / "a.tif")


def test_complex_values(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", bands(np.float32) + 1j)
    with pytest.raises(ValueError, match=r"image '.*a\.tif' holds values of type complex64, .* as two bands"):
        read_any(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="complex64"):
        TiffRows(tmp_path / "a.tif", 4).rows(0, 1)
    tifffile.imwrite(tmp_path / "label.tif", np.ones((20, 30), np.complex64))
    with pytest.raises(ValueError, match=r"label '.*label\.tif' holds values of type complex64"):
        read_raw_label(tmp_path / "label.tif")


@pytest.fixture
def wide_list(tmp_path: Path) -> list[str]:
    """3 + 2 images of 4 float bands; the arguments for them."""
    root = tmp_path / "set"
    root.mkdir()
    for number in range(5):
        tifffile.imwrite(root / f"{number}.tif", np.random.default_rng(number).uniform(0, 1, (40, 48, 4)).astype("f4"))
        Image.fromarray(np.full((40, 48), number % 2, np.uint8)).save(root / f"{number}.png")
    lines = [f"{number}.tif {number}.png\n" for number in range(5)]
    (root / "train.txt").write_text("".join(lines[:3]))
    (root / "val.txt").write_text("".join(lines[3:]))
    return [
        *("data=list", "data.root=set", "data.train=train.txt", "data.val=val.txt", "data.classes=[a,b]"),
        "data.channels=4",
        "data.mean=[0.5,0.5,0.5,0.5]",
        "data.std=[0.3,0.3,0.3,0.3]",
        "hydra.run.dir=run",
    ]


def spoil(tmp_path: Path, number: int) -> None:
    image = tifffile.imread(tmp_path / "set" / f"{number}.tif")
    image[10:12, 5:8, 2] = np.nan
    tifffile.imwrite(tmp_path / "set" / f"{number}.tif", image)


def test_inspect_counts_them(command: Run, tmp_path: Path, wide_list: list[str]) -> None:
    spoil(tmp_path, 1)
    spoil(tmp_path, 2)
    done = command("inspect", *wide_list)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "pixels that are no finite numbers: 12" in done.stdout
    assert "broken: image 'set/1.tif': 6 of 1920 pixels are no finite numbers" in done.stdout
    assert "2 of 5 pairs are broken" in done.stderr
    splits = json.loads((tmp_path / "run" / "inspect.json").read_text())["splits"]
    assert [split["not_finite"] for split in splits] == [12, 0]
    assert [split["read"] for split in splits] == [1, 2]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_training_names_the_file(command: Run, tmp_path: Path, wide_list: list[str], workers: int) -> None:
    spoil(tmp_path, 1)
    small = [word for word in SMALL if "num_workers" not in word]
    options = ["data.check=0", "data.crop_size=33", "data.batch_size=3", "data.epochs=1"]
    done = command("train", *wide_list, *small, *options, f"data.num_workers={workers}")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "error: image 'set/1.tif': 6 of 1920 pixels are no finite numbers" in done.stderr
