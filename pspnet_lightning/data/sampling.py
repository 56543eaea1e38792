"""Which samples make up which batch: a function of (seed, epoch), whatever the number of workers and ranks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

Key = tuple[int, int]


class EpochSampler(Sampler[list[Key]]):
    """Batches of (epoch, index) keys; the permutation comes from (seed, epoch) alone.

    ``batch_size`` is the total over ``world_size`` ranks: rank r takes every world_size-th item of each batch,
    so the ranks' batches together are the batch of a single process. ``start_batch`` passes over the
    first batches of the next epoch to be iterated, once: a run resumed in mid-epoch goes on where it stopped.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        batch_size: int,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
        start_batch: int = 0,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} must lie in 0..{world_size - 1}")
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(f"batch_size={batch_size} must be a positive multiple of world_size={world_size}")
        self.length = length
        self.seed = seed
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.start_batch = start_batch
        self.epoch = 0

    @property
    def sampler(self) -> EpochSampler:
        """Lightning tells the epoch to ``batch_sampler.sampler``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // self.batch_size if self.drop_last else -(-self.length // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(order)
        start, self.start_batch = self.start_batch, 0
        for number in range(start, len(self)):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            yield [(self.epoch, int(index)) for index in batch[self.rank :: self.world_size]]


def shard_indices(length: int, *, rank: int, world_size: int) -> list[int]:
    """The rank's share of a split for evaluation: every index belongs to exactly one rank, none is repeated."""
    return list(range(rank, length, world_size))
