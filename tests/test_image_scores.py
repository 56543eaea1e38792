"""Surface distances, AUC, average precision and calibration against independent implementations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error
from torchmetrics.functional.segmentation import hausdorff_distance

from pspnet_lightning.metrics.calibration import CalibrationScores, fit_temperature, log_loss, tempered
from pspnet_lightning.metrics.image_score import Answer, ImageScore
from pspnet_lightning.metrics.ranking import RankingScores
from pspnet_lightning.metrics.surface import SurfaceScores, outline, outline_distances

IGNORED = 255


def blobs(seed: int, classes: int = 3, size: tuple[int, int] = (40, 52)) -> np.ndarray:
    """Smooth regions of classes."""
    generator = np.random.default_rng(seed)
    low = torch.from_numpy(generator.normal(size=(1, classes, 5, 6)))
    return torch.nn.functional.interpolate(low, size, mode="bicubic")[0].argmax(0).numpy().astype(np.uint8)


def brute_outline(mask: np.ndarray) -> np.ndarray:
    """Coordinates (n, 2), pixel by pixel."""
    padded = np.pad(mask, 1)
    found = []
    for row, column in np.argwhere(mask) + 1:
        around = padded[row - 1, column], padded[row + 1, column], padded[row, column - 1], padded[row, column + 1]
        if not all(around):
            found.append((row - 1, column - 1))
    return np.array(found)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 2.0)])
def test_surface_scores_by_brute_force(spacing: tuple[float, float]) -> None:
    """All pairs of outline pixels, over four images, one of them with ignored pixels, one without a class."""
    pairs = [(blobs(seed), blobs(seed + 50)) for seed in range(4)]
    pairs[1][0][:12] = IGNORED
    pairs[2][0][pairs[2][0] == 2] = 0
    found = SurfaceScores(3, IGNORED, tolerance=2.5, spacing=spacing)
    hd95: list[list[float]] = [[], [], []]
    dice: list[list[float]] = [[], [], []]
    for index, (label, prediction) in enumerate(pairs):
        found.add(index, Answer(prediction, label))
        for number in range(3):
            own = brute_outline(label == number)
            other = brute_outline((prediction == number) & (label != IGNORED))
            if not len(own) or not len(other):
                dice[number].append(0.0)
                continue
            distances = cdist(own * spacing, other * spacing)
            there, back = distances.min(1), distances.min(0)
            hd95[number].append(max(np.percentile(there, 95), np.percentile(back, 95)))
            dice[number].append(((there <= 2.5).sum() + (back <= 2.5).sum()) / (len(there) + len(back)))
    results = found.results()["surface"]
    assert results["hd95_of_classes"] == pytest.approx([np.mean(values) for values in hd95], abs=1e-9)
    assert results["dice_of_classes"] == pytest.approx([np.mean(values) for values in dice], abs=1e-9)
    assert results["hd95"] == pytest.approx(np.mean([np.mean(values) for values in hd95]))
    assert (results["images_with_class"], results["in_one_of_both_only"]) == ([4, 4, 4], [0, 0, 1])


def test_the_largest_distance_is_torchmetrics_hausdorff() -> None:
    label, prediction = blobs(3, 2) == 1, blobs(4, 2) == 1
    assert outline(label).sum() == len(brute_outline(label))
    longest = max(float(one.max()) for one in outline_distances(label, prediction))
    tensors = [torch.from_numpy(mask)[None, None] for mask in (prediction, label)]
    # Of masks as one class each; its outlines are found by another filter, of 2 x 2.
    theirs = float(hausdorff_distance(*tensors, num_classes=1, include_background=True, input_format="one-hot"))
    assert longest == pytest.approx(theirs, abs=1.5)


def probabilities(seed: int, label: np.ndarray, classes: int, sharp: float) -> np.ndarray:
    """Float32 (K, H, W) that favour the label, too sure of themselves by ``sharp``."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1, (classes, *label.shape))
    logits += 1.5 * (np.arange(classes)[:, None, None] == label)
    return torch.from_numpy(logits * sharp).softmax(0).float().numpy()


def test_auc_and_average_precision_are_scikit_learns() -> None:
    found = RankingScores(2, IGNORED)
    truth, scores = [], []
    for index in range(3):
        label = blobs(index, 2)
        chances = probabilities(index, label, 2, 2.0)
        label[:3] = IGNORED
        found.add(index, Answer(chances.argmax(0), label, chances))
        truth.append(label[3:].ravel())
        scores.append(chances[1, 3:].ravel())
    results = found.results()["auc"]
    # Bins of 1 % of a probability make a few ties.
    assert results["auc"] == pytest.approx(roc_auc_score(np.concatenate(truth), np.concatenate(scores)), abs=1e-4)
    expected = average_precision_score(np.concatenate(truth), np.concatenate(scores))
    assert results["average_precision"] == pytest.approx(expected, abs=2e-3)
    assert results["positives"] == np.concatenate(truth).sum()
    with pytest.raises(ValueError, match=r"evaluation\.metrics=\[auc\] is of two classes, this data set has 3"):
        RankingScores(3, IGNORED)


def test_the_calibration_error_is_torchmetrics() -> None:
    """Over all pixels and of those predicted as each class."""
    found = CalibrationScores(4, IGNORED)
    chances, labels = [], []
    for index in range(3):
        label = blobs(index, 4)
        own = probabilities(index, label, 4, 2.5)
        label[:, :5] = IGNORED
        found.add(index, Answer(own.argmax(0), label, own))
        chances.append(own[:, :, 5:].reshape(4, -1).T)
        labels.append(label[:, 5:].ravel().astype(np.int64))
    every, truth = torch.from_numpy(np.concatenate(chances)), torch.from_numpy(np.concatenate(labels))
    results = found.results()["calibration"]
    expected = multiclass_calibration_error(every, truth, 4, n_bins=15, norm="l1")
    assert results["ece"] == pytest.approx(float(expected), abs=1e-6)
    assert results["ece"] > 0.1
    for number, value in enumerate(results["ece_of_classes"]):
        mine = every.argmax(1) == number
        own = multiclass_calibration_error(every[mine], truth[mine], 4, n_bins=15, norm="l1")
        assert value == pytest.approx(float(own), abs=1e-6)
    assert sum(results["bins"]["pixels"]) == len(truth)


def test_the_temperature_is_that_of_a_plain_search() -> None:
    """The best logits of this noise are 1.5 times its values: multiplied by three they want 2, whoever looks for it."""
    found = CalibrationScores(3, IGNORED, images=4)
    kept = []
    for index in range(4):
        label = blobs(index)
        own = probabilities(index, label, 3, 3.0)
        found.add(index, Answer(own.argmax(0), label, own))
        kept.append((own.reshape(3, -1).T, label.ravel().astype(np.int64)))
    chances, labels = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    logits, target = torch.from_numpy(chances).double().clamp_min(1e-38).log(), torch.from_numpy(labels)
    grid = np.linspace(1, 5, 801)
    losses = [float(torch.nn.functional.cross_entropy(logits / value, target)) for value in grid]
    fitted = found.fit()
    assert fitted["temperature"] == pytest.approx(grid[int(np.argmin(losses))], abs=0.01)
    assert fitted["temperature"] == pytest.approx(3.0 / 1.5, abs=0.05)
    assert fitted["log_loss_after"] == pytest.approx(min(losses), rel=1e-3)
    assert fitted["ece_after"] < 0.02 < 0.1 < fitted["ece_before"]
    assert (tempered(chances, fitted["temperature"]).argmax(1) == chances.argmax(1)).all(), "labels stay"
    assert log_loss(chances, labels) == pytest.approx(fitted["log_loss_before"])
    assert fit_temperature(np.eye(3)[[0, 1]].astype(np.float32), np.array([0, 1])) < 1, "sure and right"


def test_several_processes_are_one() -> None:
    """What each holds, put together, is what one would hold."""
    makers: list[Any] = [
        lambda: SurfaceScores(2, IGNORED),
        lambda: RankingScores(2, IGNORED),
        lambda: CalibrationScores(2, IGNORED, images=4),
    ]
    for make in makers:
        alone: ImageScore = make()
        shares: list[ImageScore] = [make(), make()]
        for index in range(4):
            label = blobs(index, 2)
            own = probabilities(index, label, 2, 2.0)
            for one in (alone, shares[index % 2]):
                one.add(index, Answer(own.argmax(0), label, own))
        parts = [one.arrays() for one in shares]
        for one in shares:
            one.gather(parts)
            assert repr(one.results()) == repr(alone.results())
            if isinstance(one, CalibrationScores) and isinstance(alone, CalibrationScores):
                assert one.fit() == alone.fit()
