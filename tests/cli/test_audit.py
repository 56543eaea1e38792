"""`pspnet-audit`: flipped regions are found, the list is a page and a table, and its outcome is used in training."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run, list_arguments
from PIL import Image
from scipy import ndimage
from small_checkpoint import write_checkpoint

from pspnet_lightning.config import build_source
from pspnet_lightning.data import fingerprint
from pspnet_lightning.metrics import Answer
from pspnet_lightning.runs.label_issues import LabelIssues


def region(label: np.ndarray, chances: np.ndarray, smallest: int = 20) -> LabelIssues:
    found = LabelIssues(chances.shape[0], 255, smallest)
    found.add(0, Answer(chances.argmax(0).astype(np.uint8), label, chances))
    return found


def probabilities(truth: np.ndarray, sure: np.ndarray | float, classes: int = 3) -> np.ndarray:
    """Float32 (K, H, W): the truth has ``sure``, the others share the rest."""
    one = np.arange(classes)[:, None, None] == truth
    return np.where(one, sure, (1 - np.asarray(sure)) / (classes - 1)).astype(np.float32)


def test_regions_by_hand() -> None:
    truth = np.zeros((60, 80), np.uint8)
    truth[:, 40:] = 1
    label = truth.copy()
    label[5:20, 5:20] = 2  # wrong: 225 pixels
    label[40:50, 60:70] = 0  # wrong: 100 pixels
    label[30, 2:30] = 2  # a line is an outline's error, no region
    label[55:58, 70:73] = 2  # too small
    label[40:60, :10] = 255
    found = region(label, probabilities(truth, 0.9))
    regions = found.regions()
    assert [(each.given, each.suggested, each.pixels, each.top, each.left) for each in regions] == [
        (2, 0, 225, 5, 5),
        (0, 1, 100, 40, 60),
    ]
    assert regions[0].confidence == pytest.approx(0.9)
    assert regions[0].given_probability == pytest.approx(0.05)
    # The core, two pixels from the region's edge, counts: 11 x 11 of 15 x 15.
    assert regions[0].weight == pytest.approx(121 * 0.85, rel=1e-5)
    # Of the pixels labelled 1 the mean probability of 1 is 0.9: less sure than that, nothing is said.
    sure = np.full(truth.shape, 0.9)
    sure[40:50, 60:70] = 0.6
    assert [each.suggested for each in region(label, probabilities(truth, sure)).regions()] == [0]
    own = label == 1
    assert found.thresholds[1] == pytest.approx(probabilities(truth, 0.9)[1][own].mean())


FLIPPED = (1, 4)


def surest(chances: np.ndarray) -> tuple[int, np.ndarray]:
    """The class and the middle of the region of which the network is surest, bool (H, W)."""
    found = []
    for number in range(3):
        parts, count = ndimage.label(chances.argmax(0) == number)
        cores = [ndimage.binary_erosion(parts == part, iterations=1) for part in range(1, count + 1)]
        mean = chances[number][chances.argmax(0) == number].mean() if count else 0.0
        found += [(chances[number][core].mean() - mean, number, core) for core in cores if core.sum() >= 60]
    _, number, core = max(found, key=lambda one: one[0])
    return number, core


@pytest.fixture
def sweep(small_list: Path, tmp_path: Path) -> Path:
    """Three folds of a network whose own answers are the labels, but for one region of two images each."""
    for fold in range(3):
        job = tmp_path / "sweep" / str(fold)
        words = [*list_arguments(small_list), "data.folds=3", f"data.fold={fold}"]
        path = job / "checkpoints" / "best.ckpt"
        module = write_checkpoint(path, *words)
        with torch.no_grad():
            # Sure of itself but at the outlines, as trained networks are.
            module.model.head.classifier.weight.mul_(30)
        torch.save({**torch.load(path, weights_only=True), "state_dict": module.state_dict()}, path)
        (job / ".hydra").mkdir()
        (job / ".hydra" / "overrides.yaml").write_text(f"- data.fold={fold}\n- data.folds=3\n")
        (job / "run.json").write_text(
            json.dumps({"status": "finished", "objective": {"name": "val/miou", "value": 0.5 + fold / 10}})
        )
    for stem in range(6):
        path = small_list / "labels" / f"{stem}.png"
        chances = module.predict_probabilities(np.array(Image.open(small_list / "images" / f"{stem}.png")))
        label = chances.argmax(0).astype(np.uint8)
        if stem in FLIPPED:
            number, core = surest(chances)
            label[core] = (number + 1) % 3
        Image.fromarray(label).save(path)
    return tmp_path / "sweep"


def test_the_list_and_its_use(command: Run, sweep: Path, small_list: Path, tmp_path: Path) -> None:
    done = command("audit", "sweep", "smallest=20", "device=cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "6 images of list, predicted by 3 networks that were not trained on them" in done.stdout
    with (sweep / "audit" / "audit.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {Path(row["image"]).name for row in rows} == {"1.png", "4.png"}
    for row in rows:
        stem = Path(row["image"]).stem
        suggested = "abc".index(row["suggested"])
        assert row["given"] == "abc"[(suggested + 1) % 3]
        box = np.s_[int(row["top"]) : int(row["bottom"]), int(row["left"]) : int(row["right"])]
        given = np.array(Image.open(small_list / "labels" / f"{stem}.png")) == (suggested + 1) % 3
        assert int(row["pixels"]) <= given[box].sum()
        assert float(row["confidence"]) > float(row["given_probability"])
        assert row["label"].endswith(f"labels/{stem}.png")
    page = (sweep / "audit" / "audit.html").read_text()
    assert page.count("data:image/webp;base64,") == 3 * len(rows)
    assert "http" not in page.replace("https://", ""), "offline"
    node = {
        "_target_": "pspnet_lightning.data.own.list_file",
        "root": str(small_list),
        "train": "train.txt",
        "val": "val.txt",
        "classes": ["a", "b", "c"],
    }
    plain, fixed = build_source(node)("train"), build_source({**node, "fix": str(sweep / "audit" / "fix")})("train")
    for index in range(6):
        changed = plain.label(index) != fixed.label(index)
        assert changed.any() == (index in FLIPPED)
        assert ((fixed.label(index)[changed] + 1) % 3 == plain.label(index)[changed]).all()
        assert changed.sum() == sum(int(row["pixels"]) for row in rows if Path(row["image"]).stem == str(index))
        assert (fixed.read(index)[1] == fixed.label(index)).all()
    assert fingerprint([fixed]) != fingerprint([plain])
    folded = build_source({**node, "fix": str(sweep / "audit" / "fix"), "folds": 3, "fold": 0})
    assert len(folded("train")) + len(folded("val")) == 6
    (tmp_path / "out.txt").write_text("# beyond repair\n1.png\nimages/4.png # and this\n7.png\n")
    source = build_source({**node, "exclude": str(tmp_path / "out.txt")})
    assert [Path(source("train").name(index)).stem for index in range(4)] == ["0", "2", "3", "5"]
    assert (len(source("train")), len(source("val"))) == (4, 2)


def test_one_run_and_mistakes(command: Run, sweep: Path, small_list: Path, tmp_path: Path) -> None:
    done = command("audit", "sweep/0", "output=here", "smallest=20", "limit=1", "device=cpu")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here" / "audit.html").is_file()
    (tmp_path / "nothing").mkdir()
    words = list_arguments(small_list)
    (tmp_path / "bad.txt").write_text("images/99.png\n")
    (tmp_path / "two.txt").write_text(".png\n")
    (tmp_path / "fix" / "train").mkdir(parents=True)
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(tmp_path / "fix" / "train" / "elsewhere.png")
    (tmp_path / "small" / "train").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(tmp_path / "small" / "train" / "0.png")
    for name, given, message in (
        ("audit", ["nothing"], "folder='nothing' holds no finished run with checkpoints/best.ckpt"),
        ("audit", ["gone"], "folder='gone' is no folder of a run or a sweep"),
        ("audit", ["sweep", "limit=0"], "limit=0 must be a whole number of at least 1"),
        ("train", [*words, "data.exclude=bad.txt"], "names 'images/99.png', which is no image's name or its end"),
        ("train", [*words, "data.exclude=gone.txt"], "data.exclude='gone.txt' is no file"),
        ("train", [*words, "data.fix=set"], "data.fix='set' holds neither train/ nor val/"),
        ("train", [*words, "data.fix=fix"], "elsewhere.png' is no image's label; there 6 names are known"),
        ("train", [*words, "data.fix=small"], "0.png' is 6 x 4, its image 64 x 48 (width x height)"),
        ("train", [*words, "data.fix=[a]"], "data.fix=[a] must be a text, or null"),
    ):
        done = command(name, *given)
        assert done.returncode == 1, given
        assert message in done.stderr, (given, done.stderr)
        assert done.stderr.count("error: ") == 1
