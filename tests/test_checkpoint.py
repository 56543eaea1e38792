"""Checkpoint files: whole or not there, loaded without running anything, enough to rebuild a module."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pspnet_lightning.config import build_module
from pspnet_lightning.data.scenes import SCENES
from pspnet_lightning.runs.checkpoint import load, read_checkpoint
from pspnet_lightning.runs.checkpoint_io import AtomicCheckpointIO, damage, latest_checkpoint
from pspnet_lightning.training.module import SegmentationModule

# As version 0.1 wrote it.
CONFIG = {
    "model": {
        "_target_": "pspnet_lightning.models.PSPNet",
        "depth": 18,
        "stem": "plain",
        "width": 8,
        "bins": [1, 3],
        "winograd": True,
    },
    "loss": {
        "_target_": "pspnet_lightning.training.losses.CrossEntropy",
        "class_weights": "balanced",
        "aux_weight": 0.3,
    },
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
    with pytest.raises(ValueError, match=r"image of shape \(70, 91, 2\): expected \(H, W, 3\)"):
        loaded.predict(image[..., :2])


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


def content(step: int) -> dict[str, object]:
    return {"global_step": step, "optimizer_states": [], "state_dict": {"w": torch.full((1000,), float(step))}}


def test_the_latest_whole_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "nowhere") is None
    for name, step in (("best", 4), ("last", 9), ("mine", 6), ("alike", 9)):
        AtomicCheckpointIO().save_checkpoint(content(step), tmp_path / f"{name}.ckpt")
    torch.save({"state_dict": {}, "global_step": 99}, tmp_path / "weights_only.ckpt")  # nothing to go on with
    assert latest_checkpoint(tmp_path) == tmp_path / "last.ckpt"
    whole = (tmp_path / "last.ckpt").read_bytes()

    position = whole.index(torch.full((1000,), 9.0).numpy().tobytes()) + 100
    flipped = bytearray(whole)
    flipped[position] ^= 1
    (tmp_path / "last.ckpt").write_bytes(flipped)
    assert (torch.load(tmp_path / "last.ckpt")["state_dict"]["w"] != 9).sum() == 1  # torch does not notice
    assert "checksum of its record" in damage(tmp_path / "last.ckpt")
    assert latest_checkpoint(tmp_path) == tmp_path / "alike.ckpt"
    assert (tmp_path / "last.ckpt.torn").read_bytes() == flipped
    assert "last.ckpt' is torn (the checksum of its record" in capsys.readouterr().err

    (tmp_path / "alike.ckpt").write_bytes(whole[:-1000])
    (tmp_path / "last.ckpt").write_bytes(b"")
    assert latest_checkpoint(tmp_path) == tmp_path / "mine.ckpt"
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"alike.ckpt.torn", "last.ckpt.torn", "last.ckpt.torn.2", "best.ckpt", "weights_only.ckpt"}


def test_a_flipped_bit_is_refused(module: SegmentationModule, tmp_path: Path) -> None:
    save(module, tmp_path / "a.ckpt")
    whole = bytearray((tmp_path / "a.ckpt").read_bytes())
    weights = module.state_dict()["model.head.conv.weight"].contiguous(memory_format=torch.channels_last)
    part = weights.permute(0, 2, 3, 1).reshape(-1)[:64].numpy().tobytes()
    whole[whole.index(part) + 2] ^= 1
    (tmp_path / "a.ckpt").write_bytes(whole)
    with pytest.raises(ValueError, match=r"a\.ckpt' is damaged: the checksum of its record"):
        load(tmp_path / "a.ckpt")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    path, other = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    stopping, going_on = AtomicCheckpointIO(), AtomicCheckpointIO(on_error="continue")
    stopping.save_checkpoint(content(1), path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(number, os.strerror(number))))
        with pytest.raises(OSError, match=r"a\.ckpt' is not written, the earlier one is intact; make room") as caught:
            stopping.save_checkpoint(content(2), path)
        assert caught.value.errno == number
        with pytest.raises(OSError, match=r"b\.ckpt' is not written, there is no earlier one"):
            stopping.save_checkpoint(content(2), other)
        going_on.save_checkpoint(content(2), other)
        assert "training goes on" in capsys.readouterr().err
        going_on.remove_checkpoint(path)  # what the unwritten one was to replace
        assert path.is_file()
    assert torch.load(path)["global_step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]
    going_on.save_checkpoint(content(2), other)
    going_on.remove_checkpoint(path)
    assert [file.name for file in tmp_path.iterdir()] == ["b.ckpt"]


def test_other_errors_are_raised_and_files_are_for_all_to_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        AtomicCheckpointIO(on_error="continue").save_checkpoint(content(1), tmp_path / "file" / "a.ckpt")
    with pytest.raises(ValueError, match=r"checkpoint\.on_error='ask' must be one of stop, continue"):
        AtomicCheckpointIO(on_error="ask")
    before = os.umask(0o022)
    AtomicCheckpointIO().save_checkpoint(content(1), tmp_path / "a.ckpt")
    os.umask(before)
    assert (tmp_path / "a.ckpt").stat().st_mode & 0o777 == 0o644
