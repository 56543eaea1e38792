"""pspnet-benchmark model: every way is measured beside the reference, and answers what the reference answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pspnet_lightning.benchmark.ways import Subjects, Way, official_sliding, ways
from pspnet_lightning.config import CONFIG_DIR
from pspnet_lightning.inference import sliding_window

SMALL = ["depth=18", "classes=5", "size=33", "width=45", "height=40", "rounds=2", "device=cpu", "hydra.run.dir=run"]
Run = Callable[..., Any]


def config(**options: Any) -> dict[str, Any]:
    small = {"depth": 18, "classes": 5, "size": 49, "width": 70, "height": 60}
    return {**yaml.safe_load((CONFIG_DIR / "benchmark_model.yaml").read_text()), **small, **options}


def test_all_ways_are_measured(command: Run, tmp_path: Path) -> None:
    result = command("benchmark", "model", *SMALL, "layouts=[channels_last]", "memory=false")
    assert result.returncode == 0, result.stderr
    content = json.loads((tmp_path / "run" / "benchmark_model.json").read_text())
    assert set(content["matrix_product_gflops"]) == {"float32", "bfloat16"}
    assert min(content["matrix_product_gflops"].values()) > 0
    # The reference, and two precisions of each formulation; the prepared network does not train.
    assert {measure: len(rows) for measure, rows in content["measures"].items()} == {
        "forward": 7,
        "labels": 7,
        "sliding": 7,
        "train": 5,
    }
    for measure, rows in content["measures"].items():
        reference = rows[0]
        assert [reference[key] for key in ("formulation", "precision", "layout")] == [
            "concatenation",
            "float32",
            "contiguous",
        ]
        assert reference["rate_to_reference"] == 1
        for row in rows:
            low, high = row["quartiles_s"]
            assert 0 < low <= row["median_s"] <= high
            assert row["gmac"] > 0
            assert row["gflops"] == pytest.approx(2 * row["gmac"] / row["median_s"])
            fine = row["precision"] == "float32"
            if measure in ("labels", "sliding"):
                assert row["labels_agree_percent"] >= (99.9 if fine else 70)
            elif measure == "train":
                assert row["loss_relative_difference"] < (1e-4 if fine else 0.1)
            else:
                # Random weights amplify what bfloat16 rounds.
                assert row["logits_relative_difference"] < (1e-5 if fine else 0.4)
        count = {(row["formulation"], row["layout"]): row["gmac"] for row in rows if row["precision"] == "float32"}
        assert count["exact", "channels_last"] < count["concatenation", "channels_last"]
    assert "training step, 2 x 33 x 33" in result.stdout
    assert result.stderr == ""


@pytest.mark.slow
def test_peak_memory_of_each_way_alone(command: Run, tmp_path: Path) -> None:
    chosen = ["measure=[train]", "formulations=[exact]", "precisions=[float32]", "layouts=[channels_last]"]
    sizes = ["size=97", "classes=255", "depth=18", "rounds=1", "device=cpu", "hydra.run.dir=run"]
    result = command("benchmark", "model", *chosen, *sizes)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "run" / "benchmark_model.json").read_text())["measures"]["train"]
    peaks = {row["formulation"]: row["peak_bytes"] for row in rows}
    # Weights, gradients and momentum of 13 million parameters at the least; the full-size logits are spared.
    assert 3 * 4 * 13e6 < peaks["exact"] < peaks["concatenation"] < 2e9


@pytest.mark.slow
def test_compiled_ways(command: Run, tmp_path: Path) -> None:
    chosen = ["measure=[labels,train]", "formulations=[exact,prepared]", "layouts=[channels_last]", "modes=[compiled]"]
    result = command("benchmark", "model", *SMALL, *chosen, "memory=false", "precisions=[float32]", timeout=900)
    assert result.returncode == 0, result.stderr
    measures = json.loads((tmp_path / "run" / "benchmark_model.json").read_text())["measures"]
    assert [row["mode"] for row in measures["labels"]] == ["eager", "compiled", "compiled"]
    assert all(row["labels_agree_percent"] > 99.9 for row in measures["labels"])


@pytest.mark.parametrize("size", [(60, 70), (30, 80), (40, 40)])
def test_the_reference_slides_as_this_package_does(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 5, 3, padding=1)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    mean, std = [120.0, 110.0, 100.0], [60.0, 50.0, 70.0]
    with torch.inference_mode():
        labels = official_sliding(network, image, 49, mean, std)
        ours = sliding_window(network, image, crop_size=49, mean=mean, std=std).argmax(0)
    assert (labels == ours).double().mean() > 0.999


def test_random_weights_are_calibrated() -> None:
    cfg = config(train_batch=2)
    subjects = Subjects(cfg, torch.device("cpu"))
    way = Way("forward", "concatenation", "float32", "contiguous", "eager")
    # Activations of usual sizes, and labels of more than one class.
    assert 0.01 < float(subjects.run(way)().std()) < 100
    labels = subjects.run(Way("labels", "exact", "float32", "channels_last", "eager"))()
    assert len(labels.unique()) > 1


def test_senseless_ways_are_left_out() -> None:
    names = [("formulations", ["prepared"]), ("precisions", ["float32"]), ("modes", ["eager"])]
    cfg = config(**dict(names), layouts=["contiguous", "channels_last"])
    assert [way.formulation for way in ways(cfg, "train")] == ["concatenation"]
    assert [(way.formulation, way.layout) for way in ways(cfg, "labels")][1:] == [("prepared", "channels_last")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["measure=[label]"],
            "each forward, labels, sliding or train",
        ),
        (["precisions=[float16]"], "precisions=[float16] must be a list of at least 1, each float32 or bfloat16"),
        (["modes=[]"], "modes=[] must be a list of at least 1, each eager or compiled"),
        (["rounds=0"], "rounds=0 must be a whole number of at least 1"),
        (["train_batch=1"], "train_batch=1 must be at least 2"),
        (["device=tpu"], "device='tpu' must be auto, cpu or cuda"),
        (["checkpoint=missing.ckpt"], "checkpoint 'missing.ckpt' does not exist"),
        (["image=missing.png"], "missing.png"),
        (["threads=0"], "threads=0"),
        (["dept=18"], "dept: there is no such key"),
    ],
)
def test_errors(command: Run, arguments: list[str], message: str) -> None:
    result = command("benchmark", "model", *SMALL, *arguments)
    assert result.returncode == 1
    assert message in result.stderr


def test_a_checkpoint_is_measured(command: Run, tmp_path: Path, small_list: Path) -> None:
    from conftest import list_arguments

    assert command("train", *list_arguments(small_list), "hydra.run.dir=trained").returncode == 0
    chosen = ["measure=[labels]", "formulations=[exact]", "layouts=[channels_last]", "memory=false"]
    checkpoint = "checkpoint=trained/checkpoints/last.ckpt"
    result = command("benchmark", "model", *SMALL, *chosen, checkpoint, f"image={small_list}/images/0.png")
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "run" / "benchmark_model.json").read_text())["measures"]["labels"]
    assert all(row["labels_agree_percent"] > 95 for row in rows)
