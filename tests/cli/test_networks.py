"""What each kind of network can do: every command on the paper's, on two of timm's and on those of docs/examples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, Run
from PIL import Image

from pspnet_lightning.runs.checkpoint import load, read_checkpoint

TRAINING = [
    "trainer.accelerator=cpu",
    "trainer.enable_model_summary=false",
    "data.num_workers=0",
    "data.train_length=8",
    "data.val_length=3",
    "data.batch_size=4",
    "data.val_batch_size=1",
    "data.epochs=2",
    "data.crop_size=64",
    "data.check=0",
    "scheduler=constant",
    "callbacks=every_steps",
    "callbacks.steps.every_n_train_steps=2",
    "callbacks.pictures=null",
]
PAPER = ["model=pspnet_tiny", "model.width=8"]
NETWORKS = {
    "paper": [*PAPER, "model.output_stride=16"],
    "fusion": [*PAPER, "model.fusion=gate"],
    "head": [*PAPER, "model.head=aspp", "model.output_stride=16"],
    "timm_cnn": ["model=timm", "model.backbone=test_resnet", "model.output_stride=16"],
    "timm_transformer": ["model=timm", "model.backbone=pvt_v2_b0", "model.head=uper", "model.head_channels=16"],
    "own_backbone": ["model=own_backbone", "model.backbone.width=8"],
    "own_head": ["model=own_head", "model.width=8", "model.output_stride=16"],
    "own_fusion": ["model=own_fusion", "model.width=8", "model.output_stride=16"],
    "own_network": ["model=own_network", "model.width=8"],
}
# What one sentence says instead.
NOT_EXPLAINED = {
    "head": "which ASPPHead has not",
    "timm_transformer": "which UPerHead has not",
    "own_head": "which SkipHead has not",
    "own_fusion": "needs parts(), which MaxFusion has not",
    "own_network": "which ASPPHead has not",
}
NO_RECEPTIVE_FIELD = {"timm_cnn": "TimmBackbone", "own_backbone": "StridedBackbone"}
NOT_WRITTEN: dict[tuple[str, str], str] = {}


def test_a_key_that_an_own_class_does_not_take(command: Run, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "docs" / "examples", tmp_path, dirs_exist_ok=True)
    result = command("train", *TRAINING, "model=own_backbone", "+model.backbone.widht=8")
    assert result.returncode == 1
    assert "error: model.backbone.widht: unknown key; did you mean 'width'?" in result.stderr


def test_a_folder_of_configs_elsewhere(command: Run, tmp_path: Path) -> None:
    examples = REPOSITORY / "docs" / "examples"
    result = command("train", "--config-dir", str(examples / "conf"), *TRAINING, "model=own_head")
    assert result.returncode == 1  # found; but its module is not where the user stands
    assert "model.head._target_='own_head.SkipHead' cannot be imported" in result.stderr


@pytest.mark.slow
def test_everything_else_of_ones_own(command: Run, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "docs" / "examples", tmp_path, dirs_exist_ok=True)
    own = ["loss=own_loss", "data=own_data", "augment=own_augment", "callbacks=own_metric", "objective=val/worst_iou"]
    settings = [*TRAINING[:3], "data.check=0", "callbacks.pictures=null", *PAPER, "model.output_stride=16"]
    result = command("train", *own, *settings, "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert 0 <= record["objective"]["value"] <= 1
    given = ["checkpoint=run/checkpoints/best.ckpt", "trust=[own_loss,own_data]"]
    result = command("evaluate", *given, "hydra.run.dir=evaluated", "trainer.accelerator=cpu")
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "evaluated" / "results.json").read_text())
    assert scores["miou"] >= record["objective"]["value"] - 1e-6
    Image.fromarray(np.zeros((75, 98, 3), np.uint8)).save(tmp_path / "a.png")
    result = command("predict", *given, "input=a.png", "output=predicted", "device=cpu")
    assert result.returncode == 0, result.stderr
    assert np.array(Image.open(tmp_path / "predicted" / "index" / "a.png")).shape[:2] == (75, 98)
    result = command("export", *given, "format=torchscript")
    assert result.returncode == 0, result.stderr
    assert "written: " in result.stdout
    result = command("train", *own, *settings, "hydra.run.dir=typo", "+loss.epsilom=2")
    assert "error: loss.epsilom: unknown key; did you mean 'epsilon'?" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_command(name: str, command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(REPOSITORY / "docs" / "examples", tmp_path, dirs_exist_ok=True)
    network = NETWORKS[name]

    def run(what: str, *arguments: str, code: int = 0, **options: str) -> str:
        result = command(what, *arguments, **options)
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout + result.stderr

    # Two ranks see what one sees, but for BatchNorm, which on CPUs looks at its own half.
    said = run("train", *TRAINING, *network, "hydra.run.dir=run")
    whole = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert whole["global_step"] == 4
    if name == "timm_transformer":
        assert "pvt_v2_b0 cannot be dilated to output stride 8: it keeps its own, 32" in said
    if name == "timm_cnn":
        # Its weights want images of -1 to 1.
        assert whole["pspnet_lightning"]["spec"]["mean"] == [127.5] * 3
    two = [*TRAINING, *network, "trainer.devices=2", "hydra.run.dir=two"]
    run("train", *two)
    assert read_checkpoint(tmp_path / "two" / "checkpoints" / "last.ckpt")["global_step"] == 4

    # Stopped half-way and continued: the weights of the run that went through.
    run("train", *TRAINING, *network, "hydra.run.dir=parts", "trainer.max_steps=2")
    last = tmp_path / "parts" / "checkpoints" / "last.ckpt"
    run("train", *TRAINING, *network, "hydra.run.dir=parts", f"ckpt_path={last}")
    straight, continued = whole["state_dict"], read_checkpoint(last)["state_dict"]
    assert continued.keys() == straight.keys()
    assert all(torch.equal(continued[key], straight[key]) for key in straight)

    given = "checkpoint=run/checkpoints/best.ckpt"
    trust = [f"trust=[{name}]"] if name.startswith("own") else []
    run("evaluate", given, *trust, "trainer.accelerator=cpu", "hydra.run.dir=evaluated")
    assert 0 <= json.loads((tmp_path / "evaluated" / "results.json").read_text())["miou"] <= 1
    image = np.random.default_rng(0).integers(0, 256, (75, 98, 3), np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(image).save(tmp_path / "images" / "a.png")
    run("predict", given, *trust, "input=images", "output=predicted", "device=cpu")
    assert np.array(Image.open(tmp_path / "predicted" / "index" / "a.png")).shape[:2] == (75, 98)
    # Prepared for inference: the same function with less to do.
    monkeypatch.syspath_prepend(tmp_path)  # as the folder where the user stands is, to a command
    x = torch.from_numpy(image).permute(2, 0, 1)[None]
    plain, prepared = (load(tmp_path / given.partition("=")[2], trust=(name,)).eval() for _ in range(2))
    with torch.no_grad():
        expected, answered = plain(x), prepared.prepare_for_inference()(x)
    assert float((answered - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    # There is nothing to convert in what this project has written.
    said = run("convert", "weights=run/checkpoints/best.ckpt", "source=semseg", "data=scenes", "output=a.ckpt", code=1)
    assert "is a checkpoint of this project already; there is nothing to convert" in said
    for file_format in ("onnx", "torch_export", "torchscript", "safetensors"):
        message = NOT_WRITTEN.get((name, file_format))
        said = run("export", given, *trust, f"format={file_format}", code=0 if message is None else 1)
        assert ("written: " if message is None else message) in said
    said = run(
        "explain",
        given,
        *trust,
        "output=explained",
        "limit=2",
        "receptive_field=1",
        "device=cpu",
        code=1 if name in NOT_EXPLAINED else 0,
    )
    assert NOT_EXPLAINED.get(name, "written: ") in said
    if name in NO_RECEPTIVE_FIELD:
        assert f"{NO_RECEPTIVE_FIELD[name]} has no receptive_field()" in said
