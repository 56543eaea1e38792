"""pspnet-inspect counts and lists what is broken; train.py looks before it starts; the input benchmark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import FRAMES, Run, list_arguments
from miniatures import ade20k
from PIL import Image

from pspnet_lightning.data import DataSpec, default_palette
from pspnet_lightning.data.inspection import label_warnings
from pspnet_lightning.launch.preflight import check_rate, preflight

LIST = [
    "data=list",
    "data.root=set",
    "data.train=train.txt",
    "data.val=val.txt",
    "data.classes=[a,b,c]",
    "hydra.run.dir=run",
]


def test_counts_equal_the_files(command: Run, small_list: Path, tmp_path: Path) -> None:
    result = command("inspect", *LIST)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "run" / "inspect.json").read_text())
    labels = [np.array(Image.open(small_list / "labels" / f"{number}.png")) for number in range(6)]
    images = np.stack([np.array(Image.open(small_list / "images" / f"{number}.png")) for number in range(6)])
    train = found["splits"][0]
    assert train["images"] == train["read"] == 6
    assert train["sizes"] == {"64 x 48": 6}
    assert train["pixels"] == [sum(int((label == value).sum()) for label in labels) for value in range(3)]
    assert train["images_with"] == [sum(bool((label == value).any()) for label in labels) for value in range(3)]
    assert train["mean"] == pytest.approx(images.reshape(-1, 3).mean(0), abs=1e-3)
    assert train["std"] == pytest.approx(images.reshape(-1, 3).std(0), abs=1e-3)
    assert Image.open(tmp_path / "run" / "inspect.png").size[0] == 3 * 300 + 2 * 6 + 16
    assert "list train: 6 images, 6 read, 0 broken" in result.stdout


def test_all_broken_files_are_listed_at_once(command: Run, small_list: Path, tmp_path: Path) -> None:
    (small_list / "images" / "0.png").write_text("no image")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(small_list / "labels" / "2.png")
    Image.fromarray(np.full((48, 64), 9, np.uint8)).save(small_list / "labels" / "8.png")
    result = command("inspect", *LIST)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    broken = [line for line in result.stdout.splitlines() if line.startswith("broken: ")]
    assert len(broken) == 3
    for name, line in zip(("images/0.png", "labels/2.png", "labels/8.png"), broken, strict=True):
        assert name in line
    assert "3 of 9 pairs are broken" in result.stderr
    assert [
        len(split["broken"]) for split in json.loads((tmp_path / "run" / "inspect.json").read_text())["splits"]
    ] == [2, 1]


def test_a_limit_and_the_embedded_scenes(command: Run, tmp_path: Path) -> None:
    result = command("inspect", "limit=5", "splits=[val]", "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run" / "inspect.json").read_text())["splits"][0]["read"] == 5


@pytest.mark.skipif(not FRAMES.is_dir(), reason=f"the real frames are not at {FRAMES.name}/; set PSPNET_CAMVID")
def test_real_frames(command: Run, tmp_path: Path) -> None:
    result = command("inspect", "data=camvid", f"data.root={FRAMES}", "limit=40", "splits=[train]", "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "run" / "inspect.json").read_text())
    shares = np.array(found["splits"][0]["pixels"]) / sum(found["splits"][0]["pixels"])
    # Road and building are the commonest, riders the rarest, as in the published class frequencies.
    assert {found["classes"][label] for label in np.argsort(-shares)[:2]} == {"road", "building"}
    assert shares[found["classes"].index("bicyclist")] < 0.01


def test_preflight_names_an_off_by_one_label_map(command: Run, tmp_path: Path) -> None:
    """ADE20K's files as data=list: 0 is other, the values run from 1 to 150."""
    ade20k(tmp_path / "set")
    base = tmp_path / "set" / "ADEChallengeData2016"
    for name in ("training", "validation"):
        pairs = [
            f"images/{name}/{path.stem}.jpg annotations/{name}/{path.stem}.png\n"
            for path in sorted((base / "images" / name).iterdir())
        ]
        (base / f"{name}.txt").write_text("".join(pairs))
    classes = ",".join(f"c{number}" for number in range(150))
    arguments = [
        word for word in list_arguments(base) if not word.startswith(("data.train", "data.val", "data.classes"))
    ]
    result = command(
        "train", *arguments, "data.train=training.txt", "data.val=validation.txt", f"data.classes=[{classes}]"
    )
    assert result.returncode == 1
    assert (
        "if 0 means other (as in ADE20K), shift them with data.label_map={0: 255, 1: 0, ..., 150: 149}" in result.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "effective batch 2 on 1 device, lr: backbone 0.01, head 0.1"),
        ([], "the paper's: batch 16 and lr 0.01"),
        (
            [],
            "for a batch of 2 that rate scales to 0.00125, in proportion, and lr=0.01 is far from it: data.lr",
        ),
        (["optimizer=adamw"], "effective batch 2 on 1 device, lr: backbone 0.0001, head 0.001"),
        (["optimizer=adamw"], "lr is optimizer.lr=0.0001; data.lr=0.01 is for SGD and not used"),
        ([], "BatchNorm of the pyramid's bin 1 sees 2 values a channel"),
        (["data.classes=[a,b,c,d]"], "1 classes are in no training label and cannot be learnt: d"),
        (["data.label_map={0:255,1:255,2:1}"], "% of the pixels in 6 of 6 training labels are ignored"),
        (["trainer.accumulate_grad_batches=4"], "effective batch 8 on 1 device"),
    ],
)
def test_preflight(command: Run, small_list: Path, arguments: list[str], message: str) -> None:
    result = command("train", *list_arguments(small_list), "debug=fdr", *arguments)
    assert result.returncode == 0, result.stderr
    assert message in result.stdout


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [("auto", "torch's SyncBatchNorm runs on GPUs only"), (False, "trainer.sync_batchnorm=false")],
)
def test_preflight_says_why_batchnorm_is_not_synchronised(wanted: bool | str, reason: str) -> None:
    data = SimpleNamespace(batch_size=16, check=0, overfit=0)
    config = {
        "trainer": {"sync_batchnorm": wanted},
        "optimizer": {"_target_": "sgd", "lr": 0.01},
        "model": {"bins": [1, 2]},
        "data": {},
    }
    rates = {"backbone": 0.01, "head": 0.1}
    lines = preflight(config, data, devices=4, rates=rates)
    assert lines[2] == (
        f"BatchNorm is not synchronised ({reason}): each of 4 devices normalises over its own 4 of 16 images"
    )
    assert len(lines) == 3
    # On GPUs "auto" has done it: nothing is said.
    assert len(preflight(config, data, devices=4, rates=rates, synchronized=True)) == 2


@pytest.mark.parametrize(
    ("batch", "rate", "recipe", "matching"),
    [
        (16, 0.01, None, None),
        (8, 0.01, None, None),  # a factor of two either way is let through
        (4, 0.01, None, 0.0025),
        (64, 0.01, None, 0.04),
        (8, 0.02, {"batch_size": 8, "lr": 0.02}, None),
        (2, 0.02, {"batch_size": 8, "lr": 0.02}, 0.005),
        (4, 0.0025, None, None),
    ],
)
def test_the_rate_goes_with_the_batch(batch: int, rate: float, recipe: dict[str, float], matching: float) -> None:
    data = SimpleNamespace(batch_size=batch, check=0, overfit=0)
    config = {"trainer": {}, "optimizer": {"_target_": "x.sgd", "lr": rate}, "model": {}, "data": {"recipe": recipe}}
    warnings = [line for line in preflight(config, data, devices=1, rates={}) if line.startswith("warning: ")]
    assert warnings == [] if matching is None else f"data.lr={matching:g}, or" in warnings[0]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_rate_without_effect_is_an_error(optimizer: str) -> None:
    rate = {"sgd": 0.005, "adamw": 0.0001}[optimizer]
    config = {"data": {"lr": 0.005}, "optimizer": {"lr": rate}, "scheduler": {}}
    check_rate(config, ["seed=1"])  # the recipe's, which nobody typed
    if optimizer == "sgd":
        check_rate(config, ["data.lr=0.005"])
        return
    with pytest.raises(ValueError, match=r"data\.lr=0\.005 has no effect.* give optimizer\.lr=0\.005 instead"):
        check_rate(config, ["data.lr=0.005"])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (range(1, 150), True),  # off by one, and a sample without the last value
        (range(1, 100), True),
        (range(150), False),
        (range(1, 40), False),  # a small sample says nothing
        ([0, *range(2, 150)], False),
    ],
)
def test_labels_that_begin_at_one(labels: Sequence[int], expected: bool) -> None:
    spec = DataSpec("many", tuple(f"c{number}" for number in range(150)), default_palette(150))

    class Labels:
        def __len__(self) -> int:
            return 70

        def label(self, index: int) -> np.ndarray:
            return np.resize(np.array(list(labels), np.uint8), (8, 8)) if index else np.array([list(labels)], np.uint8)

    data: Any = Labels()
    data.spec = spec
    found = [text for text in label_warnings(data) if "do the values begin at 1?" in text]
    assert bool(found) == expected
    if found:
        assert f"{len(labels)} of the 149 others are" in found[0]


def test_the_recipe_gets_no_warning(command: Run) -> None:
    result = command("train", "debug=fdr", "model.width=8", "trainer.accelerator=cpu", "data.num_workers=0")
    assert result.returncode == 0, result.stderr
    assert "warning: " not in result.stdout


def test_benchmark_input_measures_all_ways(command: Run, tmp_path: Path) -> None:
    small = ["images=4", "rounds=2", "width=120", "height=90", "crop_size=65", "hydra.run.dir=run"]
    result = command("benchmark", "input", *small)
    assert result.returncode == 0, result.stderr
    ways = json.loads((tmp_path / "run" / "benchmark_input.json").read_text())["ways"]
    assert ways["official sequence"]["ratio"] == 1
    assert set(ways) == {"official sequence", "ours", "ours and CPU normalise", "decoding alone"}
    assert command("benchmark", "inputs").returncode == 1
