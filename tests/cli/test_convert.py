"""Weights of another code base become a checkpoint that the other commands take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run

from pspnet_lightning.data.specs import known_classes
from pspnet_lightning.models import PSPNet, build_pspnet
from pspnet_lightning.models.convert.semseg import SemSeg
from pspnet_lightning.runs.checkpoint import load


def official(classes: int) -> tuple[PSPNet, dict[str, torch.Tensor]]:
    """A small PSPNet under semseg's names, and itself."""
    torch.manual_seed(0)
    model = build_pspnet(classes, depth=18, stem_widths=(4, 4, 8), width=8, bins=(1, 2)).eval()
    names = SemSeg({}, None)
    return model, {names.their_name(name): value for name, value in model.state_dict().items()}


def test_evaluation_takes_converted_weights(command: Run, tmp_path: Path) -> None:
    model, content = official(classes=11)
    wrapped = {"epoch": 100, "state_dict": {f"module.{key}": value for key, value in content.items()}}
    torch.save(wrapped, tmp_path / "w.pth")
    arguments = ["weights=w.pth", "source=semseg", "bins=[1,2]", "data=scenes", "data.val_length=4"]
    result = command("convert", *arguments, "output=out/best.ckpt")
    assert result.returncode == 0, result.stderr
    assert "w.pth: PSPNet-18, deep stem, bins [1, 2], 11 classes, with auxiliary head" in result.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"w.pth", "out"}
    image = np.random.default_rng(0).integers(0, 256, (50, 67, 3), np.uint8)
    x = (torch.from_numpy(image).permute(2, 0, 1)[None] - torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)) / (
        torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    )
    with torch.no_grad():
        expected = model(x).argmax(dim=1)[0].numpy()
    assert (load(tmp_path / "out" / "best.ckpt").predict(image) == expected).mean() > 0.999
    result = command("evaluate", "checkpoint=out/best.ckpt", "data.num_workers=0", "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    assert 0 < json.loads((tmp_path / "run" / "results.json").read_text())["aacc"] < 1


def test_a_benchmark_needs_no_images_for_its_classes(command: Run, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(official(classes=19)[1], tmp_path / "w.safetensors")
    arguments = ["weights=w.safetensors", "source=semseg", "bins=[1,2]", "data=cityscapes", "output=c.ckpt"]
    result = command("convert", *arguments)
    assert result.returncode == 0, result.stderr
    assert "pspnet-evaluate checkpoint=c.ckpt data.root=..." in result.stdout
    spec = load(tmp_path / "c.ckpt").description["spec"]
    assert tuple(spec["classes"]) == known_classes("cityscapes")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=camvid"], "weights='w.pth' answer 5 classes, the data set camvid has 11"),
        (["source=semsegg"], "source=semsegg must be semseg, mmseg or caffe; did you mean 'semseg'?"),
        (["source=mmseg"], "has 0 pyramid branches of mmseg; its keys begin with aux.0.weight"),
        (["bins=[1,2,3]"], "bins=(1, 2, 3) has 3 sizes, but the state dict has 2 pyramid branches of semseg"),
        (["weights=v.pth"], "weights='v.pth': there is no such file"),
        (["weights=pickled.pth"], "hold more than tensors, which could run code when loaded; they are refused"),
        (["weights=torn.pth"], "weights='torn.pth'"),
        (["weights=own.ckpt"], "weights='own.ckpt' is a checkpoint of this project already"),
        (["output=best.pth"], "output='best.pth': a checkpoint is named *.ckpt"),
    ],
)
def test_what_it_refuses(command: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    content = official(classes=5)[1]
    torch.save(content, tmp_path / "w.pth")
    torch.save({"state_dict": content, "meta": Path("x")}, tmp_path / "pickled.pth")
    torch.save({"pspnet_lightning": {}, "state_dict": content}, tmp_path / "own.ckpt")
    (tmp_path / "torn.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:2000])
    given = ["weights=w.pth", "source=semseg", "bins=[1,2]", "data=voc2012", "output=best.ckpt", *arguments]
    result = command("convert", *given)
    assert result.returncode == 1
    assert message in result.stderr
    assert not (tmp_path / "best.ckpt").exists()
