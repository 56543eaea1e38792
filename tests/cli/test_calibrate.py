"""`evaluation.metrics=[...]`, `evaluation.calibrate=true`: in results.json, and from there into every probability."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, list_arguments
from PIL import Image
from small_checkpoint import write_checkpoint

from pspnet_lightning import load
from pspnet_lightning.config import build_source
from pspnet_lightning.export import open_program
from pspnet_lightning.inference import SlidingWindow
from pspnet_lightning.metrics.calibration import calibration_error, fit_temperature, reliability
from pspnet_lightning.training.module import SegmentationModule

SURE = 6.0


@pytest.fixture
def module(small_list: Path, tmp_path: Path) -> SegmentationModule:
    """A network that is far too sure of itself: labels are drawn by its logits, which are then multiplied."""
    module = write_checkpoint(tmp_path / "best.ckpt", *list_arguments(small_list))
    generator = np.random.default_rng(0)
    for stem in ("6", "7", "8"):
        chances = module.predict_probabilities(np.array(Image.open(small_list / "images" / f"{stem}.png")))
        drawn = (generator.random(chances.shape[1:]) > chances.cumsum(0)).sum(0).clip(max=2)
        Image.fromarray(drawn.astype(np.uint8)).save(small_list / "labels" / f"{stem}.png")
    with torch.no_grad():
        for parameter in module.model.head.classifier.parameters():
            parameter.mul_(SURE)
    content = torch.load(tmp_path / "best.ckpt", weights_only=True)
    torch.save({**content, "state_dict": module.state_dict()}, tmp_path / "best.ckpt")
    return module


def evaluated(command: Run, folder: Path, *words: str) -> tuple[dict[str, Any], str]:
    done = command("evaluate", "checkpoint=best.ckpt", "trainer.accelerator=cpu", "hydra.run.dir=out", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "out" / "results.json").read_text()), done.stdout


def pixels(module: SegmentationModule, protocol: SlidingWindow | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n, K) and labels (n,) of the validation images."""
    assert module.description is not None
    data = build_source(module.description["config"]["data"])("val")
    read = [data.read(index) for index in range(len(data))]
    chances = [module.predict_probabilities(image, protocol).reshape(3, -1).T for image, _ in read]
    return np.concatenate(chances), np.concatenate([label.ravel() for _, label in read]).astype(np.int64)


@pytest.mark.parametrize("evaluation", ["whole", "single_scale"])
def test_the_temperature_travels(
    command: Run, module: SegmentationModule, small_list: Path, tmp_path: Path, evaluation: str
) -> None:
    """Into the checkpoint, predict, an export of weights and one of a program, and an ensemble."""
    protocol = SlidingWindow(33) if evaluation == "single_scale" else None
    before, _ = evaluated(command, tmp_path, f"evaluation={evaluation}")
    results, said = evaluated(command, tmp_path, f"evaluation={evaluation}", "evaluation.calibrate=true")
    assert results["confusion"] == before["confusion"], "labels stay"
    chances, labels = pixels(module, protocol)
    fitted = results["temperature"]
    assert fitted["temperature"] == pytest.approx(fit_temperature(chances, labels), rel=1e-3)
    if protocol is None:
        assert fitted["temperature"] == pytest.approx(SURE, rel=0.1), "what they were multiplied by"
        assert fitted["ece_after"] < 0.03
    assert fitted["ece_before"] == pytest.approx(calibration_error(reliability(chances, labels).sum(0)), abs=1e-5)
    assert fitted["ece_before"] == pytest.approx(results["calibration"]["ece"], abs=1e-5)
    assert fitted["ece_after"] < fitted["ece_before"]
    assert fitted["log_loss_after"] < fitted["log_loss_before"]
    assert f"expected calibration error {fitted['ece_before']:.4f}, then {fitted['ece_after']:.4f} on" in said
    assert "written: out/calibrated.ckpt" in said
    calibrated = load(tmp_path / "out" / "calibrated.ckpt")
    assert calibrated.temperature == pytest.approx(fitted["temperature"])
    assert load(tmp_path / "best.ckpt").temperature == 1, "the file itself stays as it was"
    image = np.array(Image.open(small_list / "images" / "7.png"))
    own, other = (one.predict_probabilities(image, protocol) for one in (module, calibrated))
    assert (own.argmax(0) == other.argmax(0)).all()
    expected = torch.from_numpy(own).clamp_min(1e-38).log().div(fitted["temperature"]).softmax(0).numpy()
    assert np.abs(other - expected).max() < 1e-6
    if protocol is None:
        with torch.no_grad():
            logits = module(torch.from_numpy(image).permute(2, 0, 1)[None])[0]
        assert np.abs(other - logits.div(fitted["temperature"]).softmax(0).numpy()).max() < 1e-5, "as in one pass"


def test_exports_and_ensembles_take_it(
    command: Run, module: SegmentationModule, small_list: Path, tmp_path: Path
) -> None:
    results, _ = evaluated(command, tmp_path, "evaluation.calibrate=true")
    value = results["temperature"]["temperature"]
    (tmp_path / "out" / "calibrated.ckpt").rename(tmp_path / "calibrated.ckpt")
    for words in (["format=safetensors", "output=w.safetensors"], ["format=torchscript", "output=p.pt"]):
        done = command("export", "checkpoint=calibrated.ckpt", *words)
        assert done.returncode == 0, done.stdout + done.stderr
    assert load(tmp_path / "w.safetensors").temperature == pytest.approx(value)
    normalised = module.normalize(torch.randint(0, 256, (1, 3, 65, 97)))
    with torch.no_grad():
        answer, logits = open_program(tmp_path / "p.pt", "torchscript")(normalised), module.model(normalised)
    assert torch.allclose(answer * value, logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max()))
    image = np.array(Image.open(small_list / "images" / "7.png"))
    members = [load(tmp_path / name) for name in ("best.ckpt", "calibrated.ckpt")]
    expected = np.mean([member.predict_probabilities(image) for member in members], axis=0)
    joined = members[0].join(members[1:])
    assert np.abs(joined.predict_probabilities(image) - expected).max() < 1e-5
    # Once more: of what is calibrated already nothing is left to mend, and of weights alone the file is their kind.
    done = command(
        "evaluate",
        "checkpoint=w.safetensors",
        "trainer.accelerator=cpu",
        "hydra.run.dir=again",
        "evaluation.calibrate=true",
        f"data.root={small_list}",
    )
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "again" / "calibrated.safetensors").temperature == pytest.approx(value, rel=1e-2)
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert again["temperature"]["ece_before"] < results["temperature"]["ece_before"] - 0.02


def test_further_scores(command: Run, module: SegmentationModule, tmp_path: Path) -> None:
    """Off unless asked for; the same on two devices; label maps stay those of the plain evaluation."""
    plain, said = evaluated(command, tmp_path)
    assert not {"boundary", "trimap", "surface", "calibration", "auc", "temperature"} & set(plain)
    assert not (tmp_path / "out" / "reliability.png").exists()
    words = ("evaluation.metrics=[boundary,surface,calibration]", "evaluation.spacing=[0.5,0.5]")
    found, said = evaluated(command, tmp_path, *words)
    assert found["confusion"] == plain["confusion"]
    assert found["surface"]["spacing"] == [0.5, 0.5]
    assert f"HD95 {found['surface']['hd95']:.4f}, surface Dice {found['surface']['dice']:.4f}" in said
    assert f"Boundary IoU {found['boundary']['miou']:.4f}" in said
    assert f"expected calibration error {found['calibration']['ece']:.4f}" in said
    assert Image.open(tmp_path / "out" / "reliability.png").size[0] > 400
    both, _ = evaluated(command, tmp_path, *words, "trainer.devices=2", "evaluation.calibrate=true")
    for key in ("boundary", "trimap", "surface"):
        assert both[key] == found[key], key
    assert both["calibration"]["ece"] == pytest.approx(found["calibration"]["ece"], abs=1e-9)
    assert both["temperature"]["pixels"] == 3 * 48 * 64
    for words, message in (
        (["evaluation.metrics=[auc]"], "evaluation.metrics=[auc] is of two classes, this data set has 3"),
        (
            ["evaluation.metrics=[hd95]"],
            "evaluation.metrics=[hd95] must be a list, each boundary, surface, ",
        ),
        (["evaluation.spacing=[1]"], "evaluation.spacing=[1] must be a list of 2"),
        (["evaluation.boundary=0.7"], "evaluation.boundary=0.7 must be a number above 0 and of at most 0.5"),
    ):
        done = command("evaluate", "checkpoint=best.ckpt", "trainer.accelerator=cpu", *words)
        assert done.returncode == 1
        assert message in done.stderr, done.stderr
    refused = command("evaluate", "predictions=set/labels", "data=list", "data.root=set", "evaluation.calibrate=true")
    assert "of probabilities, which label maps do not hold" in refused.stderr


def test_a_temperature_that_is_none(module: SegmentationModule, tmp_path: Path) -> None:
    content = torch.load(tmp_path / "best.ckpt", weights_only=True)
    for value in ("hot", 0.0, -1.0, float("nan"), True):
        content["pspnet_lightning"]["temperature"] = value
        torch.save(content, tmp_path / "bad.ckpt")
        with pytest.raises(ValueError, match=r"its temperature .* must be a number above 0"):
            load(tmp_path / "bad.ckpt")
