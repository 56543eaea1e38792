"""The losses against brute force in float64, against torch's own and against other libraries' numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pspnet_lightning.models.upsampling import LowLogits
from pspnet_lightning.training.losses import (
    OHEM,
    BoundaryCrossEntropy,
    CrossEntropy,
    Dice,
    Focal,
    LovaszSoftmax,
    SumsOverPixels,
    Tversky,
    ValidationLoss,
    WeightedSum,
    class_weights_from_counts,
    segmentation_loss,
    weighted_sum,
)

VECTORS = Path(__file__).parent / "vectors" / "losses.npz"
WEIGHTS = [1.0, 0.5, 2.0, 0.3]
ALL: dict[str, Callable[[], nn.Module]] = {
    "cross_entropy": lambda: CrossEntropy(class_weights=WEIGHTS, label_smoothing=0.1),
    "ohem": lambda: OHEM(threshold=0.2, min_kept=30),
    "focal": lambda: Focal(gamma=1.5, class_weights=WEIGHTS),
    "boundary": lambda: BoundaryCrossEntropy(width=2, class_weights=WEIGHTS),
    "dice": Dice,
    "dice_squared_all": lambda: Dice(squared=True, classes="all"),
    "tversky": Tversky,
    "lovasz": LovaszSoftmax,
    "lovasz_per_image": lambda: LovaszSoftmax(per_image=True),
    "sum": lambda: weighted_sum({"cross_entropy": {}, "dice": {"weight": 0.5}, "lovasz": {"weight": 0.3}}),
}


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 6, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 3, (2, 6, 7), generator=generator)  # class 3 is absent
    target[0, :2] = 255
    return logits, target


def valid_pixels(target: Tensor) -> list[tuple[int, int, int]]:
    return [(n, y, x) for n, y, x in np.ndindex(*target.shape) if int(target[n, y, x]) != 255]


# ---------------------------------------------------------------------- each against brute force


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0, 0.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(pair: tuple[Tensor, Tensor], weights: list[float] | None, smoothing: float) -> None:
    logits, target = pair
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected = F.cross_entropy(logits, target, weight=weight, ignore_index=255, label_smoothing=smoothing)
    answered = CrossEntropy(class_weights=weights, label_smoothing=smoothing)(logits, target)
    assert float(answered.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)


@pytest.mark.parametrize(("threshold", "min_kept"), [(0.3, 1), (0.3, 30), (0.9, 5), (0.001, 10), (0.7, 10_000)])
def test_ohem(pair: tuple[Tensor, Tensor], threshold: float, min_kept: int) -> None:
    logits, target = pair
    probabilities = logits.detach().softmax(1)
    truth = sorted(float(probabilities[n, int(target[n, y, x]), y, x]) for n, y, x in valid_pixels(target))
    hard = [p for p in truth if p < threshold]
    kept = hard if len(hard) >= min_kept else truth[:min_kept]
    expected = sum(-math.log(p) for p in kept) / len(kept)
    assert OHEM(threshold=threshold, min_kept=min_kept)(logits, target).item() == pytest.approx(expected, rel=1e-12)
    # A validation counts every valid pixel.
    everywhere = OHEM(threshold=threshold, min_kept=min_kept).eval()(logits, target)
    assert everywhere.item() == pytest.approx(CrossEntropy()(logits, target).item(), rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal(pair: tuple[Tensor, Tensor], gamma: float, weights: list[float] | None) -> None:
    logits, target = pair
    probabilities, total, weight = logits.detach().softmax(1), 0.0, 0.0
    for n, y, x in valid_pixels(target):
        label = int(target[n, y, x])
        p, w = float(probabilities[n, label, y, x]), 1.0 if weights is None else weights[label]
        total, weight = total - w * (1 - p) ** gamma * math.log(p), weight + w
    answered = Focal(gamma=gamma, class_weights=weights)(logits, target)
    assert answered.item() == pytest.approx(total / weight, rel=1e-6 if weights else 1e-12)  # weights are float32


def test_focal_of_certain_pixels_has_a_finite_gradient() -> None:
    logits = torch.tensor([[60.0, 0.0]]).view(1, 2, 1, 1).requires_grad_()
    Focal(gamma=0.5)(logits, torch.zeros(1, 1, 1, dtype=torch.long)).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("width", [1, 2, 9])
def test_boundary(pair: tuple[Tensor, Tensor], width: int) -> None:
    logits, target = pair
    target = target.clone()
    target[1] = 1
    target[1, 4:, 5:] = 2
    target[1, 3, 3] = 255  # of no class: makes no boundary
    logp, total, weight = logits.detach().log_softmax(1), 0.0, 0.0
    near = []
    for n, y, x in valid_pixels(target):
        label = int(target[n, y, x])
        window = target[n, max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1].flatten().tolist()
        other = any(each not in (label, 255) for each in window)
        near += [(n, y, x)] if other else []
        w = 5.0 if other else 1.0
        total, weight = total - w * float(logp[n, label, y, x]), weight + w
    criterion = BoundaryCrossEntropy(width=width, boundary_weight=5.0)
    assert [tuple(place) for place in criterion.near_boundary(target).nonzero().tolist()] == near
    assert criterion(logits, target).item() == pytest.approx(total / weight, rel=1e-12)


def overlaps(logits: Tensor, target: Tensor, power: int = 1) -> list[tuple[float, float, float]]:
    """Of each class: probability on its own pixels, on all valid ones (to a power), and the number of its own."""
    probabilities, found = logits.detach().softmax(1), []
    for label in range(logits.shape[1]):
        both = predicted = true = 0.0
        for n, y, x in valid_pixels(target):
            p = float(probabilities[n, label, y, x])
            predicted += p**power
            both, true = (both + p, true + 1) if int(target[n, y, x]) == label else (both, true)
        found.append((both, predicted, true))
    return found


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("smooth", [0.0, 1.0])
@pytest.mark.parametrize("classes", ["present", "all"])
def test_dice(pair: tuple[Tensor, Tensor], squared: bool, smooth: float, classes: str) -> None:
    sums = overlaps(*pair, power=2 if squared else 1)
    losses = [1 - (2 * i + smooth) / (p + t + smooth) for i, p, t in sums if t or classes == "all"]
    answered = Dice(squared=squared, smooth=smooth, classes=classes)(*pair)
    assert len(losses) == (4 if classes == "all" else 3)
    assert answered.item() == pytest.approx(sum(losses) / len(losses), rel=1e-12)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (0.0, 1.0), (1.0, 1.0)])
def test_tversky(pair: tuple[Tensor, Tensor], alpha: float, beta: float) -> None:
    losses = [1 - (i + 1) / (i + alpha * (p - i) + beta * (t - i) + 1) for i, p, t in overlaps(*pair) if t]
    assert Tversky(alpha=alpha, beta=beta)(*pair).item() == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_tversky_of_halves_is_dice(pair: tuple[Tensor, Tensor]) -> None:
    tversky = Tversky(alpha=0.5, beta=0.5, smooth=1.0)(*pair).item()
    assert tversky == pytest.approx(Dice(smooth=2.0)(*pair).item(), rel=1e-12)


def jaccard_loss(wrong: set[int], truth: set[int]) -> float:
    """1 - IoU of a class if the pixels of ``wrong`` are misjudged."""
    predicted = truth ^ wrong
    return 1 - len(truth & predicted) / len(truth | predicted)


def lovasz_by_definition(logits: Tensor, target: Tensor) -> float:
    """The extension as Berman et al. define it (equation 8), with sets."""
    probabilities, pixels = logits.detach().softmax(1), valid_pixels(target)
    labels = [int(target[place]) for place in pixels]
    losses = []
    for label in sorted(set(labels)):
        truth = {i for i, each in enumerate(labels) if each == label}
        errors = [abs((i in truth) - float(probabilities[n, label, y, x])) for i, (n, y, x) in enumerate(pixels)]
        order = sorted(range(len(pixels)), key=lambda i: -errors[i])
        losses.append(
            sum(
                errors[i] * (jaccard_loss(set(order[: k + 1]), truth) - jaccard_loss(set(order[:k]), truth))
                for k, i in enumerate(order)
            )
        )
    return sum(losses) / len(losses)


def test_lovasz(pair: tuple[Tensor, Tensor]) -> None:
    logits, target = pair
    assert LovaszSoftmax()(logits, target).item() == pytest.approx(lovasz_by_definition(logits, target), rel=1e-12)
    images = [lovasz_by_definition(logits[i : i + 1], target[i : i + 1]) for i in range(2)]
    answered = LovaszSoftmax(per_image=True)(logits, target).item()
    assert answered == pytest.approx(sum(images) / 2, rel=1e-12)


def test_lovasz_of_hard_predictions_is_the_iou() -> None:
    target = torch.tensor([[[0, 0, 1, 1, 2, 255]]])
    predicted = torch.tensor([[[0, 1, 1, 1, 0, 2]]])
    logits = 1000 * F.one_hot(predicted, 3).permute(0, 3, 1, 2).double()
    assert LovaszSoftmax()(logits, target).item() == pytest.approx(1 - (1 / 3 + 2 / 3 + 0) / 3, rel=1e-12)


def test_a_sum_is_the_sum_and_takes_a_criterion_of_ones_own(pair: tuple[Tensor, Tensor]) -> None:
    own = nn.CrossEntropyLoss(ignore_index=255)
    expected = 0.5 * CrossEntropy()(*pair) + 2 * Dice()(*pair) + 0.25 * own(*pair)
    answered = WeightedSum([(0.5, CrossEntropy()), (2.0, Dice()), (0.25, own)])(*pair)
    assert answered.item() == pytest.approx(expected.item(), rel=1e-12)
    named = weighted_sum(
        {"dice": {"weight": 2.0, "smooth": 0.0}, "focal": None, "ohem": {"weight": 0}}, class_weights=WEIGHTS
    )
    expected = 2 * Dice(smooth=0.0)(*pair) + Focal(class_weights=WEIGHTS)(*pair)
    assert named(*pair).item() == pytest.approx(expected.item(), rel=1e-12)


# ---------------------------------------------------------------------- what they have in common


@pytest.mark.parametrize("name", [*ALL])
def test_gradients(name: str, pair: tuple[Tensor, Tensor]) -> None:
    logits, target = pair
    # OHEM's and Lovasz's choice of pixels is piecewise constant: away from its jumps, as here, they have gradients too.
    assert torch.autograd.gradcheck(lambda x: ALL[name]()(x, target), logits, eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("name", [*ALL])
def test_what_is_ignored_does_not_matter(name: str, pair: tuple[Tensor, Tensor]) -> None:
    logits, target = pair
    loss = ALL[name]()(logits, target)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[0, :, :2] == 0).all()
    assert (gradient[0, :, 2:] != 0).any()
    other = logits.detach().clone()
    other[0, :, :2] = 100 * torch.rand(4, 2, 7, dtype=torch.float64)
    assert ALL[name]()(other, target).item() == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.parametrize("name", [*ALL])
def test_a_target_without_any_label_gives_zero_not_nan(name: str) -> None:
    logits = torch.randn(1, 4, 4, 4, requires_grad=True)
    loss = ALL[name]()(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("classes", [4, 20])
@pytest.mark.parametrize("name", [*ALL])
def test_low_logits_in_parts(name: str, classes: int) -> None:
    """Few classes and many are up-sampled in different ways; both are the full-size logits' value and gradient."""
    generator = torch.Generator().manual_seed(1)
    values = 2 * torch.randn(2, classes, 5, 6, generator=generator, dtype=torch.float64)
    target = torch.randint(0, classes, (2, 33, 41), generator=generator)
    target[0, :9] = 255
    criterion, answers = ALL[name](), []
    for module in criterion.modules():
        if getattr(module, "class_weights", None) is not None:
            module.class_weights = torch.linspace(0.5, 2, classes)
    for full in (True, False):
        leaf = values.clone().requires_grad_()
        low = LowLogits(leaf, (33, 41), True)
        loss = criterion(low.full() if full else low, target)
        (0.4 * loss).backward()
        answers.append((loss.item(), leaf.grad))
    assert answers[1][0] == pytest.approx(answers[0][0], rel=1e-12)
    torch.testing.assert_close(answers[1][1], answers[0][1], rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("name", [*ALL])
def test_half_precision_is_computed_in_float32(name: str) -> None:
    generator = torch.Generator().manual_seed(2)
    logits, target = 5 * torch.randn(1, 4, 8, 8, generator=generator), torch.randint(0, 4, (1, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        loss = ALL[name]()(logits.bfloat16(), target)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(ALL[name]()(logits.bfloat16().float(), target).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "criterion", "target", "factor"),
    [
        # smp's mean counts absent classes as 0 (one of 5 here), and its Dice smooths by twice as many pixels.
        ("smp_dice", Dice(smooth=2.0), "target", 4 / 5),
        ("smp_tversky", Tversky(), "target", 4 / 5),
        ("smp_lovasz", LovaszSoftmax(), "target", 1),
        ("smp_lovasz_per_image", LovaszSoftmax(per_image=True), "target", 1),
        ("monai_dice", Dice(classes="all"), "labelled", 1),
        ("monai_dice_squared", Dice(classes="all", squared=True), "labelled", 1),
        ("monai_tversky", Tversky(classes="all"), "labelled", 1),
        # MONAI's mean runs over the classes too.
        ("monai_focal", Focal(), "labelled", 1 / 5),
    ],
)
def test_other_libraries_numbers(name: str, criterion: nn.Module, target: str, factor: float) -> None:
    """tests/vectors/README.md says where they come from. Lovasz and focal were computed in float32 there."""
    stored = np.load(VECTORS)
    logits = torch.from_numpy(stored["logits"]).requires_grad_()
    loss = factor * criterion(logits, torch.from_numpy(stored[target]).long())
    loss.backward()
    tolerance = 1e-5 if "lovasz" in name or "focal" in name else 1e-12
    assert loss.item() == pytest.approx(float(stored[name]), rel=tolerance)
    expected = torch.from_numpy(stored[f"{name}_gradient"]).double()
    assert float((logits.grad - expected).norm()) <= tolerance * float(expected.norm())


def test_the_auxiliary_loss_is_weighted(pair: tuple[Tensor, Tensor]) -> None:
    logits, target = pair
    criterion = Dice()
    loss = segmentation_loss((logits, 2 * logits), target, criterion, 0.4)
    assert loss.total.item() == pytest.approx(
        (criterion(logits, target) + 0.4 * criterion(2 * logits, target)).item(), rel=1e-12
    )
    assert segmentation_loss((logits, None), target, criterion, 0.4).aux is None


# ---------------------------------------------------------------------- validation


@pytest.mark.parametrize("name", ["cross_entropy", "ohem", "focal", "boundary", "dice", "tversky", "own"])
def test_a_validation_is_one_batch_of_all_images(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(5, 4, 6, 7, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (5, 6, 7), generator=generator)
    target[1], target[2, :4] = 255, 255
    criterion = nn.CrossEntropyLoss(ignore_index=255) if name == "own" else ALL[name]()
    metric = ValidationLoss(criterion.eval(), 4)
    metric.update(logits[:2], target[:2])
    metric.update(logits[2:], target[2:])
    assert float(metric.compute()) == pytest.approx(float(criterion(logits, target)), rel=1e-6)
    metric.reset()
    assert float(metric.compute()) == 0


def test_a_validation_sorts_each_image_for_itself() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, target = torch.randn(3, 4, 6, 7, generator=generator), torch.randint(0, 4, (3, 6, 7), generator=generator)
    metric = ValidationLoss(LovaszSoftmax(), 4)
    metric.update(logits, target)
    expected = float(LovaszSoftmax(per_image=True)(logits, target))
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-6)
    assert abs(expected - float(LovaszSoftmax()(logits, target))) > 1e-4


# ---------------------------------------------------------------------- arguments


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


class Vector(nn.Module):
    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return logits.flatten()


ZEROS = torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3).long()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossEntropy(label_smoothing=1.0), "label_smoothing=1.0"),
        (lambda: CrossEntropy(class_weights=[-1.0, 2.0]), "class_weights"),
        (lambda: OHEM(threshold=0), "threshold=0"),
        (lambda: OHEM(min_kept=0), "min_kept=0"),
        (lambda: Focal(gamma=-1), "gamma=-1 must be at least 0"),
        (lambda: BoundaryCrossEntropy(width=0), "width=0 must be at least 1"),
        (lambda: BoundaryCrossEntropy(boundary_weight=0), "boundary_weight=0 must be above 0"),
        (lambda: Dice(smooth=-1), "smooth=-1 must be at least 0"),
        (lambda: Dice(classes="some"), "classes='some' must be one of present, all"),
        (lambda: Tversky(alpha=-0.1), "alpha=-0.1"),
        (lambda: Tversky(alpha=0, beta=0), "one of them must be above 0"),
        (lambda: WeightedSum([]), "needs a term"),
        (lambda: weighted_sum({"dice": {"weight": 0}}), "needs a term"),
        (lambda: weighted_sum({"dice": {"weight": -1}}), "weight=-1 of Dice"),
        (lambda: weighted_sum({"dicee": {}}), r"loss\.terms\.dicee: no loss of this name; did you mean 'dice'"),
        (lambda: weighted_sum({"dice": {"smoth": 1}}), r"dice\.smoth: unknown key; did you mean 'smooth'"),
        (lambda: class_weights_from_counts(np.ones(3), "inverse"), "balanced, median_frequency, enet"),
        (lambda: class_weights_from_counts(np.zeros(3), "balanced"), "no labelled pixel"),
        (lambda: CrossEntropy(class_weights=[1.0])(*ZEROS), "1 values for 2 classes"),
        (lambda: ValidationLoss(CrossEntropy(class_weights=[1.0]), 2), "1 values for 2 classes"),
        (
            lambda: segmentation_loss((ZEROS[0], None), ZEROS[1], Vector(), 0.4),
            r"Vector must answer a scalar .*\(18,\)",
        ),
        (
            lambda: segmentation_loss((ZEROS[0], None), ZEROS[1], CrossEntropy(), 0.4, "mean"),
            r"loss\.reduction='mean' must be one of global, rank",
        ),
    ],
)
def test_arguments(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_a_criterion_can_do_is_asked_not_its_class() -> None:
    assert all(isinstance(make(), SumsOverPixels) for make in ALL.values())
    assert not isinstance(nn.CrossEntropyLoss(), SumsOverPixels)
