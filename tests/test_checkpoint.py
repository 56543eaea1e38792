"""Checkpoint files: whole or not there, loaded without running anything, enough to rebuild a module."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pspnet_lightning.checkpoint import load, read_checkpoint
from pspnet_lightning.checkpoint_io import AtomicCheckpointIO
from pspnet_lightning.config import build_module
from pspnet_lightning.data.scenes import SCENES
from pspnet_lightning.module import SegmentationModule

CONFIG = {
    "model": {"_target_": "pspnet_lightning.models.PSPNet", "depth": 18, "stem": "plain", "width": 8, "bins": [1, 3]},
    "loss": {"_target_": "pspnet_lightning.losses.CrossEntropy", "class_weights": "balanced", "aux_weight": 0.3},
    "seed": 0,
    "channels_last": True,
}


@pytest.fixture
def module() -> SegmentationModule:
    return build_module(CONFIG, SCENES, for_training=False)


def save(module: SegmentationModule, path: Path) -> None:
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    AtomicCheckpointIO().save_checkpoint(content, path)


def test_a_module_from_one_file(module: SegmentationModule, tmp_path: Path) -> None:
    save(module, tmp_path / "a.ckpt")
    loaded = load(tmp_path / "a.ckpt")
    assert loaded.model.head.pyramid.bins == (1, 3)
    assert loaded.aux_weight == 0.3
    assert not loaded.training
    image = np.random.default_rng(0).integers(0, 256, (70, 91, 3), np.uint8)
    answered = loaded.predict(image)
    assert answered.shape == (70, 91)
    assert answered.dtype == np.uint8
    assert (answered == module.predict(image)).all()
    assert module.training  # as it was before
    with pytest.raises(ValueError, match=r"image of shape \(70, 91\): expected \(H, W, 3\)"):
        loaded.predict(image[..., 0])


def test_a_failed_write_leaves_the_earlier_file(
    module: SegmentationModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.ckpt"
    save(module, path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(module, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_other_model(module: SegmentationModule, tmp_path: Path) -> None:
    content = {"state_dict": dict(module.state_dict())}
    module.on_save_checkpoint(content)
    content["state_dict"]["extra"] = torch.zeros(1)
    del content["state_dict"]["model.head.bn.bias"]
    content["state_dict"]["model.head.classifier.bias"] = torch.zeros(3)
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(ValueError, match="3 differences") as caught:
        load(tmp_path / "odd.ckpt")
    for part in ("missing: model.head.bn.bias", "unknown: extra", "(3,) in the file, (11,) in the model"):
        assert part in str(caught.value)


def test_missing_file_names_its_neighbours(module: SegmentationModule, tmp_path: Path) -> None:
    save(module, tmp_path / "best.ckpt")
    with pytest.raises(FileNotFoundError, match=r"bast\.ckpt' does not exist; in its folder: .*best\.ckpt"):
        read_checkpoint(tmp_path / "bast.ckpt")
