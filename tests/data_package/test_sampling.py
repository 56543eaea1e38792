"""Samples depend on (seed, epoch, index) alone: not on workers, ranks, or where a run was resumed."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from pspnet_lightning.data import EpochSampler, TrainTransform, TransformedDataset, collate, shard_indices
from pspnet_lightning.data.collate import collate_by_size
from pspnet_lightning.data.scenes import scenes


def batches(workers: int, *, epoch: int = 1, start_batch: int = 0, rank: int = 0, world_size: int = 1) -> list[dict]:
    data = scenes("train", train_length=10, size=64)
    transform = TrainTransform(48, mean=data.spec.mean)
    sampler = EpochSampler(10, seed=3, batch_size=4, rank=rank, world_size=world_size, start_batch=start_batch)
    sampler.set_epoch(epoch)
    dataset = TransformedDataset(data, transform, seed=3)
    return list(DataLoader(dataset, batch_sampler=sampler, collate_fn=collate, num_workers=workers))


def same(one: list[dict], other: list[dict]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a["image"], b["image"]) and torch.equal(a["label"], b["label"]) and a["name"] == b["name"]
        for a, b in zip(one, other, strict=True)
    )


def test_identical_samples_for_any_number_of_workers() -> None:
    alone = batches(0)
    assert len(alone) == 2
    assert same(alone, batches(1))
    assert same(alone, batches(3))
    assert not same(alone, batches(0, epoch=2))


def test_ranks_share_each_batch() -> None:
    alone = batches(0)
    ranks = [batches(0, rank=rank, world_size=2) for rank in (0, 1)]
    for number, whole in enumerate(alone):
        for rank in (0, 1):
            assert torch.equal(whole["image"][rank::2], ranks[rank][number]["image"])
            assert torch.equal(whole["index"][rank::2], ranks[rank][number]["index"])


def test_resuming_in_mid_epoch_goes_on_with_the_next_batch() -> None:
    assert same(batches(0)[1:], batches(2, start_batch=1))
    sampler = EpochSampler(10, seed=0, batch_size=2, start_batch=3)
    assert len(sampler) == 5
    assert [len(list(sampler)), len(list(sampler))] == [2, 5]


def test_an_epoch_is_a_permutation() -> None:
    sampler = EpochSampler(11, seed=0, batch_size=4, drop_last=False)
    keys = [key for batch in sampler for key in batch]
    assert sorted(keys) == [(0, index) for index in range(11)]
    assert len(sampler) == 3
    assert keys != sorted(keys)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_evaluation_shards_partition_the_split(world_size: int) -> None:
    shards = [shard_indices(10, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sorted(index for shard in shards for index in shard) == list(range(10))


def test_batches_are_uint8_in_channels_last() -> None:
    batch = batches(0)[0]
    assert batch["image"].shape == (4, 3, 48, 48)
    assert batch["image"].dtype == batch["label"].dtype == torch.uint8
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)


def test_different_sizes_are_grouped_not_padded() -> None:
    samples = [
        {
            "image": torch.zeros(3, *size, dtype=torch.uint8),
            "label": torch.zeros(size),
            "name": str(i),
            "index": i,
        }
        for i, size in enumerate([(4, 5), (6, 7), (4, 5)])
    ]
    groups = collate_by_size(samples)
    assert [group["name"] for group in groups] == [["0", "2"], ["1"]]
    assert [tuple(group["image"].shape) for group in groups] == [(2, 3, 4, 5), (1, 3, 6, 7)]


@pytest.mark.parametrize("arguments", [{"batch_size": 3, "world_size": 2}, {"batch_size": 4, "rank": 1}])
def test_arguments(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"batch_size=3|rank=1"):
        EpochSampler(10, seed=0, **arguments)
