"""The processes whose batches together are one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """``size`` processes that call the same methods in the same order; one alone communicates nothing.

    Their gradients are to be averaged, as DistributedDataParallel does.
    """

    size: int = 1
    rank: int = 0

    @classmethod
    def here(cls) -> Ranks:
        """Those of torch's process group, or this process alone where there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_world_size(), dist.get_rank())
        return ALONE

    def total(self, sums: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """The processes' sums added up, differentiable: the averaged gradients become those of the total."""
        if self.size == 1:
            return list(sums)
        flat = torch.cat([value.flatten() for each in sums for value in each.values()])
        pieces = iter(_Total.apply(flat, self.size).split([v.numel() for each in sums for v in each.values()]))
        return [{name: next(pieces).view_as(value) for name, value in each.items()} for each in sums]

    @torch.no_grad()
    def count(self, values: Tensor) -> Tensor:
        """The sum over the processes, without gradients."""
        if self.size == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values

    @torch.no_grad()
    def gather(self, values: Tensor, padding: float) -> tuple[Tensor, slice]:
        """All processes' values (P,), and where one's own lie; shorter ones are padded. Without gradients."""
        if self.size == 1:
            return values, slice(0, len(values))
        longest = torch.tensor(len(values), device=values.device)
        dist.all_reduce(longest, dist.ReduceOp.MAX)
        padded = F.pad(values, (0, int(longest) - len(values)), value=padding)
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        first = self.rank * len(padded)
        return torch.cat(parts), slice(first, first + len(values))


ALONE = Ranks()


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, size: int) -> Tensor:
        ctx.size = size
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # Averaging divides by the number of processes again.
        return gradient * ctx.size, None
