"""What the event files hold, read back: curves, per-class IoU, confusion, pictures, hyperparameters; and resuming."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SMALL, Run
from PIL import Image

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

SCENES = [
    *SMALL,
    "data.train_length=12",
    "data.val_length=5",
    "data.batch_size=4",
    "data.crop_size=64",
    "trainer.log_every_n_steps=1",
    "logger=tensorboard",
    "hydra.run.dir=run",
]


def events(folder: Path) -> EventAccumulator:
    read = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    read.Reload()
    return read


def steps(read: EventAccumulator, key: str) -> list[int]:
    return [event.step for event in read.Scalars(key)]


def succeeded(result: Any) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_everything_is_there_and_a_resumed_run_hides_what_it_does_again(command: Run, tmp_path: Path) -> None:
    succeeded(command("train", *SCENES, "data.epochs=2", "callbacks.last.every_n_epochs=1"))
    read = events(tmp_path / "run" / "tensorboard")
    for key in ("train/loss", "lr/backbone", "lr/head", "images_per_second", "data_wait"):
        assert steps(read, key) == list(range(6)), key
    assert steps(read, "val/miou") == steps(read, "val/loss") == [2, 5]
    miou = [event.value for event in read.Scalars("val/miou")]
    assert read.Scalars("best/miou")[0].value == pytest.approx(max(miou), abs=1e-6)

    names = [key.removeprefix("val/iou/") for key in read.Tags()["scalars"] if key.startswith("val/iou/")]
    assert "mist" in names
    assert steps(read, "val/iou/mist") == [2, 5]
    for number, value in enumerate(miou):
        classes = [read.Scalars(f"val/iou/{name}") for name in names]
        assert np.mean([curve[number].value for curve in classes if len(curve) == 2]) == pytest.approx(value, abs=1e-3)
    for key, times in (("val/confusion", 2), ("val/pictures", 2), ("val/hardest", 2), ("best/confusion", 1)):
        pictures = read.Images(key)
        assert len(pictures) == times, key
        assert np.array(Image.open(io.BytesIO(pictures[0].encoded_image_string))).std() > 10
    assert "val/iou/text_summary" in read.Tags()["tensors"]

    content = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    started = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert started.hparams["model.width"].number_value == 8
    assert started.hparams["model.bins"].string_value == "[1, 2, 3, 6]"

    # Resumed from the end of the second epoch, for a third: no step twice.
    succeeded(command("train", *SCENES, "data.epochs=3", "ckpt_path=last"))
    read = events(tmp_path / "run" / "tensorboard")
    assert steps(read, "train/loss") == list(range(9))
    assert steps(read, "val/miou") == [2, 5, 8]
