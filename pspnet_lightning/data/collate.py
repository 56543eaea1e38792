"""Samples to batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pspnet_lightning.data.datasets import Sample


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """Equal-sized samples as a batch: image uint8 (N, C, H, W) channels_last, label uint8 (N, H, W), name, index."""
    # Stacked as (N, H, W, C), which the samples are in memory: the permuted view is channels_last.
    images = torch.stack([sample["image"].permute(1, 2, 0) for sample in samples])
    return {
        "image": images.permute(0, 3, 1, 2),
        "label": torch.stack([sample["label"] for sample in samples]),
        "name": [sample["name"] for sample in samples],
        "index": torch.tensor([sample["index"] for sample in samples]),
    }


def collate_by_size(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Samples of any sizes as a list of batches, one for each size: no padding, so no result depends on the batch."""
    groups: dict[tuple[int, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(tuple(sample["image"].shape), []).append(sample)
    return [collate(group) for group in groups.values()]
