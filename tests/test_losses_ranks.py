"""``reduction=global``: value and gradient of several processes are those of one with the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pspnet_lightning.training.losses import (
    OHEM,
    BoundaryCrossEntropy,
    CrossEntropy,
    Dice,
    Focal,
    LovaszSoftmax,
    Tversky,
    segmentation_loss,
    weighted_sum,
)


class OwnMean(nn.Module):
    """From outside: a mean over the valid pixels that can only be called, and is not a number where there is none."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        valid = target != 255
        truth = logits.softmax(1).gather(1, target.where(valid, 0)[:, None])[:, 0]
        return (1 - truth)[valid].mean()


WEIGHTS = [1.0, 0.5, 2.0, 0.3]
CRITERIA: dict[str, nn.Module] = {
    "plain": CrossEntropy(),
    "weighted": CrossEntropy(class_weights=WEIGHTS, label_smoothing=0.1),
    "ohem_by_threshold": OHEM(threshold=0.3, min_kept=10),
    "ohem_by_number": OHEM(threshold=0.05, min_kept=170, class_weights=WEIGHTS),
    "focal": Focal(class_weights=WEIGHTS),
    "boundary": BoundaryCrossEntropy(width=1),
    "dice": Dice(),
    "dice_all": Dice(classes="all", squared=True),
    "tversky": Tversky(),
    "lovasz": LovaszSoftmax(),
    "lovasz_per_image": LovaszSoftmax(per_image=True),
    "sum": weighted_sum({"cross_entropy": {}, "dice": {}, "lovasz": {"weight": 0.5}}),
    "own": OwnMean(),
}
# Which of the four images have no label at all: none, the second rank's, all.
BLANK = {"labelled": [], "blank_rank": [1, 3], "blank": [0, 1, 2, 3]}
CASES = [(c, b, r) for c in CRITERIA for b in BLANK for r in ("global", "rank")]


class _TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.main, self.aux = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.main(image), self.aux(image)


def _batch(blank: list[int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(4, 3, 12, 13, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (4, 12, 13), generator=generator)
    target[0, :9] = 255  # the ranks' numbers of valid pixels differ
    target[[1, 3]] = target[[1, 3]].where(target[[1, 3]] != 2, 0)  # class 2 is the first rank's alone
    target[blank] = 255
    return image, target


def _step(model: nn.Module, rows: slice, case: tuple[str, str, str]) -> tuple[float, dict[str, Tensor]]:
    criterion, blank, reduction = case
    image, target = _batch(BLANK[blank])
    model.zero_grad()
    loss = segmentation_loss(model(image[rows]), target[rows], CRITERIA[criterion], 0.4, reduction)
    loss.total.backward()
    return float(loss.total.detach()), {k.removeprefix("module."): v.grad.clone() for k, v in model.named_parameters()}


def _one_of(rank: int, folder: str, world: int) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    model = DistributedDataParallel(_TwoHeads().double())
    # Of three ranks the first has two images: the ranks' numbers of pixels differ.
    rows = slice(rank, None, 2) if world == 2 else [slice(0, 2), slice(2, 3), slice(3, 4)][rank]
    torch.save({case: _step(model, rows, case) for case in CASES}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def _ranks(folder: Path, world: int) -> list[dict]:
    torch.multiprocessing.spawn(_one_of, (str(folder), world), nprocs=world)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(world)]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return _ranks(tmp_path_factory.mktemp("ranks"), 2)


@pytest.fixture(scope="module")
def three_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return _ranks(tmp_path_factory.mktemp("ranks"), 3)


def assert_one_process(ranks: list[dict], criterion: str, blank: str) -> None:
    case = (criterion, blank, "global")
    loss, gradients = _step(_TwoHeads().double(), slice(None), case)
    assert (loss == 0) == (blank == "blank")
    for rank in ranks:
        assert rank[case][0] == pytest.approx(loss, rel=1e-12)
        for name, value in gradients.items():
            torch.testing.assert_close(rank[case][1][name], value, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("blank", BLANK)
def test_global_is_one_process_with_the_whole_batch(two_ranks: list[dict], criterion: str, blank: str) -> None:
    assert_one_process(two_ranks, criterion, blank)


@pytest.mark.slow
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("blank", ["labelled", "blank_rank"])
def test_global_of_ranks_with_unequal_batches(three_ranks: list[dict], criterion: str, blank: str) -> None:
    assert_one_process(three_ranks, criterion, blank)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("blank", BLANK)
def test_rank_is_the_mean_of_the_ranks_losses(two_ranks: list[dict], criterion: str, blank: str) -> None:
    case = (criterion, blank, "rank")
    parts = [_step(_TwoHeads().double(), slice(rank, None, 2), case) for rank in range(2)]
    for rank, (loss, _) in zip(two_ranks, parts, strict=True):
        assert rank[case][0] == pytest.approx(loss, rel=1e-12)
        for name, value in rank[case][1].items():
            torch.testing.assert_close(value, (parts[0][1][name] + parts[1][1][name]) / 2, rtol=1e-10, atol=1e-14)
    if blank == "labelled" and criterion != "lovasz_per_image":  # and that is not the whole batch's
        _, whole = _step(_TwoHeads().double(), slice(None), case)
        assert not torch.allclose(two_ranks[0][case][1]["main.weight"], whole["main.weight"], rtol=1e-3)
