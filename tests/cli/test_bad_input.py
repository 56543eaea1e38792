"""Broken data and checkpoints: a clear error that names the file, exit code 1, nothing written."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run, list_arguments
from PIL import Image


def remove_root(root: Path) -> None:
    root.rename(root.with_name("elsewhere"))


def empty_list(root: Path) -> None:
    (root / "train.txt").write_text("\n")


def no_list(root: Path) -> None:
    (root / "train.txt").unlink()


def image_without_label(root: Path) -> None:
    with (root / "train.txt").open("a") as file:
        file.write("images/0.png\n")


def missing_file(root: Path) -> None:
    (root / "labels" / "3.png").unlink()


def sizes_differ(root: Path) -> None:
    Image.fromarray(np.zeros((48, 60), np.uint8)).save(root / "labels" / "0.png")


def truncated_jpeg(root: Path) -> None:
    image = Image.open(root / "images" / "0.png")
    image.save(root / "images" / "0.jpg", quality=90)
    content = (root / "images" / "0.jpg").read_bytes()
    (root / "images" / "0.png").write_bytes(content[: len(content) // 2])


def truncated_png(root: Path) -> None:
    content = (root / "labels" / "0.png").read_bytes()
    (root / "labels" / "0.png").write_bytes(content[: len(content) // 2])


def no_image(root: Path) -> None:
    (root / "images" / "0.png").write_text("hello")


def empty_image(root: Path) -> None:
    (root / "images" / "0.png").write_bytes(b"")


def foreign_values(root: Path) -> None:
    label = np.array(Image.open(root / "labels" / "0.png"))
    label[:4, :4] = 3
    label[0, 0] = 77
    Image.fromarray(label).save(root / "labels" / "0.png")


def sixteen_bit_values(root: Path) -> None:
    Image.fromarray(np.full((48, 64), 700, np.uint16)).save(root / "labels" / "0.png")


def palette_as_rgb(root: Path) -> None:
    label = Image.open(root / "labels" / "0.png").convert("P")
    label.convert("RGB").save(root / "labels" / "0.png")


BROKEN = [
    (remove_root, r"data\.root='[^']*set' is not a folder"),
    (empty_list, r"list '.*train\.txt' names no image: the split is empty"),
    (no_list, r"the list '.*train\.txt' does not exist"),
    (image_without_label, r"train\.txt': 1 lines are not a pair.*line 7: 'images/0\.png'"),
    (missing_file, r"1 files do not exist:\s+\S*labels/3\.png"),
    (sizes_differ, r"sizes differ: image '.*images/0\.png' is 64 x 48, label '.*labels/0\.png' is 60 x 48"),
    (truncated_jpeg, r"image '.*images/0\.png' is truncated"),
    (truncated_png, r"label '.*labels/0\.png' cannot be decoded"),
    (no_image, r"image '.*images/0\.png' cannot be decoded"),
    (empty_image, r"'.*images/0\.png' is empty"),
    (
        foreign_values,
        r"label '.*labels/0\.png' holds values outside the 3 classes of list: 3, 77 \(allowed: 0-2, 255\)",
    ),
    (sixteen_bit_values, r"label '.*labels/0\.png' holds values outside the 3 classes of list: 700"),
    (palette_as_rgb, r"label '.*labels/0\.png' is a colour image \(mode RGB\).*palette PNG"),
]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("damage", "message"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_broken_data(
    command: Run, small_list: Path, tmp_path: Path, damage: Callable[[Path], None], message: str, workers: int
) -> None:
    if workers and damage not in (truncated_jpeg, foreign_values):
        pytest.skip("the worker's way of failing is the same for all files")
    damage(small_list)
    # With workers the check before training is left out, so that a worker meets the file.
    extra = [f"data.num_workers={workers}", "data.check=0"] if workers else []
    result = command("train", *list_arguments(small_list), "hydra.run.dir=run", *extra)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert re.search(message, result.stderr, re.DOTALL), result.stderr
    assert not list((tmp_path / "run").rglob("*.ckpt"))


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
