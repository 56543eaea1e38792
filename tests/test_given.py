"""Images from Python: every kind answers the labels of its file, and what would be misread is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from PIL import Image
from small_checkpoint import write_checkpoint

from pspnet_lightning import load
from pspnet_lightning.training.module import SegmentationModule


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> SegmentationModule:
    path = tmp_path_factory.mktemp("net") / "best.ckpt"
    write_checkpoint(path, "data=scenes")
    return load(path, device="auto" if not torch.accelerator.is_available() else "cpu")


def picture() -> np.ndarray:
    generator = np.random.default_rng(3)
    return np.kron(generator.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)


AS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda image: image,
    "array that is not contiguous": lambda image: np.asfortranarray(image),
    "whole numbers of a wider type": lambda image: image.astype(np.int64),
    "float array in 0..255": lambda image: image.astype(np.float64),
    "Pillow": Image.fromarray,
    "tensor": lambda image: torch.from_numpy(image).permute(2, 0, 1),
    "float tensor in 0..255": lambda image: torch.from_numpy(image).permute(2, 0, 1).float(),
}


@pytest.mark.parametrize("kind", AS)
def test_every_kind_answers_the_same(net: SegmentationModule, kind: str) -> None:
    image = picture()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(net.predict(AS[kind](image)), net.predict(image))
    first, second = net.predict([AS[kind](image), image[:, ::-1]])
    assert np.array_equal(first, net.predict(image))
    assert np.array_equal(second, net.predict(image[:, ::-1]))


def files(folder: Path) -> list[Path]:
    """Files of every kind."""
    image, deep = picture(), picture().astype(np.uint16) * 250
    folder.mkdir()
    Image.fromarray(image).save(folder / "rgb.png")
    Image.fromarray(image).save(folder / "photo.jpg")
    Image.fromarray(image[..., 0]).save(folder / "grey.png")
    Image.fromarray(image[..., 1]).save(folder / "dull.jpg")
    Image.fromarray(np.dstack([image, image[..., 0]])).save(folder / "alpha.png")
    Image.fromarray(image[..., [0, 2]]).save(folder / "greyalpha.png")
    Image.fromarray(image).quantize(16).save(folder / "palette.png")
    Image.fromarray(deep[..., 0]).save(folder / "deepgrey.png")
    return sorted(folder.iterdir())


def test_the_command_and_the_api_agree_on_every_kind_of_file(command: Run, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "best.ckpt", "data=scenes")
    found = files(tmp_path / "in")
    done = command("predict", "checkpoint=best.ckpt", "input=in", "output=out", "overlay=false")
    assert done.returncode == 0, done.stderr
    net = load(tmp_path / "best.ckpt").prepare_for_inference()
    assert len(found) == 8
    for path in found:
        label = net.predict(path)
        assert np.array_equal(np.array(Image.open(tmp_path / "out" / "index" / f"{path.stem}.png")), label), path
        assert len(np.unique(label)) > 1
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            opened = net.predict(Image.open(path))
        if path.suffix == ".png":  # Pillow and OpenCV decode a JPEG a little differently
            assert np.array_equal(opened, label), path
        assert bool(said) == (path.stem in ("grey", "dull", "alpha", "greyalpha", "deepgrey")), path


def test_what_is_done_is_said(net: SegmentationModule) -> None:
    image = picture()
    with pytest.warns(UserWarning, match="grey image: its values are taken for red, green and blue alike"):
        assert np.array_equal(net.predict(image[..., 0]), net.predict(np.dstack([image[..., 0]] * 3)))
    with pytest.warns(UserWarning, match=r"fourth channel \(alpha\) is dropped"):
        assert np.array_equal(net.predict(np.dstack([image, image[..., 0]])), net.predict(image))


NAN = np.full((48, 64, 3), 100.0)
NAN[3, 4] = np.nan
REFUSED: dict[str, tuple[Any, str]] = {
    "0..1": (picture() / 255, r"values from 0 to 0.976.*: .*0\.\.255; give \(255 \* image\)"),
    "0..1 tensor": (torch.from_numpy(picture()).permute(2, 0, 1) / 255, r"of a tensor \(255 \* image\)"),
    "16 bits": (picture().astype(np.uint16) * 257, r"an image of uint16 with values from .*image >> 8"),
    "normalised": (picture() / 128.0 - 1, r"values from -1 to .*normalises them itself"),
    "NaN": (NAN, "1 of 3072 pixels are no finite numbers"),
    "true and false": (picture() > 100, "an image of bool"),
    "planes first": (picture().transpose(2, 0, 1), r"shape \(3, 48, 64\): expected \(H, W, 3\)"),
    "planes last": (torch.from_numpy(picture()), r"shape \(48, 64, 3\): .*permute\(2, 0, 1\)"),
    "a batch": (torch.zeros(2, 3, 8, 8), r"list\(batch\)"),
    "nothing": (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
    "text in bytes": (b"photo.jpg", "type bytes"),
    "no image": (3, "type int: give a path"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_be_misread_is_refused(net: SegmentationModule, kind: str) -> None:
    given, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        net.predict(given)


def test_names_colours_and_an_overlay(net: SegmentationModule) -> None:
    assert net.classes[:2] == net.spec.classes[:2]
    assert len(net.palette) == len(net.classes) == 11
    image, labels = picture(), net.predict(picture())
    laid = net.overlay(image, labels, opacity=0.25)
    expected = 0.75 * image + 0.25 * np.array(net.palette)[labels]
    assert laid.dtype == np.uint8
    assert np.abs(laid - expected).max() <= 0.5 + 1e-9
    with pytest.raises(ValueError, match=r"labels of shape \(48, 63\) for an image of \(48, 64\)"):
        net.overlay(image, labels[:, 1:])


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "best.ckpt", "data=scenes")
    with pytest.raises(ValueError, match="device='moon' cannot be used"):
        load(tmp_path / "best.ckpt", device="moon")
