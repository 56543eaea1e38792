"""Scores against brute force, scikit-learn and torchmetrics, and what the conventions do to absent classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from pspnet_lightning.metrics import ConfusionMatrix, all_conventions, scores


@pytest.fixture
def maps() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 5, (4, 9, 11), generator=generator)
    prediction = torch.where(
        torch.rand(target.shape, generator=generator) < 0.6,
        target,
        torch.randint(0, 5, target.shape, generator=generator),
    )
    target[0, 0] = 255
    return prediction, target


def test_against_sklearn_and_brute_force(maps: tuple[torch.Tensor, torch.Tensor]) -> None:
    prediction, target = maps
    metric = ConfusionMatrix(5)
    for image in range(4):
        metric.update(prediction[image : image + 1], target[image : image + 1])
    confusion = metric.compute()
    valid = target != 255
    expected = sklearn.metrics.confusion_matrix(target[valid], prediction[valid], labels=range(5))
    assert (confusion.numpy() == expected).all()

    result = scores(confusion)
    for label in range(5):
        a, b = (target == label) & valid, (prediction == label) & valid
        assert result.iou[label] == pytest.approx(int((a & b).sum()) / int((a | b).sum()), rel=1e-12)
        assert result.accuracy[label] == pytest.approx(int((a & b).sum()) / int(a.sum()), rel=1e-12)
    assert result.miou == pytest.approx(np.mean(result.iou), rel=1e-12)
    assert result.macc == pytest.approx(np.mean(result.accuracy), rel=1e-12)
    assert result.aacc == pytest.approx(float((prediction == target)[valid].float().mean()), rel=1e-6)
    assert result.rule == "present"


def test_batch_split_and_logits_change_nothing(maps: tuple[torch.Tensor, torch.Tensor]) -> None:
    prediction, target = maps
    whole, parts = ConfusionMatrix(5), ConfusionMatrix(5)
    whole.update(torch.nn.functional.one_hot(prediction, 5).permute(0, 3, 1, 2).float(), target)
    for image in range(4):
        parts.update(prediction[image].to(torch.uint8), target[image])
    assert torch.equal(whole.compute(), parts.compute())
    assert whole.compute().dtype == torch.int64


def test_one_matrix_three_answers() -> None:
    # Two classes occur, the third occurs nowhere.
    confusion = torch.tensor([[85, 7, 0], [8, 85, 0], [0, 0, 0]])
    iou = [85 / 100, 85 / 100]
    conventions = all_conventions(confusion)
    assert scores(confusion).miou == pytest.approx(np.mean(iou))
    assert conventions["semseg"]["miou"] == pytest.approx(sum(iou) / 3, rel=1e-6)  # 0.567
    assert conventions["mmseg"]["miou"] == pytest.approx(0.85)
    assert math.isnan(conventions["absent_is_nan"]["miou"])
    assert math.isnan(scores(confusion).iou[2])


def test_torchmetrics_convention_is_its_own(maps: tuple[torch.Tensor, torch.Tensor]) -> None:
    prediction, target = maps
    for classes in (5, 7):  # two classes more that occur nowhere
        metric = ConfusionMatrix(classes)
        metric.update(prediction, target)
        theirs = MulticlassJaccardIndex(classes, ignore_index=255)(prediction, target)
        assert all_conventions(metric.compute())["torchmetrics"]["miou"] == pytest.approx(float(theirs), rel=1e-6)


def test_predicted_but_never_labelled_counts_as_zero() -> None:
    confusion = torch.tensor([[8, 2, 0], [0, 10, 0], [0, 0, 0]])
    confusion[0, 2] = 5  # class 2 is only predicted
    result = scores(confusion)
    assert result.iou[2] == 0
    assert result.miou == pytest.approx(np.mean([8 / 15, 10 / 12, 0]))
    assert result.macc == pytest.approx(np.mean([8 / 15, 1]))


def test_errors() -> None:
    with pytest.raises(ValueError, match="rule='mean' must be one of present, zero, nan"):
        scores(torch.eye(2), "mean")
    with pytest.raises(ValueError, match="differ in shape"):
        ConfusionMatrix(2).update(torch.zeros(1, 2, 2), torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match="outside the 2 classes"):
        ConfusionMatrix(2).update(torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), 7))
