"""The losses against torch's own and against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pspnet_lightning.losses import OHEM, CrossEntropy, class_weights_from_counts, segmentation_loss


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 4, (2, 6, 7), generator=generator)
    target[0, :2] = 255
    return logits, target


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0, 0.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(
    pair: tuple[torch.Tensor, torch.Tensor], weights: list[float] | None, smoothing: float
) -> None:
    logits, target = pair
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected = F.cross_entropy(logits, target, weight=weight, ignore_index=255, label_smoothing=smoothing)
    answered = CrossEntropy(class_weights=weights, label_smoothing=smoothing)(logits, target)
    assert float(answered.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)


def test_a_target_without_any_label_gives_zero_not_nan() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    for criterion in (CrossEntropy(), OHEM()):
        loss = criterion(logits, torch.full((1, 4, 4), 255))
        loss.backward()
        assert loss.item() == 0
        assert (logits.grad == 0).all()


def test_sums_over_parts_make_the_mean_of_the_whole(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    criterion = CrossEntropy(class_weights=[1.0, 0.5, 2.0, 0.3])
    logits, target = pair
    parts = [criterion.sum_and_weight(logits[i : i + 1], target[i : i + 1]) for i in range(2)]
    mean = sum(part[0] for part in parts) / sum(part[1] for part in parts)
    assert mean.item() == pytest.approx(criterion(logits, target).item(), rel=1e-12)


@pytest.mark.parametrize(("threshold", "min_kept"), [(0.3, 1), (0.3, 30), (0.9, 5), (0.001, 10), (0.7, 10_000)])
def test_ohem_against_brute_force(pair: tuple[torch.Tensor, torch.Tensor], threshold: float, min_kept: int) -> None:
    logits, target = pair
    losses = []
    probabilities = logits.detach().softmax(1)
    for n, y, x in np.ndindex(*target.shape):
        label = int(target[n, y, x])
        if label != 255:
            losses.append(float(probabilities[n, label, y, x]))
    losses.sort()
    hard = [p for p in losses if p < threshold]
    kept = hard if len(hard) >= min_kept else losses[:min_kept]
    expected = sum(-math.log(p) for p in kept) / len(kept)
    answered = OHEM(threshold=threshold, min_kept=min_kept)(logits, target)
    assert answered.item() == pytest.approx(expected, rel=1e-6)


def test_the_auxiliary_loss_is_weighted(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, target = pair
    criterion = CrossEntropy()
    loss = segmentation_loss((logits, 2 * logits), target, criterion, 0.4)
    assert loss.total.item() == pytest.approx(
        (criterion(logits, target) + 0.4 * criterion(2 * logits, target)).item(), rel=1e-12
    )
    assert segmentation_loss((logits, None), target, criterion, 0.4).aux is None


def test_half_precision_logits_are_computed_in_float32() -> None:
    logits = torch.randn(1, 150, 8, 8) * 5
    target = torch.randint(0, 150, (1, 8, 8))
    loss = CrossEntropy()(logits.bfloat16(), target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(CrossEntropy()(logits.bfloat16().float(), target).item(), rel=1e-6)


def test_weights_from_counts() -> None:
    counts = np.array([800, 150, 50, 0])
    balanced = class_weights_from_counts(counts, "balanced")
    assert balanced[3] == 0
    assert balanced[2] / balanced[0] == pytest.approx(16)
    assert sum(balanced[:3]) / 3 == pytest.approx(1)
    median = class_weights_from_counts(counts, "median_frequency")
    assert median[1] / median[0] == pytest.approx(800 / 150)
    enet = class_weights_from_counts(counts, "enet")
    assert enet[0] / enet[2] == pytest.approx(math.log(1.07) / math.log(1.82))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossEntropy(label_smoothing=1.0), "label_smoothing=1.0"),
        (lambda: CrossEntropy(class_weights=[-1.0, 2.0]), "class_weights"),
        (lambda: OHEM(threshold=0), "threshold=0"),
        (lambda: OHEM(min_kept=0), "min_kept=0"),
        (lambda: class_weights_from_counts(np.ones(3), "inverse"), "balanced, median_frequency, enet"),
        (lambda: class_weights_from_counts(np.zeros(3), "balanced"), "no labelled pixel"),
        (
            lambda: CrossEntropy(class_weights=[1.0])(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3).long()),
            "1 values",
        ),
    ],
)
def test_arguments(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
