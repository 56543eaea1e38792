"""The losses against torch's own and against brute force."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pspnet_lightning.training.losses import OHEM, CrossEntropy, class_weights_from_counts, segmentation_loss


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


# ---------------------------------------------------------------------- several processes

CRITERIA = {
    "plain": CrossEntropy(),
    "weighted": CrossEntropy(class_weights=[1.0, 0.5, 2.0, 0.3], label_smoothing=0.1),
    "ohem_by_threshold": OHEM(threshold=0.3, min_kept=10),
    "ohem_by_number": OHEM(threshold=0.05, min_kept=170, class_weights=[1.0, 0.5, 2.0, 0.3]),
}
# Which of the four images have no label at all: none, the second rank's, all.
BLANK = {"labelled": [], "blank_rank": [1, 3], "blank": [0, 1, 2, 3]}


class _TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.main, self.aux = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.main(image), self.aux(image)


def _batch(blank: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(4, 3, 12, 13, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (4, 12, 13), generator=generator)
    target[0, :9] = 255  # the ranks' numbers of valid pixels differ
    target[blank] = 255
    return image, target


def _step(model: nn.Module, rows: slice, case: tuple[str, str, str]) -> tuple[float, dict[str, torch.Tensor]]:
    criterion, blank, reduction = case
    image, target = _batch(BLANK[blank])
    model.zero_grad()
    loss = segmentation_loss(model(image[rows]), target[rows], CRITERIA[criterion], 0.4, reduction)
    loss.total.backward()
    return float(loss.total.detach()), {k.removeprefix("module."): v.grad.clone() for k, v in model.named_parameters()}


CASES = [(c, b, r) for c in CRITERIA for b in BLANK for r in ("global", "rank")]


def _one_of_two(rank: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    model = DistributedDataParallel(_TwoHeads().double())
    torch.save({case: _step(model, slice(rank, None, 2), case) for case in CASES}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(_one_of_two, (str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("blank", BLANK)
def test_global_is_one_process_with_the_whole_batch(two_ranks: list[dict], criterion: str, blank: str) -> None:
    case = (criterion, blank, "global")
    loss, gradients = _step(_TwoHeads().double(), slice(None), case)
    assert (loss == 0) == (blank == "blank")
    for rank in two_ranks:
        assert rank[case][0] == pytest.approx(loss, rel=1e-12)
        for name, value in gradients.items():
            torch.testing.assert_close(rank[case][1][name], value, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("blank", BLANK)
def test_rank_is_the_mean_of_the_ranks_means(two_ranks: list[dict], criterion: str, blank: str) -> None:
    case = (criterion, blank, "rank")
    parts = [_step(_TwoHeads().double(), slice(rank, None, 2), case) for rank in range(2)]
    for rank, (loss, _) in zip(two_ranks, parts, strict=True):
        assert rank[case][0] == pytest.approx(loss, rel=1e-12)
        for name, value in rank[case][1].items():
            torch.testing.assert_close(value, (parts[0][1][name] + parts[1][1][name]) / 2, rtol=1e-10, atol=1e-14)
    if blank == "labelled":  # and that is not the whole batch's
        _, whole = _step(_TwoHeads().double(), slice(None), case)
        assert not torch.allclose(two_ranks[0][case][1]["main.weight"], whole["main.weight"], rtol=1e-3)


def test_an_unknown_reduction_is_named() -> None:
    with pytest.raises(ValueError, match=r"loss\.reduction='mean' must be one of global, rank"):
        segmentation_loss((torch.zeros(1, 2, 3, 3), None), torch.zeros(1, 3, 3).long(), CrossEntropy(), 0.4, "mean")


def test_ohem_validates_on_every_valid_pixel(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, target = pair
    total, weight = OHEM(threshold=0.3, min_kept=1).sum_over_valid(logits, target)
    assert weight == (target != 255).sum()
    assert float((total / weight).detach()) == pytest.approx(float(CrossEntropy()(logits, target).detach()), rel=1e-12)
