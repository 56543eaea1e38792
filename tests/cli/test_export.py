"""Each format's file, run by its own runtime, answers what the checkpoint answers; a file that does not is not kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run
from omegaconf import OmegaConf
from torch import nn

from pspnet_lightning.cli import export as command_line
from pspnet_lightning.cli import export_check
from pspnet_lightning.config import CONFIG_DIR, build_module
from pspnet_lightning.data import DataSpec, default_palette
from pspnet_lightning.export import open_program, read_metadata, read_weights
from pspnet_lightning.runs.checkpoint import load
from pspnet_lightning.runs.checkpoint_io import AtomicCheckpointIO

SPEC = DataSpec("three", ("sky", "road", "car"), default_palette(3), ignore_index=254, label_map={7: 0, 8: 1, 9: 2})
CONFIG: dict[str, Any] = {
    "model": {
        "_target_": "pspnet_lightning.models.PSPNet",
        "depth": 18,
        "stem": "plain",
        "width": 4,
        "output_stride": 16,
        "bins": [1, 2, 3, 6],
    },
    "loss": {"_target_": "pspnet_lightning.training.losses.CrossEntropy"},
    "data": {
        "_target_": "pspnet_lightning.data.scenes.scenes",
        "train_length": 8,
        "val_length": 4,
        "crop_size": 33,
    },
    "seed": 0,
    "channels_last": True,
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    module = build_module(CONFIG, SPEC, for_training=False)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.3)
            part.running_var.uniform_(0.3, 3)
    content: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    AtomicCheckpointIO().save_checkpoint(content, tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


def picture(height: int, width: int, count: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


def logits(checkpoint: Path, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return load(checkpoint)(image)


def test_onnx_runs_on_any_size_and_batch(command: Run, checkpoint: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    result = command("export", "checkpoint=best.ckpt", "normalize=true")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("max difference") == 5
    assert "written: best.onnx" in result.stdout
    path = checkpoint.with_suffix(".onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("image", "tensor(uint8)", ["batch", 3, "height", "width"])
    for image in (picture(40, 71), picture(121, 33, count=4)):
        expected = logits(checkpoint, image).numpy()
        (answered,) = session.run(["logits"], {"image": image.numpy()})
        assert np.abs(answered - expected).max() < 1e-4 * np.abs(expected).max()
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == ["sky", "road", "car"]
    assert json.loads(metadata["palette"]) == [list(colour) for colour in SPEC.palette]
    assert json.loads(metadata["mean"]) == list(SPEC.mean)
    assert json.loads(metadata["ignore_index"]) == 254
    assert str(CONFIG_DIR.parent).encode() not in path.read_bytes()
    assert {file.name for file in checkpoint.parent.iterdir()} == {"best.ckpt", "best.onnx"}


@pytest.mark.parametrize("file_format", ["torch_export", "torchscript"])
def test_labels_from_torch_programs(command: Run, checkpoint: Path, file_format: str) -> None:
    arguments = [f"format={file_format}", "labels=true", "normalize=true", "image_type=float32", "output=out/"]
    result = command("export", "checkpoint=best.ckpt", *arguments)
    assert result.returncode == 0, result.stderr
    (path,) = (checkpoint.parent / "out").iterdir()
    program = open_program(path, file_format)
    for image in (picture(40, 71), picture(121, 33, count=4)):
        labels = program(image.float())
        assert labels.dtype == torch.uint8
        assert float((labels != logits(checkpoint, image).argmax(dim=1)).float().mean()) < 1e-3
    metadata = read_metadata(path, file_format)
    assert json.loads(metadata["classes"]) == ["sky", "road", "car"]
    assert json.loads(metadata["smallest_side"]) == 32
    assert json.loads(metadata["temperature"]) == 1.0
    assert str(CONFIG_DIR.parent).encode() not in path.read_bytes()


@pytest.mark.parametrize("fold", [False, True])
def test_safetensors_are_a_checkpoint_without_pickle(command: Run, checkpoint: Path, fold: bool) -> None:
    result = command("export", "checkpoint=best.ckpt", "format=safetensors", f"fold={fold}")
    assert result.returncode == 0, result.stderr
    path = checkpoint.with_suffix(".safetensors")
    tensors, metadata = read_weights(path)
    assert ("head.bn.weight" in tensors, "head.conv.bias" in tensors) == (not fold, fold)
    assert json.loads(metadata["std"]) == list(SPEC.std)
    module = load(path)
    assert module.description["spec"]["label_map"] == {7: 0, 8: 1, 9: 2}
    image = picture(40, 71)
    expected = logits(checkpoint, image)
    with torch.no_grad():
        assert float((module(image) - expected).abs().max() / expected.abs().max()) < 1e-5


def test_a_file_that_answers_otherwise_is_not_kept(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = command_line.fold_batchnorm

    def wrong(model: Any) -> Any:
        folded = right(model)
        folded.head.classifier.bias[0] += 0.01
        return folded

    monkeypatch.setattr(command_line, "fold_batchnorm", wrong)
    cfg = OmegaConf.load(CONFIG_DIR / "export.yaml")
    cfg.update(checkpoint=str(checkpoint), format="torchscript")
    earlier = checkpoint.with_suffix(".pt")
    earlier.write_text("an earlier export")
    with pytest.raises(ValueError, match="otherwise than the checkpoint in 5 of 5 sizes"):
        command_line.export(cfg)
    assert earlier.read_text() == "an earlier export"
    assert {file.name for file in checkpoint.parent.iterdir()} == {"best.ckpt", "best.pt"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["format=onxx"], "format=onxx must be onnx, torch_export, torchscript or safetensors; did you mean 'onnx'?"),
        (["output=a.pth"], "output='a.pth': a file of format=onnx is named *.onnx"),
        (["format=safetensors", "normalize=true"], "normalize=true: format=safetensors holds weights and no program"),
        (["image_type=uint8"], "image_type=uint8 has a meaning with normalize=true only"),
        (
            ["normalize=true", "image_type=unit8"],
            "must be uint8 or float32, or null; did you mean 'uint8'?",
        ),
        (["checkpoint=bast.ckpt"], "checkpoint 'bast.ckpt' does not exist; in its folder: best.ckpt"),
        (["precision=int4"], "precision=int4 must be float32, bfloat16 or int8; did you mean 'int8'?"),
        (["precision=bfloat16"], "precision=bfloat16 is written for format=torch_export and torchscript, not for onnx"),
        (["precision=int8", "fold=false"], "precision=int8 needs the BatchNorms folded"),
        (["fromat=onnx"], "fromat: there is no such key in the configuration; did you mean 'format'?"),
    ],
)
def test_what_it_refuses(command: Run, checkpoint: Path, arguments: list[str], message: str) -> None:
    result = command("export", "checkpoint=best.ckpt", *arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert [file.name for file in checkpoint.parent.iterdir()] == ["best.ckpt"]


def test_a_torn_file_of_weights(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(ValueError, match="is no safetensors file, or it is torn"):
        load(tmp_path / "a.safetensors")


def test_bfloat16_runs_on_any_size(command: Run, checkpoint: Path) -> None:
    result = command("export", "checkpoint=best.ckpt", "format=torchscript", "precision=bfloat16", "normalize=true")
    assert result.returncode == 0, result.stderr
    program = open_program(checkpoint.with_suffix(".pt"), "torchscript")
    for image in (picture(40, 71), picture(121, 33, count=4)):
        expected = logits(checkpoint, image)
        answered = program(image)
        assert answered.dtype == torch.float32
        assert 1e-5 < float((answered - expected).abs().max() / expected.abs().max()) < 5e-2


@pytest.mark.slow
def test_int8_is_calibrated_and_judged_by_real_images(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    cfg = OmegaConf.load(CONFIG_DIR / "export.yaml")
    cfg.update(checkpoint=str(checkpoint), precision="int8", normalize=True, calibration=8)
    # Weights drawn at random: what share of the labels they keep says nothing.
    monkeypatch.setattr(export_check, "AGREEMENT_INT8", 1.1)
    with pytest.raises(ValueError, match="of the labels are kept; the file is not kept either"):
        command_line.export(cfg)
    assert [file.name for file in checkpoint.parent.iterdir()] == ["best.ckpt"]
    monkeypatch.setattr(export_check, "AGREEMENT_INT8", 0.5)
    command_line.export(cfg)
    path = checkpoint.with_suffix(".onnx")
    kinds = {initializer.data_type for initializer in onnx.load(str(path)).graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    assert json.loads(read_metadata(path, "onnx")["precision"]) == "int8"
    image = picture(40, 71)
    labels = open_program(path, "onnx")(image).argmax(dim=1)
    assert float((labels == logits(checkpoint, image).argmax(dim=1)).float().mean()) > 0.5
