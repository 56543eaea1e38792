"""Checkpoints and images that are none, or would fill the memory: one clear line, and nothing is decoded before it."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from conftest import Run
from PIL import Image
from small_checkpoint import write_checkpoint

from pspnet_lightning import load
from pspnet_lightning.data import limits
from pspnet_lightning.data.encodings import BinaryLabels, ColourLabels
from pspnet_lightning.data.rasters import TiffRows, image_size
from pspnet_lightning.data.reading import read_any, read_image, read_raw_label
from pspnet_lightning.models import build_pspnet, load_imagenet_weights
from pspnet_lightning.runs.checkpoint_io import latest_checkpoint


class Ran:
    """Unpickling it creates a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("open('ran', 'w').close()",))


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


def saved(content: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def inflating() -> bytes:
    """A checkpoint of 64 kB whose one tensor would be 64 MB: torch's reader inflates what is compressed."""
    plain = io.BytesIO(saved({"pspnet_lightning": {}, "state_dict": {"a": torch.zeros(2**24, dtype=torch.uint8)}}))
    packed = io.BytesIO()
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    return packed.getvalue()


def traced() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), stream)
    return stream.getvalue()


# name -> (the file, what is said of it).
NO_CHECKPOINTS: dict[str, tuple[bytes, str]] = {
    "passwd": (b"root:x:0:0:root:/root:/bin/bash\n", "is not a checkpoint"),
    "nothing": (b"", "is not a checkpoint"),
    "a text": ("Ein Märchen.\n".encode() * 1000, "is not a checkpoint"),
    "a JPEG": (jpeg(), "is not a checkpoint"),
    "zeros": (bytes(100_000), "is not a checkpoint"),
    "a zip of something": (b"PK\x05\x06" + bytes(18), "is not a checkpoint"),
    "the beginning of a zip": (b"PK\x03\x04" + bytes(1000), "cannot be read, it seems torn"),
    "an inflating one": (inflating(), r"is refused: its 0\.\d MB would become 16\.\d MB"),
    "a TorchScript program": (traced(), "cannot be read, it seems torn|is refused"),
    "a pickle": (pickle.dumps(Ran()), "is not a checkpoint"),
    "a checkpoint with a pickle": (saved({"state_dict": {}, "pspnet_lightning": Ran()}), "holds pickled objects"),
    "an old one with a pickle": (saved({"a": Ran()}, _use_new_zipfile_serialization=False), "is not a checkpoint"),
    "a list": (saved([1, 2]), "is not a checkpoint of pspnet-lightning"),
    "a bare state dict": (saved({"a": torch.zeros(1)}), "has no entry 'pspnet_lightning'"),
    "lists for maps": (saved({"state_dict": [], "pspnet_lightning": []}), "must be maps"),
    "texts for tensors": (saved({"state_dict": {"a": "b"}, "pspnet_lightning": {}}), "more than names and tensors"),
    "no config": (saved({"state_dict": {}, "pspnet_lightning": {}}), "its config must map keys to values"),
    "a number for a config": (saved({"state_dict": {}, "pspnet_lightning": {"config": 3}}), "must map keys to values"),
    "an empty config": (saved({"state_dict": {}, "pspnet_lightning": {"config": {}}}), "has no node 'model'"),
}


@pytest.mark.parametrize("name", NO_CHECKPOINTS)
def test_a_file_that_is_no_checkpoint(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = NO_CHECKPOINTS[name]
    (tmp_path / "some.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load("some.ckpt")
    assert "some.ckpt" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    # Also where a checkpoint is looked for, and as weights to begin with.
    assert latest_checkpoint(tmp_path) is None
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pth"):
        load_imagenet_weights(build_pspnet(2, depth=18, stem="plain", width=8), file="weights.pth")
    assert not (tmp_path / "ran").exists()


COMMANDS = {
    "evaluate": ["checkpoint=some.ckpt"],
    "predict": ["checkpoint=some.ckpt", "input=some.ckpt", "output=out"],
    "export": ["checkpoint=some.ckpt"],
    "explain": ["checkpoint=some.ckpt", "output=out"],
    "benchmark": ["model", "checkpoint=some.ckpt"],
    "convert": ["weights=some.ckpt", "source=semseg", "output=a.ckpt", "data=ade20k"],
    "train": ["model=pspnet_tiny", "model.width=8", "data.train_length=8", "data.val_length=2", "ckpt_path=some.ckpt"],
}


@pytest.mark.parametrize(
    ("command_name", "kind"),
    [*zip(COMMANDS, ("passwd", "nothing", "a text", "a JPEG", "zeros", "passwd", "nothing"), strict=True)],
)
def test_every_command_says_it_in_one_line(command_name: str, kind: str, command: Run, tmp_path: Path) -> None:
    (tmp_path / "some.ckpt").write_bytes(NO_CHECKPOINTS[kind][0])
    result = command(command_name, *COMMANDS[command_name], "hydra.run.dir=run")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "some.ckpt' is not a checkpoint" in errors[0]


@pytest.mark.parametrize("kind", ["folder", "pipe", "header"])
def test_what_is_no_file_or_none_of_safetensors(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    if kind == "folder":
        path.mkdir()
        (tmp_path / "a.ckpt").mkdir()
        with pytest.raises(ValueError, match="it is no file"):
            load(tmp_path / "a.ckpt")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(struct.pack("<Q", 2**40) + b"{" * 1000)
    with pytest.raises(ValueError, match=r"a\.safetensors' is no safetensors file"):
        load(path)


def test_a_stored_network_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "good.ckpt")
    content = torch.load(tmp_path / "good.ckpt", weights_only=True)
    model = content["pspnet_lightning"]["config"]["model"]
    spec = content["pspnet_lightning"]["spec"]
    for change, other in (
        ({"depth": "x"}, {}),
        ({"width": -3}, {}),
        ({"width": 10**12}, {}),
        ({"bins": [[[]]]}, {}),
        ({"bins": {"a": 1}}, {}),
        ({"dropout": "much"}, {}),
        ({"width": 16}, {}),
        ({}, {"classes": 3}),
        ({}, {"mean": "abc"}),
        ({}, {"palette": [[1]]}),
        ({}, {"name": None, "classes": [["a"]]}),
    ):
        content["pspnet_lightning"]["config"]["model"] = {**model, **change}
        content["pspnet_lightning"]["spec"] = {**spec, **other}
        torch.save(content, tmp_path / "bad.ckpt")
        with pytest.raises(ValueError, match=r"\w"):
            load(tmp_path / "bad.ckpt")


# ---------------------------------------------------------------------------------------------------------- images


def png(width: int, height: int, depth: int = 8, kind: int = 2) -> bytes:
    """The header of a large PNG and the beginning of its pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(6)) if kind == 3 else b""
    pixels = chunk(b"IDAT", zlib.compress(bytes(10**6)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + pixels + chunk(b"IEND", b"")


def large_jpeg() -> bytes:
    content = bytearray(jpeg())
    place = content.index(b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">HH", 65000, 65000)
    return bytes(content)


def large_bmp() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(stream, "BMP")
    content = bytearray(stream.getvalue())
    content[18:26] = struct.pack("<ii", 60000, 60000)
    return bytes(content)


def large_tiff(path: Path, **options: Any) -> None:
    """60000 x 60000 pixels of zeros, of which the file holds one tile or strip, 0.1 MB of it."""
    small = np.zeros((256, 256), np.uint8)
    tifffile.imwrite(path, small, **options)
    with tifffile.TiffFile(path, mode="r+b") as file:
        tags = file.pages.first.tags
        tags["ImageWidth"].overwrite(60000)
        tags["ImageLength"].overwrite(60000)


READERS: dict[str, Callable[[Path], Any]] = {
    "read_image": read_image,
    "read_any": read_any,
    "read_raw_label": read_raw_label,
    "colours": lambda path: ColourLabels({(0, 0, 0): 0})(path, None),  # type: ignore[arg-type]
    "black and white": lambda path: BinaryLabels()(path, None),  # type: ignore[arg-type]
}
LARGE: dict[str, bytes] = {
    "rgb.png": png(60000, 60000),
    "grey.png": png(60000, 60000, kind=0),
    "wide.png": png(60000, 60000, depth=16, kind=0),
    "palette.png": png(60000, 60000, kind=3),
    "bits.png": png(200_000, 200_000, depth=1, kind=0),
    "large.jpg": large_jpeg(),
    "large.bmp": large_bmp(),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", LARGE)
def test_an_image_is_refused_by_its_header(name: str, reader: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(LARGE[name])
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"more than the 2 GiB|too large to be decoded|cannot be decoded") as caught:
        READERS[reader](path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert name in str(caught.value)
    assert peak < 2**26


@pytest.mark.parametrize("reader", ["read_any", "read_raw_label"])
def test_a_large_tiff_is_refused_whole_and_taken_in_windows(reader: str, tmp_path: Path) -> None:
    large_tiff(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"60000 x 60000 pixels: decoded it takes 3\.4 GiB.*windows"):
        READERS[reader](tmp_path / "a.tif")
    # One that lies on the disk as it is, with a hole for its zeros: as a real one of 3.6 GB does.
    path = tmp_path / "real.tif"
    tifffile.imwrite(path, shape=(60000, 60000), dtype=np.uint8, photometric="minisblack")
    assert image_size(path) == (60000, 60000)
    rows = TiffRows(path, 3)
    assert (rows.height, rows.width) == (60000, 60000)
    assert rows.rows(59990, 60000).shape == (10, 60000, 3)


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_is_not_waited_for_and_a_device_not_read_to_its_end(reader: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "device.png"):
        with pytest.raises(ValueError, match=rf"{name}' is a pipe or a device, not an ordinary file; remove it"):
            READERS[reader](tmp_path / name)


def test_one_tile_is_no_way_round_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((256, 256), np.uint8), tile=(256, 256), compression="zlib")
    with tifffile.TiffFile(path, mode="r+b") as file:
        tags = file.pages.first.tags
        for name in ("ImageWidth", "ImageLength", "TileWidth", "TileLength"):
            tags[name].overwrite(60000)
    with pytest.raises(ValueError, match="more than the 2 GiB"):
        TiffRows(path, 3)


def test_images_below_the_limit_are_read_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    for name in ("a.png", "a.bmp", "a.jpg", "a.webp", "a.tif"):
        Image.fromarray(pixels).save(tmp_path / name, quality=100)
        assert read_image(tmp_path / name).shape == (40, 50, 3)
        monkeypatch.setattr(limits, "LARGEST", 40 * 50 * 3)
        assert read_image(tmp_path / name).shape == (40, 50, 3)
        monkeypatch.setattr(limits, "LARGEST", 40 * 50 * 3 - 1)
        with pytest.raises(ValueError, match="50 x 40 pixels"):
            read_image(tmp_path / name)
        monkeypatch.undo()
    # A progressive JPEG with a comment and fill bytes: the size stands in another segment.
    odd = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    odd = odd[:2] + b"\xff\xff\xfe\x00\x04ab" + odd[2:]
    assert limits._jpeg_size(odd) == (40, 50)
    assert json.dumps(limits._jpeg_size(odd[:30])) == "[0, 0]"
