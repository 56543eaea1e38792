"""Broken data and checkpoints: a clear error that names the file, exit code 1, nothing written."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import Run, list_arguments
from PIL import Image


class Broken(NamedTuple):
    """A way to break a data set: what is done to it, further arguments, and what must be said."""

    damage: Callable[[Path], object]
    message: str
    arguments: tuple[str, ...] = ()


def truncated(path: Path, part: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


def jpeg(root: Path) -> Path:
    """The first image as JPEG, under its old name: what counts is the content."""
    image = Image.open(root / "images" / "0.png")
    image.save(root / "images" / "0.jpg", quality=90)
    return (root / "images" / "0.jpg").replace(root / "images" / "0.png")


def relabel(root: Path, change: Callable[[np.ndarray], np.ndarray], number: int = 0) -> None:
    path = root / "labels" / f"{number}.png"
    Image.fromarray(change(np.array(Image.open(path)))).save(path)


def foreign_values(label: np.ndarray) -> np.ndarray:
    label[:4, :4] = 3
    label[0, 0] = 77
    return label


def flipped_byte(root: Path) -> None:
    path = root / "labels" / "0.png"
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 3] ^= 0x55
    path.write_bytes(bytes(content))


def as_palette_rgb(root: Path) -> None:
    path = root / "labels" / "0.png"
    Image.open(path).convert("P").convert("RGB").save(path)


def every_label(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda root: [relabel(root, change, number) for number in range(9)] and None


def text(name: str, content: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(content)


def as_folder(root: Path) -> None:
    (root / "labels").rename(root / "masks")


def two(*steps: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda root: [step(root) for step in steps]


FOLDER = ("data=folder",)
COLOUR = ("data.labels=colour", "data.colour_map=map.txt", "data.classes=null")
MAP = "0 0 0 a\n1 1 1 b\n2 2 2 c\n"
PAIR = "images/0.png labels/0.png\n"

BROKEN = {
    # folders and lists
    "no_root": Broken(lambda root: root.rename(root.with_name("elsewhere")), r"data\.root='[^']*set' is not a folder"),
    "root_is_a_file": Broken(lambda root: None, r"train\.txt' is not a folder", ("data.root=set/train.txt",)),
    "empty_list": Broken(text("train.txt", "\n"), r"list '.*train\.txt' names no image: the split is empty"),
    "no_list": Broken(lambda root: (root / "train.txt").unlink(), r"the list '.*train\.txt' does not exist"),
    "no_val_list": Broken(lambda root: (root / "val.txt").unlink(), r"the list '.*val\.txt' does not exist"),
    "image_without_label": Broken(
        lambda root: (root / "train.txt").open("a").write("images/0.png\n"),
        r"train\.txt': 1 lines are not a pair.*line 7: 'images/0\.png'",
    ),
    "three_words": Broken(text("train.txt", "a b c\n" + PAIR), r"train\.txt': 1 lines are not a pair.*line 1: 'a b c'"),
    "missing_label": Broken(
        lambda root: (root / "labels" / "3.png").unlink(), r"1 files do not exist:\s+\S*labels/3\.png"
    ),
    "missing_images": Broken(
        lambda root: [(root / "images" / f"{number}.png").unlink() for number in (1, 2)],
        r"2 files do not exist:\s+\S*images/1\.png\s+\S*images/2\.png",
    ),
    "fewer_than_a_batch": Broken(text("train.txt", PAIR), r"has 1 images, fewer than data\.batch_size=2"),
    # images
    "image_truncated_jpeg": Broken(lambda root: truncated(jpeg(root)), r"image '.*images/0\.png' is truncated"),
    "image_truncated_png": Broken(
        lambda root: truncated(root / "images" / "0.png"), r"image '.*images/0\.png' cannot be decoded"
    ),
    "image_is_text": Broken(text("images/0.png", "hello"), r"image '.*images/0\.png' cannot be decoded"),
    "image_empty": Broken(text("images/0.png", ""), r"'.*images/0\.png' is empty"),
    "image_is_a_folder": Broken(
        lambda root: ((root / "images" / "0.png").unlink(), (root / "images" / "0.png").mkdir()),
        r"files do not exist:\s+\S*images/0\.png",
    ),
    "image_is_a_dead_link": Broken(
        lambda root: ((root / "images" / "0.png").unlink(), (root / "images" / "0.png").symlink_to("gone")),
        r"files do not exist:\s+\S*images/0\.png",
    ),
    # labels
    "label_truncated": Broken(
        lambda root: truncated(root / "labels" / "0.png"), r"label '.*labels/0\.png' cannot be decoded"
    ),
    "label_cut_at_its_end": Broken(
        lambda root: truncated(root / "labels" / "0.png", 0.85), r"label '.*labels/0\.png' cannot be decoded"
    ),
    "label_with_a_flipped_byte": Broken(flipped_byte, r"label '.*labels/0\.png' cannot be decoded"),
    "label_is_text": Broken(text("labels/0.png", "hello"), r"label '.*labels/0\.png' cannot be decoded"),
    "label_empty": Broken(text("labels/0.png", ""), r"'.*labels/0\.png' is empty"),
    "sizes_differ": Broken(
        lambda root: relabel(root, lambda label: label[:, :60]),
        r"sizes differ: image '.*images/0\.png' is 64 x 48, label '.*labels/0\.png' is 60 x 48",
    ),
    "label_turned": Broken(
        lambda root: relabel(root, lambda label: np.ascontiguousarray(label.T)),
        r"sizes differ: .*labels/0\.png' is 48 x 64",
    ),
    "foreign_values": Broken(
        lambda root: relabel(root, foreign_values),
        r"label '.*labels/0\.png' holds values outside the 3 classes of list: 3, 77 \(allowed: 0-2, 255\)",
    ),
    "off_by_one": Broken(
        every_label(lambda label: label + 1),
        r"labels/0\.png' holds .*: 3 .*one too far: if 0 means other \(as in ADE20K\)",
    ),
    "sixteen_bit_values": Broken(
        lambda root: relabel(root, lambda label: np.full_like(label, 700, np.uint16)),
        r"label '.*labels/0\.png' holds values outside the 3 classes of list: 700",
    ),
    "palette_as_rgb": Broken(as_palette_rgb, r"label '.*labels/0\.png' is a colour image \(mode RGB\).*palette PNG"),
    "all_ignored": Broken(
        every_label(lambda label: np.full_like(label, 255)), r"not one labelled pixel in 6 of 6 training labels"
    ),
    "foreign_in_validation_only": Broken(
        lambda root: relabel(root, foreign_values, 8), r"label '.*labels/8\.png' holds values outside"
    ),
    # what the arguments say
    "label_map_outside": Broken(lambda root: None, r"label_map sends 1 to 9", ("data.label_map={0:0,1:9}",)),
    "label_map_incomplete": Broken(
        lambda root: None, r"labels/\d\.png' holds values outside .*: [12]", ("data.label_map={0:0}",)
    ),
    "classes_twice": Broken(lambda root: None, r"class names occur twice: a", ("data.classes=[a,b,a]",)),
    "no_classes": Broken(lambda root: None, r"data\.classes is required", ("data.classes=null",)),
    "palette_too_short": Broken(lambda root: None, r"palette has 1 colours for 3 classes", ("data.palette=[[0,0,0]]",)),
    "ignored_value_is_a_class": Broken(
        lambda root: None, r"ignore_index=2 must lie in 3\.\.255", ("data.ignore_index=2",)
    ),
    "mean_of_other_channels": Broken(
        lambda root: None, r"mean=\[1\.0\] has 1 values", ("data.mean=[1]", "data.std=[1]")
    ),
    "unknown_labels": Broken(lambda root: None, r"data\.labels=rgb must be index, binary or", ("data.labels=rgb",)),
    "channels_of_the_file": Broken(
        lambda root: None, r"images/0\.png' has 3 channels, expected 4", ("data.channels=4", "data.mean=[1,1,1,1]")
    ),
    # data=folder
    "folder_without_masks": Broken(lambda root: None, r"there is no folder '.*set/masks'", FOLDER),
    "folder_image_without_mask": Broken(
        two(as_folder, lambda root: (root / "masks" / "4.png").unlink()),
        r"1 of 9 images .* have no label .*images/4\.png",
        FOLDER,
    ),
    "folder_two_of_one_name": Broken(
        two(as_folder, lambda root: (root / "images" / "0.jpg").write_bytes(b"x")),
        r"two files of one name: '.*images/0\.jpg' and '.*images/0\.png'",
        FOLDER,
    ),
    "folder_fraction": Broken(
        as_folder, r"val_fraction=0\.01 of 9 images leaves one split empty", (*FOLDER, "data.val_fraction=0.01")
    ),
    "folder_unknown_stem": Broken(
        two(as_folder, text("train.txt", "0\n77\n"), text("val.txt", "1\n")),
        r"train\.txt': 1 stems have no image with a mask: 77",
        (*FOLDER, "data.train=train.txt", "data.val=val.txt"),
    ),
    # colour-coded labels
    "no_colour_map": Broken(lambda root: None, r"needs data\.colour_map", ("data.labels=colour", "data.classes=null")),
    "colour_map_missing": Broken(lambda root: None, r"colour map '.*map\.txt' does not exist", COLOUR),
    "colour_map_line": Broken(text("map.txt", "0 0 a\n"), r"map\.txt', line 1: '0 0 a' is not `r g b name`", COLOUR),
    "colour_map_values": Broken(text("map.txt", "0 0 300 a\n"), r"map\.txt', line 1: .* outside 0\.\.255", COLOUR),
    "colour_map_twice": Broken(
        text("map.txt", MAP + "0 0 0 d\n"), r"map\.txt', line 4: the colour .* is named twice", COLOUR
    ),
    "colour_not_named": Broken(
        text("map.txt", "0 0 0 a\n1 1 1 b\n"),
        r"labels/0\.png' has colours .* does not name: \(2, 2, 2\) in \d+ pixels",
        COLOUR,
    ),
}
WITH_WORKERS = ("image_truncated_jpeg", "foreign_values", "label_with_a_flipped_byte")


@pytest.mark.parametrize(("kind", "workers"), [*((kind, 0) for kind in BROKEN), *((kind, 2) for kind in WITH_WORKERS)])
def test_broken_data(command: Run, small_list: Path, tmp_path: Path, kind: str, workers: int) -> None:
    broken = BROKEN[kind]
    broken.damage(small_list)
    arguments = list_arguments(small_list)
    if "data=folder" in broken.arguments:
        arguments = [word for word in arguments if not word.startswith(("data=", "data.train=", "data.val="))]
    # With workers the check before training is left out, so that a worker meets the file.
    extra = [f"data.num_workers={workers}", "data.check=0"] if workers else []
    result = command("train", *arguments, "hydra.run.dir=run", *broken.arguments, *extra)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert result.stderr.count("error: ") >= 1
    assert re.search(broken.message, result.stderr, re.DOTALL), result.stderr
    # Nothing half-written: the resolved config, the record that says "failed" and the log at most.
    left = {path.name for path in (tmp_path / "run").rglob("*") if path.is_file() and ".hydra" not in path.parts}
    assert left <= {"config.yaml", "run.json", "diff.patch", "train.log", "metrics.csv"}, left


def test_more_than_forty_kinds() -> None:
    assert len(BROKEN) >= 40


class Bomb:
    """Unpickling it would create a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("open('exploded', 'w').close()",))


def pickled_payload(path: Path) -> None:
    torch.save({"state_dict": {}, "pspnet_lightning": {}, "callbacks": Bomb()}, path)


def bare_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb()))


def torn(path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(10_000)}}, path)
    path.write_bytes(path.read_bytes()[:5000])


def foreign_dictionary(path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}}, path)


def other_shape(path: Path) -> None:
    torch.save({"state_dict": {"model.head.classifier.bias": torch.zeros(99)}, "pspnet_lightning": {}}, path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (pickled_payload, "holds pickled objects, which could run code when loaded; it is refused"),
        (bare_pickle, "is not a checkpoint: the file is damaged or of another kind"),
        (torn, "cannot be read, it seems torn"),
        (foreign_dictionary, "is not a checkpoint of pspnet-lightning"),
        (other_shape, r"does not fit this model.*(shape of|missing)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_checkpoints(
    command: Run, small_list: Path, tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    make(tmp_path / "bad.ckpt")
    before = (tmp_path / "bad.ckpt").read_bytes()
    result = command("train", *list_arguments(small_list), "ckpt_path=bad.ckpt", "hydra.run.dir=run")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert re.search(message, result.stderr, re.DOTALL), result.stderr
    assert not (tmp_path / "exploded").exists()
    assert (tmp_path / "bad.ckpt").read_bytes() == before


def test_a_non_finite_loss_stops_the_run_with_the_files(command: Run, small_list: Path) -> None:
    result = command("train", *list_arguments(small_list), "optimizer.lr=1e30", "data.epochs=3", "hydra.run.dir=run")
    assert result.returncode == 1
    assert re.search(
        r"the training loss is (nan|inf) at step \d+; the batch's images: \S*images/\d\.png", result.stderr
    )


@pytest.mark.parametrize(
    "words", [["trainer=gpu"], ["trainer=ddp"], ["trainer.accelerator=cuda"], ["trainer.accelerator=mps"]]
)
def test_a_device_that_is_not_there_has_a_remedy(command: Run, tmp_path: Path, words: list[str]) -> None:
    name = words[0].rpartition("=")[2].replace("ddp", "gpu")
    failed = command("train", *words, "hydra.run.dir=run", CUDA_VISIBLE_DEVICES="")
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    expected = (
        f"error: trainer.accelerator={name}: this machine has no such device that torch {torch.__version__} can use"
    )
    assert expected in failed.stderr
    assert "trainer=cpu takes its processor" in failed.stderr


def test_devices_of_another_kind(command: Run) -> None:
    failed = command("train", "trainer=cpu", "trainer.devices=-1", "hydra.run.dir=run")
    assert "error: Trainer: `devices` selected with `CPUAccelerator` should be an int > 0" in failed.stderr
