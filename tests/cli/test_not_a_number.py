"""A network that answers NaN gets no score, no label map and no checkpoint."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, Run, list_arguments
from small_checkpoint import write_checkpoint

from pspnet_lightning.inference import SlidingWindow, label_rows
from pspnet_lightning.inference.finite import NotFinite, require_finite
from pspnet_lightning.inference.network import SegmentationNetwork
from pspnet_lightning.runs.checkpoint import read_checkpoint
from pspnet_lightning.runs.record import read_record

# 2 steps an epoch.
SCENES = [
    *SMALL,
    "data.train_length=8",
    "data.val_length=4",
    "data.batch_size=4",
    "data.epochs=2",
    "data.crop_size=64",
    "data.check=0",
    "callbacks.pictures=null",
    "callbacks.summary=null",
    "hydra.run.dir=run",
]


def test_the_images_are_named() -> None:
    logits = torch.zeros(3, 2, 4, 4)
    require_finite(logits, ["a", "b", "c"])
    logits[0, 1, 2, 3], logits[2, 0, 0, 0] = math.nan, -math.inf
    with pytest.raises(NotFinite, match="answer for a, c holds values"):
        require_finite(logits, ["a", "b", "c"])
    with pytest.raises(NotFinite, match="answer holds values"):
        require_finite(logits)


def test_weights_that_diverge_after_the_last_step_get_no_score(command: Run, tmp_path: Path) -> None:
    """The loss is still a number: it is the last step of the epoch that spoils the weights."""
    done = command("train", *SCENES, "+callbacks.fault._target_=faulty.SpoilWeights", "+callbacks.fault.step=2")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "error: the network's answer for scene " in done.stderr, done.stderr
    assert "best checkpoint" not in done.stdout
    assert not list((tmp_path / "run").rglob("*.ckpt"))
    assert read_record(tmp_path / "run")["status"] == "failed"
    assert "no finite numbers" in read_record(tmp_path / "run")["error"]


def test_the_best_and_the_last_stay_what_they_were(command: Run, tmp_path: Path) -> None:
    spoiling = ["+callbacks.fault._target_=faulty.SpoilWeights", "+callbacks.fault.step=3"]
    steps = ["callbacks=every_steps", "callbacks.steps.every_n_train_steps=1", "callbacks.pictures=null"]
    done = command("train", *SCENES, *steps, "callbacks.summary=null", *spoiling)
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1
    assert "weights are no finite numbers (the first is model." in done.stderr, done.stderr
    for name in ("best", "last"):
        content = read_checkpoint(tmp_path / "run" / "checkpoints" / f"{name}.ckpt")
        assert content["global_step"] == 2
        assert all(value.isfinite().all() for value in content["state_dict"].values())


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_on_one_of_two_ranks(command: Run, tmp_path: Path, rank: int) -> None:
    """Only one rank's network is spoilt: the other waits for it in a collective, and not for ever."""
    spoiling = ["+callbacks.fault._target_=faulty.SpoilWeights", "+callbacks.fault.step=2"]
    done = command("train", *SCENES, "trainer.devices=2", *spoiling, f"+callbacks.fault.rank={rank}", timeout=120)
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "the network's answer for scene " in done.stderr
    assert ("error: rank 1: " in done.stderr) == (rank == 1)
    assert "no finite numbers" in read_record(tmp_path / "run")["error"]
    assert not list((tmp_path / "run").rglob("*.ckpt"))


@pytest.fixture
def spoilt(small_list: Path, tmp_path: Path) -> SegmentationNetwork:
    """A checkpoint whose network answers NaN at one place of one class."""
    module = write_checkpoint(tmp_path / "best.ckpt", *list_arguments(small_list))
    content = torch.load(tmp_path / "best.ckpt", weights_only=True)
    content["state_dict"]["model.head.classifier.bias"][1] = math.nan
    torch.save(content, tmp_path / "best.ckpt")
    module.load_state_dict(content["state_dict"])
    return module


@pytest.mark.parametrize("protocol", [None, SlidingWindow(33), SlidingWindow(33, scales=(1.0, 1.5))], ids=str)
def test_no_label_map_is_made_of_it(spoilt: SegmentationNetwork, protocol: SlidingWindow | None) -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    with pytest.raises(NotFinite):
        spoilt.predict(image, protocol)
    with pytest.raises(NotFinite):
        spoilt.predict_probabilities(image, protocol)
    rows = label_rows(
        spoilt.model, lambda top, end: image[top:end], 40, 50, SlidingWindow(33), mean=[0] * 3, std=[1] * 3
    )
    with pytest.raises(NotFinite):
        next(rows)


def test_evaluate_and_predict_name_the_file(command: Run, spoilt: SegmentationNetwork, tmp_path: Path) -> None:
    evaluating = ["checkpoint=best.ckpt", "trainer.accelerator=cpu", "hydra.run.dir=run"]
    for protocol in ("whole", "single_scale"):
        done = command("evaluate", *evaluating, f"evaluation={protocol}")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "images/6.png holds values that are no finite numbers" in done.stderr, done.stderr
        assert not (tmp_path / "run" / "results.json").exists()
    done = command("predict", "checkpoint=best.ckpt", "device=cpu", "input=set/images", "output=out")
    assert done.returncode == 1
    assert "9 of 9 inputs could not be predicted" in done.stderr
    assert "set/images/1.png: the network's answer holds values that are no finite numbers" in done.stderr
    assert not list(tmp_path.glob("out/index/*"))
