"""Fine-tuning from a checkpoint of other classes, bins or another head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import SMALL, Run
from small_checkpoint import write_checkpoint

from pspnet_lightning.runs.initial import begin_with


def test_what_fits_is_taken_and_the_rest_is_named(tmp_path: Path) -> None:
    theirs = write_checkpoint(tmp_path / "a.ckpt")
    ours = write_checkpoint(tmp_path / "b.ckpt", "model.bins=[1,2]")
    classifier = ours.model.head.classifier.weight.clone()
    torch.nn.init.zeros_(ours.model.backbone.conv1.weight)
    told = begin_with(ours, tmp_path / "a.ckpt")
    for key, value in ours.model.backbone.state_dict().items():
        assert torch.equal(value, theirs.model.backbone.state_dict()[key]), key
    assert torch.equal(ours.model.head.classifier.weight, theirs.model.head.classifier.weight)
    assert classifier.shape == theirs.model.head.classifier.weight.shape
    new = told.split("; new: ")[1].split("; not taken: ")[0].split(", ")
    assert "head.pyramid.branches.0.0" in new  # half the channels instead of a quarter
    assert not any(name.startswith("backbone") for name in new)


def test_nothing_that_fits_is_an_error(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.ckpt")
    other = write_checkpoint(tmp_path / "b.ckpt", width=12)
    with pytest.raises(ValueError, match=r"model\.init='.*a\.ckpt': no weight of this checkpoint fits"):
        begin_with(other, tmp_path / "a.ckpt")


def test_from_the_command_line(command: Run, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.ckpt")
    small = ["data.train_length=4", "data.val_length=2", "data.batch_size=4", "data.epochs=1", "data.crop_size=64"]
    result = command("train", *SMALL, *small, "model.width=8", "model.init=a.ckpt", "logger=none")
    assert result.returncode == 0, result.stderr
    assert "model.init:" in result.stdout
    assert "; new: none; not taken: none" in result.stdout
