"""Optimisers and schedules: SGD with a ten-fold rate for the new layers, poly decay per step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Protocol, runtime_checkable

import torch
from annotated_types import Ge, Gt, Interval
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Rate = Annotated[float, Gt(0)]
Beta = Annotated[float, Interval(ge=0, lt=1)]
Steps = Annotated[int, Ge(0)]


@runtime_checkable
class TellsParametersApart(Protocol):
    """A network that says which of its parameters come with trained weights and which are new; together all of them."""

    def backbone_parameters(self) -> Iterator[nn.Parameter]: ...

    def new_parameters(self) -> Iterator[nn.Parameter]: ...


def parameter_groups(model: nn.Module, *, lr: float, head_lr_factor: float) -> list[dict[str, Any]]:
    """Two groups, "backbone" at ``lr`` and "head" at ``lr * head_lr_factor``; each trainable parameter in one.

    A network that does not tell its parameters apart has one group, "all", at ``lr``, and a warning says so.
    """
    if lr <= 0 or head_lr_factor <= 0:
        raise ValueError(f"optimizer.lr={lr} and optimizer.head_lr_factor={head_lr_factor} must be above 0")
    if not isinstance(model, TellsParametersApart):
        if head_lr_factor != 1:
            name = type(model).__name__
            warnings.warn(
                f"{name} has no backbone_parameters() and new_parameters(): all of it learns at optimizer.lr={lr}, "
                f"optimizer.head_lr_factor={head_lr_factor} is not used",
                stacklevel=2,
            )
        return [{"params": [each for each in model.parameters() if each.requires_grad], "lr": lr, "name": "all"}]
    backbone = [parameter for parameter in model.backbone_parameters() if parameter.requires_grad]
    head = [parameter for parameter in model.new_parameters() if parameter.requires_grad]
    trainable = sum(parameter.requires_grad for parameter in model.parameters())
    assert len(backbone) + len(head) == trainable, "a parameter belongs to neither group"
    groups = [
        {"params": backbone, "lr": lr, "name": "backbone"},
        {"params": head, "lr": lr * head_lr_factor, "name": "head"},
    ]
    return [group for group in groups if group["params"]]


def sgd(
    model: nn.Module,
    *,
    lr: Rate = 0.01,
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9,
    weight_decay: Annotated[float, Ge(0)] = 1e-4,
    head_lr_factor: Rate = 10.0,
    nesterov: bool = False,
) -> Optimizer:
    """The paper's optimiser (section 5.1 and the official code); lr 0.01 belongs to a batch of 16."""
    groups = parameter_groups(model, lr=lr, head_lr_factor=head_lr_factor)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)


def adamw(
    model: nn.Module,
    *,
    lr: Rate = 1e-4,
    weight_decay: Annotated[float, Ge(0)] = 0.01,
    betas: tuple[Beta, Beta] = (0.9, 0.999),
    head_lr_factor: Rate = 10.0,
) -> Optimizer:
    """AdamW with the same two groups."""
    groups = parameter_groups(model, lr=lr, head_lr_factor=head_lr_factor)
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, betas=(betas[0], betas[1]))


def poly(
    optimizer: Optimizer, *, total_steps: int, power: Annotated[float, Ge(0)] = 0.9, warmup_steps: Steps = 0
) -> LambdaLR:
    """lr of 0-based step k = lr * (1 - k / total_steps) ** power, as in semseg; before it an optional linear warm-up.

    During the first ``warmup_steps`` the poly rate is multiplied by (k + 1) / (warmup_steps + 1).
    """
    return _schedule(optimizer, total_steps, warmup_steps, lambda share: (1 - share) ** power)


def cosine(optimizer: Optimizer, *, total_steps: int, warmup_steps: Steps = 0) -> LambdaLR:
    """lr of 0-based step k = lr * (1 + cos(pi k / total_steps)) / 2, with the warm-up of ``poly``."""
    return _schedule(optimizer, total_steps, warmup_steps, lambda share: (1 + math.cos(math.pi * share)) / 2)


def constant(optimizer: Optimizer, *, total_steps: int, warmup_steps: Steps = 0) -> LambdaLR:
    """The base rate all along, with the warm-up of ``poly``."""
    return _schedule(optimizer, total_steps, warmup_steps, lambda share: 1.0)


def _schedule(optimizer: Optimizer, total_steps: int, warmup_steps: int, factor: Callable[[float], float]) -> LambdaLR:
    if total_steps < 1 or not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"scheduler: total_steps={total_steps} must be at least 1 and warmup_steps={warmup_steps} less than it"
        )

    def at(step: int) -> float:
        # torch asks once more after the last step.
        warm = min(1.0, (step + 1) / (warmup_steps + 1))
        return warm * factor(min(step, total_steps) / total_steps)

    return LambdaLR(optimizer, at)
