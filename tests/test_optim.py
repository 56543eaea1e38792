"""The schedule is semseg's, step by step; the groups are the paper's."""

from __future__ import annotations

import pytest
import torch

from pspnet_lightning.models import PSPNet, build_pspnet
from pspnet_lightning.training.optim import adamw, constant, cosine, poly, sgd


@pytest.fixture(scope="module")
def model() -> PSPNet:
    return build_pspnet(3, depth=18, stem="plain", width=8)


def rates(
    optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler, steps: int
) -> list[list[float]]:
    answered = []
    for _ in range(steps):
        answered.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return answered


def test_poly_is_semsegs(model: PSPNet) -> None:
    optimizer = sgd(model, lr=0.01)
    steps = 137
    answered = rates(optimizer, poly(optimizer, total_steps=steps), steps)
    for step, (backbone, head) in enumerate(answered):
        # semseg sets, after iteration i (counted from 1), the rate of the next one: base * (1 - i / max) ** power
        expected = 0.01 * (1 - step / steps) ** 0.9
        assert backbone == pytest.approx(expected, rel=1e-12)
        assert head == pytest.approx(10 * expected, rel=1e-12)


def test_groups(model: PSPNet) -> None:
    optimizer = sgd(model)
    names = [group["name"] for group in optimizer.param_groups]
    assert names == ["backbone", "head"]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    assert all(group["momentum"] == 0.9 and group["weight_decay"] == 1e-4 for group in optimizer.param_groups)
    assert adamw(model, lr=1e-3).param_groups[1]["lr"] == pytest.approx(1e-2)


def test_frozen_backbone_is_left_out(model: PSPNet) -> None:
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    try:
        assert [group["name"] for group in sgd(model).param_groups] == ["head"]
    finally:
        model.requires_grad_(True)


def test_other_schedules_and_warm_up(model: PSPNet) -> None:
    optimizer = sgd(model, lr=0.01)
    assert [row[0] for row in rates(optimizer, constant(optimizer, total_steps=4), 4)] == [0.01] * 4
    optimizer = sgd(model, lr=0.01)
    assert rates(optimizer, cosine(optimizer, total_steps=4), 4)[2][0] == pytest.approx(0.005)
    optimizer = sgd(model, lr=0.01)
    warm = [row[0] for row in rates(optimizer, poly(optimizer, total_steps=10, warmup_steps=3), 10)]
    for step in range(10):
        expected = 0.01 * (1 - step / 10) ** 0.9 * min(1, (step + 1) / 4)
        assert warm[step] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: sgd(model, lr=0), "lr=0"),
        (lambda model: poly(sgd(model), total_steps=0), "total_steps=0"),
        (lambda model: poly(sgd(model), total_steps=5, warmup_steps=5), "warmup_steps=5"),
    ],
)
def test_arguments(model: PSPNet, make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(model)
