"""`pspnet-evaluate`: scores against a plain loop, several devices, what is written, and what servers take."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Run, list_arguments
from miniatures import MINIATURES, blocks, lines, picture, save
from PIL import Image
from plain_sliding import plain_probabilities
from small_checkpoint import write_checkpoint

from pspnet_lightning.config import build_source
from pspnet_lightning.data.reading import map_label, read_raw_label
from pspnet_lightning.inference import SlidingWindow
from pspnet_lightning.metrics import count_pairs


@pytest.fixture
def checkpoint(small_list: Path, tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "best.ckpt", *list_arguments(small_list))
    return tmp_path / "best.ckpt"


def evaluated(command: Run, folder: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    result = command(
        "evaluate", "checkpoint=best.ckpt", "trainer.accelerator=cpu", "hydra.run.dir=evaluated", *arguments
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    return json.loads((folder / "evaluated" / "results.json").read_text()), result.stdout


@pytest.mark.parametrize(
    ("arguments", "protocol"),
    [
        (["evaluation=whole"], SlidingWindow(None, flip=False)),
        (
            ["evaluation=whole", "evaluation.flip=true", "evaluation.scales=[0.5,1]"],
            SlidingWindow(None, scales=(0.5, 1)),
        ),
        (["evaluation=single_scale"], SlidingWindow(33)),
        (
            ["evaluation=multi_scale", "evaluation.base_size=70", "evaluation.crop_size=[40,33]"],
            SlidingWindow((40, 33), base_size=70, scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75)),
        ),
    ],
    ids=["whole", "whole, mirrored", "single_scale", "multi_scale"],
)
def test_the_confusion_matrix_is_that_of_a_plain_loop(
    command: Run, small_list: Path, tmp_path: Path, arguments: list[str], protocol: SlidingWindow
) -> None:
    module = write_checkpoint(tmp_path / "best.ckpt", *list_arguments(small_list))
    results, _ = evaluated(command, tmp_path, *arguments)
    assert module.description is not None
    data = build_source(module.description["config"]["data"])("val")
    confusion = torch.zeros(3, 3, dtype=torch.int64)
    each = []
    for index in range(len(data)):
        image, label = data.read(index)
        with torch.inference_mode():
            answer = plain_probabilities(image, protocol, module.model, data.spec.mean, data.spec.std).argmax(2)
        own = count_pairs(torch.from_numpy(answer), torch.from_numpy(label), 3)
        confusion += own
        each.append(float(own.diag().sum() / own.sum()))
    # float64 there, float32 here: a tie may fall to the other side.
    assert np.abs(confusion.numpy() - results["confusion"]).sum() <= 4
    assert len(set(confusion.sum(0).tolist())) == 3, "all classes are predicted"
    with (tmp_path / "evaluated" / "images.csv").open() as file:
        assert [float(row["aacc"]) for row in csv.DictReader(file)] == pytest.approx(each, abs=1e-3)


def test_results_say_how_they_came_about(command: Run, checkpoint: Path, small_list: Path, tmp_path: Path) -> None:
    results, said = evaluated(
        command, tmp_path, "evaluation=single_scale", "model.execution=concat", "evaluation.pictures=2"
    )
    assert results["checkpoint"]["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert results["protocol"] == {
        "name": "single_scale",
        "crop_size": [33, 33],  # the checkpoint's
        "base_size": None,
        "scales": [1.0],
        "flip": True,
        "stride_rate": 2 / 3,
        "batch_size": 4,
        "precision": "32-true",
    }
    assert "model.execution=concat" in results["overrides"]
    assert results["counts"] == {"images": 3, "pixels": 3 * 48 * 64, "ignored_pixels": 0}
    assert (results["split"], results["data"], results["classes"]) == ("val", "list", ["a", "b", "c"])
    assert set(results) >= {"miou", "macc", "aacc", "iou", "accuracy", "conventions", "confusion", "rule"}
    scores = [item["miou"] for item in results["worst"]]
    assert len(scores) == 2
    assert scores == sorted(scores)
    assert [item["miou"] for item in results["best"]] == sorted((x["miou"] for x in results["best"]), reverse=True)
    assert scores[0] <= results["best"][0]["miou"]
    folder = tmp_path / "evaluated"
    assert {path.name for path in folder.iterdir()} >= {"confusion.png", "worst.png", "best.png", "images.csv"}
    assert Image.open(folder / "worst.png").size[0] == 4 * 240 + 3 * 6 + 16
    assert f"mIoU {results['miou']:.4f}" in said
    assert "windows of 33 x 33" in said
    assert "\r" not in said, "no progress bar in a pipe"


def test_bfloat16_changes_few_labels(command: Run, checkpoint: Path, tmp_path: Path) -> None:
    exact, _ = evaluated(command, tmp_path, "evaluation=single_scale")
    rounded, _ = evaluated(command, tmp_path, "evaluation=single_scale", "trainer.precision=bf16-mixed")
    assert rounded["protocol"]["precision"] == "bf16-mixed"
    difference = np.abs(np.array(exact["confusion"]) - rounded["confusion"]).sum() / 2
    assert 0 < difference < 0.02 * exact["counts"]["pixels"]


def test_two_devices_count_each_image_once(command: Run, checkpoint: Path, tmp_path: Path) -> None:
    """Three images on two ranks, talking by gloo: all of it equals one process's."""
    arguments = ["evaluation=multi_scale", "evaluation.save_predictions=true", "evaluation.pictures=2"]
    alone, _ = evaluated(command, tmp_path, *arguments)
    (tmp_path / "evaluated").rename(tmp_path / "alone")
    both, said = evaluated(command, tmp_path, "trainer.devices=2", *arguments)
    for key in ("confusion", "miou", "counts", "worst", "best", "intervals"):
        assert both[key] == alone[key], key
    assert said.count("all pixels") == 1, "one table"
    for name in (
        "images.csv",
        "images.npz",
        "worst.png",
        "best.png",
        *(f"predictions/{number}.png" for number in (6, 7, 8)),
    ):
        assert (tmp_path / "evaluated" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name


def test_against_another_checkpoint_and_its_results(
    command: Run, checkpoint: Path, small_list: Path, tmp_path: Path
) -> None:
    """The difference is that of the two scores; from the folder of the other's results it is the same."""
    other = write_checkpoint(tmp_path / "other.ckpt", *list_arguments(small_list))
    with torch.no_grad():
        other.model.head.classifier.weight.mul_(-1)
    content = torch.load(tmp_path / "other.ckpt", weights_only=True)
    torch.save({**content, "state_dict": other.state_dict()}, tmp_path / "other.ckpt")
    results, said = evaluated(command, tmp_path, "against=other.ckpt", "evaluation.save_predictions=true")
    below = tmp_path / "evaluated" / "against"
    second = json.loads((below / "results.json").read_text())
    against = results["against"]
    assert against["path"] == "other.ckpt"
    assert (against["units"], against["unit"]) == (3, "image")
    for name in ("miou", "macc", "aacc"):
        assert against[name]["value"] == pytest.approx(results[name] - second[name], abs=1e-12)
        assert against[name]["low"] < against[name]["value"] < against[name]["high"]
    assert against["iou"][1]["value"] == pytest.approx(results["iou"][1] - second["iou"][1], abs=1e-12)
    assert f"{100 * abs(against['miou']['value']):.2f} points" in said
    assert "than other.ckpt [" in said
    assert "another seed of either may turn out differently" in said
    assert len(list((below / "predictions").iterdir())) == 3
    low, high = results["intervals"]["miou"]
    assert f"mIoU {results['miou']:.4f} [{low:.4f}, {high:.4f}]" in said
    below.rename(tmp_path / "kept")
    again, _ = evaluated(command, tmp_path, "against=kept")
    assert {**again["against"], "path": ""} == {**against, "path": ""}


def test_groups_are_the_units_of_the_interval(command: Run, checkpoint: Path, tmp_path: Path) -> None:
    """Images 6, 7 and 8: three groups by their number, one by their suffix."""
    results, _ = evaluated(command, tmp_path, r"data.group='([678])\.png'")
    assert (results["intervals"]["unit"], results["intervals"]["units"]) == ("group", 3)
    results, _ = evaluated(command, tmp_path, r"data.group='[678]\.(png)'")
    assert (results["intervals"]["unit"], results["intervals"]["units"]) == ("group", 1)
    assert results["intervals"]["miou"] == [None, None], "one group has no interval"


EXPECTED_FILES = {
    "cityscapes": ("aachen_000000_000019_leftImg8bit.png", {7, 8, 33}, "L"),
    "ade20k": ("ADE_00000000.png", set(range(1, 151)), "L"),
    "voc2012": ("results/VOC2012/Segmentation/comp6_val_cls/2007_000004.png", set(range(21)), "P"),
    "camvid": ("0.png", set(range(11)), "P"),
    "loveda": ("Rural/images_png/0.png", set(range(1, 8)), "L"),
}


@pytest.mark.parametrize("name", EXPECTED_FILES)
def test_saved_predictions_score_the_same_when_read_as_labels(command: Run, name: str, tmp_path: Path) -> None:
    MINIATURES[name](tmp_path / "set")
    module = write_checkpoint(
        tmp_path / "best.ckpt",
        f"data={name}",
        f"data.root={tmp_path / 'set'}",
        "data.crop_size=33",
        "data.val_batch_size=2",
    )
    results, said = evaluated(command, tmp_path, "evaluation.save_predictions=true")
    folder = tmp_path / "evaluated" / "predictions"
    first, values, mode = EXPECTED_FILES[name]
    written = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert module.description is not None
    data = build_source(module.description["config"]["data"])("val")
    assert len(written) == len(data)
    assert first in written
    with Image.open(folder / first) as file:
        assert file.mode == mode
        assert set(np.unique(np.array(file)).tolist()) <= (values if name != "cityscapes" else set(range(7, 34)))
    confusion = torch.zeros(data.spec.num_classes, data.spec.num_classes, dtype=torch.int64)
    for index, path in enumerate(written):
        # The labels' own reader turns the server's values back into classes.
        prediction = map_label(read_raw_label(folder / path), data.spec, path)
        confusion += count_pairs(
            torch.from_numpy(prediction), torch.from_numpy(data.label(index)), data.spec.num_classes
        )
    assert confusion.tolist() == results["confusion"]
    assert "evaluated/predictions: " in said


@pytest.mark.parametrize("name", ["cityscapes", "voc2012", "ade20k"])
def test_a_test_split_without_labels_is_predicted_for_the_server(command: Run, name: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    MINIATURES[name](root)
    write_checkpoint(tmp_path / "best.ckpt", f"data={name}", f"data.root={root}", "data.crop_size=33")
    view = picture(blocks([1, 2], 0))
    where = {
        "cityscapes": (root / "leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png",),
        "voc2012": (root / "VOCdevkit/VOC2012/JPEGImages/2008_000006.jpg",),
        "ade20k": (root / "release_test/testing/ADE_test_00000001.jpg",),
    }[name]
    save(view, where[0])
    lines(root / "VOCdevkit/VOC2012/ImageSets/Segmentation/test.txt", ["2008_000006"])
    refused = command("evaluate", "checkpoint=best.ckpt", "trainer.accelerator=cpu", "split=test")
    assert refused.returncode == 1
    assert "are not public, there is nothing to score; evaluation.save_predictions=true" in refused.stderr
    results, said = evaluated(command, tmp_path, "split=test", "evaluation.save_predictions=true")
    assert "miou" not in results
    assert "mIoU" not in said
    assert results["counts"] == {"images": 1, "pixels": 0, "ignored_pixels": view.shape[0] * view.shape[1]}
    expected = {
        "cityscapes": "berlin_000000_000019_leftImg8bit.png",
        "voc2012": "results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png",
        "ade20k": "ADE_test_00000001.png",
    }[name]
    assert Image.open(tmp_path / "evaluated" / "predictions" / expected).size == (64, 48)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluation=multi"], "evaluation=multi: there is no such option; did you mean 'multi_scale'?"),
        (["evaluation.flips=true"], "did you mean 'evaluation.flip'?"),
        (
            ["evaluation.crop_size=hole"],
            "evaluation.crop_size=hole must be whole or checkpoint, or a whole number",
        ),
        (
            ["evaluation.base_size=big"],
            "evaluation.base_size=big must be official, or a whole number from 1 to 32767",
        ),
        (["evaluation.stride_rate=2"], "evaluation.stride_rate=2 must be a number above 0 and of at most 1"),
        (["evaluation.pictures=-1"], "evaluation.pictures=-1"),
        (["split=train"], "split=train must be val or test"),
        (["model.executoin=concat"], "model.executoin: unknown key; did you mean 'execution'?"),
        (["model.width=16"], "does not fit this model"),
        (["model=pspnet50"], "the network is the checkpoint's"),
        (["data.rot=x"], "data.rot: unknown key; did you mean 'root'?"),
        (["data=scenes"], "answers 3 classes, the data set scenes has 11"),
        (["trainer.device=2"], "did you mean 'trainer.devices'?"),
        (["trainer.devices=65"], "65 processes for the 3 images of the val split; take at most 3"),
        (["data.num_workers=100000"], "data.num_workers=100000"),
        (["against=set"], "against='set' holds no images.npz: evaluate its checkpoint again"),
        (["against=gone.ckpt"], "gone.ckpt"),
        (["data.group=sequence"], "data.group='sequence' does not match the image"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes(command: Run, checkpoint: Path, arguments: list[str], message: str) -> None:
    result = command("evaluate", "checkpoint=best.ckpt", "trainer.accelerator=cpu", *arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.stderr


def test_other_data_with_the_same_classes(command: Run, checkpoint: Path, small_list: Path, tmp_path: Path) -> None:
    """A group choice takes another data set; the checkpoint's mean stays, and other names are pointed out."""
    for kind in ("images", "masks"):
        (tmp_path / "other" / "val").mkdir(parents=True, exist_ok=True)
        (small_list / {"images": "images", "masks": "labels"}[kind]).rename(tmp_path / "other" / "val" / kind)
    results, said = evaluated(
        command, tmp_path, "data=folder", "data.root=other", "data.classes=[a,b,d]", "data.num_workers=0"
    )
    assert (results["data"], results["counts"]["images"]) == ("folder", 9)
    assert "note: class 2 is 'd' in folder and 'c' in the checkpoint" in said
