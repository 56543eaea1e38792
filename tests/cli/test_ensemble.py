"""`checkpoint=[a,b,c]`: the mean of the probabilities, image by image, window by window, row by row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import Run, list_arguments
from PIL import Image
from small_checkpoint import write_checkpoint

from pspnet_lightning.inference import SlidingWindow
from pspnet_lightning.inference.ensemble import Ensemble
from pspnet_lightning.training.module import SegmentationModule

THREE = "checkpoint=[a.ckpt,b.ckpt,c.ckpt]"


def shifted(path: Path, shift: float, *arguments: str, width: int = 8) -> SegmentationModule:
    """Another network of the same kind: its classifier's weights are turned by ``shift``."""
    module = write_checkpoint(path, *arguments, width=width)
    with torch.no_grad():
        module.model.head.classifier.weight.copy_(module.model.head.classifier.weight.roll(1, 0) * shift)
    content = torch.load(path, weights_only=True)
    torch.save({**content, "state_dict": module.state_dict()}, path)
    return module


@pytest.fixture
def members(small_list: Path, tmp_path: Path) -> list[SegmentationModule]:
    arguments = list_arguments(small_list)
    return [
        write_checkpoint(tmp_path / "a.ckpt", *arguments),
        shifted(tmp_path / "b.ckpt", 0.5, *arguments),
        shifted(tmp_path / "c.ckpt", -0.7, *arguments, width=12),
    ]


def mean(members: list[SegmentationModule], image: np.ndarray, protocol: SlidingWindow | None = None) -> np.ndarray:
    found = [member.predict_probabilities(image, protocol) for member in members]
    return np.mean(np.array(found, np.float64), axis=0)


def test_softmax_gives_the_mean_back() -> None:
    low, full = torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(3, 4, 1)
    image = torch.randn(2, 3, 5, 6)
    expected = (low(image).div(2).softmax(1) + full(image).softmax(1)) / 2
    assert torch.allclose(Ensemble([low, full], (2.0, 1.0))(image).softmax(1), expected, atol=1e-6)
    sure = torch.nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        sure.weight.zero_()
        sure.bias.copy_(torch.tensor([500.0, 0, 0, 0]))
    assert Ensemble([sure])(image).isfinite().all(), "what nobody thinks possible"
    with torch.no_grad():
        sure.bias.fill_(torch.nan)
    assert Ensemble([low, sure])(image).isnan().any(), "told as of any network, not hidden"


@pytest.mark.parametrize("protocol", [None, SlidingWindow(33), SlidingWindow((40, 33), 70, (0.5, 1.0))])
def test_the_mean_by_every_protocol(members: list[SegmentationModule], protocol: SlidingWindow | None) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    expected = mean(members, image, protocol)
    others = [member.prepare_for_inference() for member in members]
    joined = others[0].join(others[1:])
    assert np.abs(joined.predict_probabilities(image, protocol) - expected).max() < 1e-5
    labels, best = joined.predict(image, protocol), np.sort(expected, axis=0)
    clear = best[-1] - best[-2] > 1e-5
    assert (labels == expected.argmax(0))[clear].all()


def test_evaluate_and_whether_it_is_better(
    command: Run, members: list[SegmentationModule], small_list: Path, tmp_path: Path
) -> None:
    words = ("trainer.accelerator=cpu", "hydra.run.dir=out", "evaluation.save_predictions=true")
    done = command("evaluate", THREE, "against=a.ckpt", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [item["path"] for item in results["ensemble"]] == ["a.ckpt", "b.ckpt", "c.ckpt"]
    alone = json.loads((tmp_path / "out" / "against" / "results.json").read_text())
    assert alone["checkpoint"]["path"] == "a.ckpt"
    assert results["against"]["miou"]["value"] == pytest.approx(results["miou"] - alone["miou"])
    assert "a.ckpt, b.ckpt, c.ckpt on list val" in done.stdout
    for stem in ("6", "7", "8"):
        image = np.array(Image.open(small_list / "images" / f"{stem}.png"))
        expected = mean(members, image)
        best = np.sort(expected, axis=0)
        clear = best[-1] - best[-2] > 1e-5
        found = np.array(Image.open(tmp_path / "out" / "predictions" / f"{stem}.png"))
        assert (found == expected.argmax(0))[clear].all()
        assert clear.mean() > 0.99
    again = command("evaluate", "checkpoint=a.ckpt", "against=[a.ckpt,b.ckpt,c.ckpt]", *words)
    assert again.returncode == 0, again.stderr
    back = json.loads((tmp_path / "out" / "results.json").read_text())["against"]
    assert back["path"] == "a.ckpt, b.ckpt, c.ckpt"
    assert back["miou"]["value"] == pytest.approx(-results["against"]["miou"]["value"])


def test_predict_streams(command: Run, members: list[SegmentationModule], tmp_path: Path) -> None:
    """Probabilities, and a TIFF that is predicted row by row, are the mean's."""
    image = np.random.default_rng(1).integers(0, 256, (150, 70, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "big.tif", image, photometric="rgb")
    words = ("input=big.tif", "device=cpu", "evaluation=single_scale", "overlay=false")
    for more in (("output=rows", "stream_above=100"), ("output=whole", "probabilities=true")):
        done = command("predict", THREE, *words, *more)
        assert done.returncode == 0, done.stderr
    expected = mean(members, image, SlidingWindow(33))
    with np.load(tmp_path / "whole" / "probabilities" / "big.npz") as file:
        assert np.abs(file["probabilities"] - expected).max() < 1e-3, "float16"
    best = np.sort(expected, axis=0)
    clear = best[-1] - best[-2] > 1e-5
    assert (tifffile.imread(tmp_path / "rows" / "index" / "big.tif") == expected.argmax(0))[clear].all()
    done = command("predict", "checkpoint=[a.ckpt,b.ckpt]", *words, "output=rows", "stream_above=100")
    assert "done already" not in done.stdout
    assert "other settings" in done.stderr or "1 predicted" in done.stdout


def test_what_cannot_answer_together(
    command: Run, members: list[SegmentationModule], small_list: Path, tmp_path: Path
) -> None:
    arguments = list_arguments(small_list)
    write_checkpoint(tmp_path / "names.ckpt", *arguments, "data.classes=[a,b,d]")
    write_checkpoint(tmp_path / "mean.ckpt", *arguments, "data.mean=[1,2,3]", "data.std=[1,2,3]")
    write_checkpoint(tmp_path / "crop.ckpt", *arguments, "data.crop_size=41")
    for fold in (0, 1):
        write_checkpoint(tmp_path / f"fold{fold}.ckpt", *arguments, "data.folds=3", f"data.fold={fold}")
    for words, message in (
        (["checkpoint=[a.ckpt,names.ckpt]"], "a.ckpt and names.ckpt cannot answer together: their classes differ, ['a"),
        (["checkpoint=[a.ckpt,mean.ckpt]"], "their mean and std differ, [[123.675, 116.28, 103.53]"),
        (["checkpoint=[a.ckpt,a.ckpt]"], "checkpoint=[a.ckpt, a.ckpt] names a file twice"),
        (["checkpoint=[a.ckpt,gone.ckpt]"], "gone.ckpt"),
        (["checkpoint=[]"], "checkpoint=[] must be a text that is not empty, or a list of at least 1"),
        (["checkpoint=[a.ckpt,crop.ckpt]", "evaluation=single_scale"], "crops of (33, 33) and (41, 41)"),
        (["checkpoint=[fold0.ckpt,fold1.ckpt]"], "the images that one validates on have trained the others"),
    ):
        done = command("evaluate", *words, "trainer.accelerator=cpu")
        assert done.returncode == 1, words
        assert message in done.stderr, (words, done.stderr)
        assert done.stderr.count("error: ") == 1
