"""`pspnet-evaluate predictions=DIR`: anybody's label maps, against mmseg's and torchmetrics' code on the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import Run
from miniatures import MINIATURES, blocks
from PIL import Image
from torchmetrics.classification import MulticlassJaccardIndex

from pspnet_lightning.config import build_source
from pspnet_lightning.data import DataSpec, SegmentationDataset
from pspnet_lightning.metrics import class_statistics
from pspnet_lightning.runs.image_counts import read_image_counts
from pspnet_lightning.runs.predictions import find_predictions

LIST = ["data=list", "data.root=set", "data.train=train.txt", "data.val=val.txt", "data.classes=[a,b,c]"]


def labels(root: Path) -> dict[str, np.ndarray]:
    return {f"{number}": np.array(Image.open(root / "labels" / f"{number}.png")) for number in (6, 7, 8)}


def guesses(root: Path, wrong: float = 0.2, seed: int = 0) -> dict[str, np.ndarray]:
    """The labels with some pixels changed."""
    generator = np.random.default_rng(seed)
    found = {}
    for stem, label in labels(root).items():
        other = generator.integers(0, 3, label.shape).astype(np.uint8)
        found[stem] = np.where(generator.random(label.shape) < wrong, other, label).astype(np.uint8)
    return found


def write(folder: Path, maps: dict[str, np.ndarray], suffix: str = ".png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, pixels in maps.items():
        Image.fromarray(pixels).save(folder / f"{stem}{suffix}")


def judged(command: Run, folder: Path, *words: str) -> tuple[dict[str, Any], str]:
    done = command("evaluate", "predictions=theirs", "hydra.run.dir=out", *LIST, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return json.loads((folder / "out" / "results.json").read_text()), done.stdout


def mmseg_intersect_and_union(
    pred_label: torch.Tensor, label: torch.Tensor, num_classes: int, ignore_index: int
) -> tuple[torch.Tensor, ...]:
    """As in open-mmlab/mmsegmentation v1.2.2, mmseg/evaluation/metrics/iou_metric.py, IoUMetric.intersect_and_union."""
    mask = label != ignore_index
    pred_label = pred_label[mask]
    label = label[mask]

    intersect = pred_label[pred_label == label]
    area_intersect = torch.histc(intersect.float(), bins=(num_classes), min=0, max=num_classes - 1).cpu()
    area_pred_label = torch.histc(pred_label.float(), bins=(num_classes), min=0, max=num_classes - 1).cpu()
    area_label = torch.histc(label.float(), bins=(num_classes), min=0, max=num_classes - 1).cpu()
    area_union = area_pred_label + area_label - area_intersect
    return area_intersect, area_union, area_pred_label, area_label


def test_the_scores_are_mmsegs_and_torchmetrics_on_the_same_files(
    command: Run, small_list: Path, tmp_path: Path
) -> None:
    """One image has ignored pixels, in which the prediction is free."""
    label = labels(small_list)["7"]
    label[:9] = 255
    Image.fromarray(label).save(small_list / "labels" / "7.png")
    maps = guesses(small_list)
    write(
        tmp_path / "theirs", {stem: np.where(pixels > 2, 0, pixels).astype(np.uint8) for stem, pixels in maps.items()}
    )
    results, said = judged(command, tmp_path)
    pairs = [
        (torch.from_numpy(np.array(Image.open(tmp_path / "theirs" / f"{stem}.png"))), torch.from_numpy(own))
        for stem, own in labels(small_list).items()
    ]
    areas = [sum(part) for part in zip(*(mmseg_intersect_and_union(*pair, 3, 255) for pair in pairs), strict=True)]
    intersect, union, predicted, labelled = (area.double() for area in areas)
    # total_area_to_metrics of the same file: mIoU, mAcc, aAcc, mFscore with beta 1, nanmean over classes.
    assert results["conventions"]["mmseg"]["miou"] == pytest.approx(float((intersect / union).nanmean()), rel=1e-12)
    assert results["conventions"]["mmseg"]["macc"] == pytest.approx(float((intersect / labelled).nanmean()), rel=1e-12)
    assert results["aacc"] == pytest.approx(float(intersect.sum() / labelled.sum()), rel=1e-12)
    precision, recall = intersect / predicted, intersect / labelled
    assert results["precision"] == pytest.approx(precision.tolist(), rel=1e-12)
    assert results["recall"] == pytest.approx(recall.tolist(), rel=1e-12)
    assert results["dice"] == pytest.approx((2 * precision * recall / (precision + recall)).tolist(), rel=1e-12)
    jaccard = MulticlassJaccardIndex(3, ignore_index=255)
    for prediction, target in pairs:
        jaccard.update(prediction[None].long(), target[None].long())
    assert results["conventions"]["torchmetrics"]["miou"] == pytest.approx(float(jaccard.compute()), rel=1e-6)
    assert results["counts"] == {"images": 3, "pixels": 3 * 48 * 64 - 9 * 64, "ignored_pixels": 9 * 64}
    assert results["predictions"] == {"folder": "theirs", "coding": "classes", "further_files": 0}
    assert results["intervals"]["units"] == 3
    low, high = results["intervals"]["miou"]
    assert f"mIoU {results['miou']:.4f} [{low:.4f}, {high:.4f}]" in said
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"results.json", "images.npz", "images.csv", "confusion.png", "worst.png", "best.png"}


def test_specificity_by_hand() -> None:
    found = class_statistics(torch.tensor([[5, 1, 0], [2, 7, 0], [0, 3, 0]]))
    # Of class 0: 12 pixels are others', of which 2 are called 0.
    assert found["specificity"] == pytest.approx([10 / 12, 5 / 9, 15 / 15])
    assert found["precision"][:2] == pytest.approx([5 / 7, 7 / 11])
    assert found["precision"][2] != found["precision"][2], "never predicted"
    assert found["mprecision"] == pytest.approx((5 / 7 + 7 / 11) / 2)
    assert found["mdice"] == pytest.approx((10 / 13 + 14 / 20 + 0) / 3)


def test_against_other_predictions(command: Run, small_list: Path, tmp_path: Path) -> None:
    write(tmp_path / "theirs", guesses(small_list, 0.1))
    write(tmp_path / "others", guesses(small_list, 0.4, seed=1))
    results, said = judged(command, tmp_path, "against=others")
    second = json.loads((tmp_path / "out" / "against" / "results.json").read_text())
    assert results["against"]["miou"]["value"] == pytest.approx(results["miou"] - second["miou"], abs=1e-12)
    assert "points better than others [" in said
    counts = read_image_counts(tmp_path / "out" / "against")
    assert counts is not None
    assert counts.confusion().tolist() == second["confusion"]


def data_of(tmp_path: Path, name: str, split: str = "val") -> SegmentationDataset:
    MINIATURES[name](tmp_path / name)
    target = "pspnet_lightning.data.public." + ("camvid.camvid" if name == "camvid" else name)
    return build_source({"_target_": target, "root": str(tmp_path / name)})(split)


def test_codings_are_recognised(small_list: Path, tmp_path: Path) -> None:
    """Class indices, the values of ADE20K's own files, CamVid's colours, grey saved as RGB."""
    camvid = data_of(tmp_path, "camvid")
    classes = [np.where(camvid.label(index) == 255, 0, camvid.label(index)) for index in range(2)]
    palette = np.array(camvid.spec.palette, np.uint8)
    write(tmp_path / "colours", {str(index): palette[label] for index, label in enumerate(classes)})
    write(tmp_path / "grey", {str(i): np.dstack([label] * 3).astype(np.uint8) for i, label in enumerate(classes)})
    write(tmp_path / "tiff", {str(i): label.astype(np.uint16) for i, label in enumerate(classes)}, ".tif")
    for name, coding in (("colours", "colours"), ("grey", "classes"), ("tiff", "classes")):
        found = find_predictions(tmp_path / name, camvid)
        assert found.coding == coding, name
        for index in range(2):
            assert (found.read(index, camvid.label(index)) == classes[index]).all(), name
    ade = data_of(tmp_path, "ade20k")
    own = {f"ADE_{index:08}": np.where(ade.label(index) == 255, 1, ade.label(index) + 1) for index in range(2)}
    write(tmp_path / "ade", {stem: pixels.astype(np.uint8) for stem, pixels in own.items()})
    found = find_predictions(tmp_path / "ade", ade)
    assert found.coding == "labels"
    assert (found.read(0, ade.label(0)) == own["ADE_00000000"] - 1).all()


def test_cityscapes_names_of_others(tmp_path: Path) -> None:
    """Predictions under the stem of the image, of the label file, and without either's tail."""
    data = data_of(tmp_path, "cityscapes")
    label = np.where(data.label(0) == 255, 0, data.label(0)).astype(np.uint8)
    for number, tail in enumerate(("_leftImg8bit", "_gtFine_labelIds", "", "_pred")):
        maps = {f"aachen_{index:06}_000019{tail}": label for index in range(2)}
        write(tmp_path / f"p{number}", maps)
        assert [path.stem for path in find_predictions(tmp_path / f"p{number}", data).paths] == list(maps)


def test_what_cannot_be_right_is_said_so(command: Run, small_list: Path, tmp_path: Path) -> None:
    good = guesses(small_list)
    write(tmp_path / "short", {"6": good["6"], "7": good["7"], "elsewhere": good["8"]})
    write(tmp_path / "small", {stem: pixels[:24, :32] for stem, pixels in good.items()})
    write(tmp_path / "off", {stem: pixels + 1 for stem, pixels in good.items()})
    write(tmp_path / "void", {**good, "8": np.where(good["8"] == 1, 255, good["8"]).astype(np.uint8)})
    colours = np.array([[1, 2, 3], [9, 9, 0], [7, 0, 7]], np.uint8)
    write(tmp_path / "coloured", {stem: colours[pixels] for stem, pixels in good.items()})
    write(tmp_path / "twice" / "a", {"6": good["6"]})
    write(tmp_path / "twice" / "b", good)
    write(tmp_path / "lossy", good, ".jpg")
    (tmp_path / "empty").mkdir()
    for words, message in (
        (["predictions=short"], "1 of 3 images have no prediction: set/images/8.png. There are 3 files, such as 6.png"),
        (["predictions=small"], "6.png' is 32 x 24, its label 64 x 48 (width x height): scores are of the labels' own"),
        (["predictions=off"], "look off by one: as class indices 0..2 they do not fit, taken as one too high"),
        (["predictions=void"], "8.png' has the values 255, which are none of the 3 classes of list (coding classes)"),
        (["predictions=coloured"], "is a colour image, and its colours are not all in the palette of list"),
        (["predictions=twice"], "1 images have several predictions"),
        (["predictions=empty"], "predictions='empty' holds no label map"),
        (["predictions=lossy"], "holds no label map (.png, .tif, .tiff, .bmp, .gif), only .jpg: save label maps"),
        (["predictions=gone"], "predictions='gone' is not a folder"),
        (["predictions=short", "coding=index"], "coding=index must be classes, labels, colours, binary, minus_one or"),
        (["predictions=short", "checkpoint=a.ckpt"], "give one of them"),
        (["predictions=off", "coding=minus_one", "against=gone"], "against='gone' is no folder, of label maps or with"),
        (["predictions=short", "split=train"], "split=train must be val or test"),
    ):
        done = command("evaluate", *words, *LIST)
        assert done.returncode == 1, words
        assert message in done.stderr, (words, done.stderr)
        assert done.stderr.count("error: ") == 1
    assert "are of which data set?" in command("evaluate", "predictions=short").stderr
    assert "checkpoint is required" in command("evaluate").stderr
    done = command("evaluate", "predictions=off", "coding=minus_one", "hydra.run.dir=out", *LIST)
    assert done.returncode == 0, done.stderr


class Two(SegmentationDataset):
    """Three images of two classes."""

    spec = DataSpec("two", ("background", "polyp"), ((0, 0, 0), (255, 255, 255)))

    def __len__(self) -> int:
        return 3

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        # The first has no polyp: nothing but 0, whatever the coding.
        return np.zeros((48, 64, 3), np.uint8), blocks([0, 1] if index else [0], index)

    def name(self, index: int) -> str:
        return f"{index}.jpg"


def test_black_and_white_masks_of_two_classes(tmp_path: Path) -> None:
    data = Two()
    for suffix in (".png", ".gif"):
        write(tmp_path / suffix, {str(index): data.label(index) * 255 for index in range(3)}, suffix)
        found = find_predictions(tmp_path / suffix, data)
        assert found.coding == "binary"
        assert all((found.read(index, data.label(index)) == data.label(index)).all() for index in range(3))
    write(tmp_path / "grey", {str(index): data.label(index) * 200 + 20 for index in range(3)})
    with pytest.raises(ValueError, match="has the values 20, which are none of the 2 classes"):
        find_predictions(tmp_path / "grey", data)


def test_probabilities_and_planes_are_no_label_maps(tmp_path: Path) -> None:
    """Cut off to whole numbers, a probability of 0.9 would be class 0."""
    data = Two()
    for name, make in (
        ("soft", lambda label: (label * 0.8 + 0.1).astype(np.float32)),
        ("planes", lambda label: np.stack([label == 0, label == 1]).astype(np.uint8)),
        ("whole", lambda label: label.astype(np.float32)),
    ):
        (tmp_path / name).mkdir()
        for index in range(3):
            tifffile.imwrite(tmp_path / name / f"{index}.tif", make(data.label(index)))
    with pytest.raises(ValueError, match=r"0\.tif' holds fractions \(0\.1 to 0\.1\), which are probabilities"):
        find_predictions(tmp_path / "soft", data)
    with pytest.raises(ValueError, match=r"has the shape \(2, 48, 64\): a label map has one value a pixel"):
        find_predictions(tmp_path / "planes", data)
    assert find_predictions(tmp_path / "whole", data).coding == "classes"


def test_groups_and_one_image(command: Run, small_list: Path, tmp_path: Path) -> None:
    """The referee's comparison over groups; over one image there is a difference and no interval."""
    write(tmp_path / "theirs", guesses(small_list, 0.1))
    write(tmp_path / "others", guesses(small_list, 0.4, seed=1))
    results, said = judged(command, tmp_path, "against=others", r"data.group='(6|[78])'")
    assert (results["intervals"]["unit"], results["against"]["units"]) == ("group", 3)
    (small_list / "val.txt").write_text("images/7.png labels/7.png\n")
    results, said = judged(command, tmp_path, "against=others")
    assert (results["intervals"]["units"], results["intervals"]["miou"]) == (1, [None, None])
    assert results["predictions"]["further_files"] == 2
    assert "better than others over 1 images: too few for an interval" in said


def test_who_is_right_nowhere_may_be_off_by_one(tmp_path: Path) -> None:
    """A guess of one class everywhere: the user decides."""

    class Fixed(SegmentationDataset):
        spec = DataSpec("fixed", ("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))

        def __len__(self) -> int:
            return 1

        def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            label = np.zeros((8, 9), np.uint8)
            label[:4] = 2
            return np.zeros((8, 9, 3), np.uint8), label

        def name(self, index: int) -> str:
            return "x.png"

    write(tmp_path / "p", {"x": np.full((8, 9), 1, np.uint8)})
    with pytest.raises(ValueError, match=r"look off by one: as class indices 0\.\.2 0\.0 % of the pixels are right"):
        find_predictions(tmp_path / "p", Fixed())
    assert find_predictions(tmp_path / "p", Fixed(), "classes").coding == "classes"
