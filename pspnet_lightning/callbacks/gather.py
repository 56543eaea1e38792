"""Arrays of all ranks, on every rank, as plain bytes: torch's object collectives unpickle what a peer sends."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed as dist


def gather_arrays(arrays: Mapping[str, np.ndarray], device: torch.device) -> list[dict[str, np.ndarray]]:
    """What each rank gave, by rank; names, kinds and sizes may differ between them. Text is an array of kind ``U``.

    ``device`` is where the process group's tensors live: the module's. In a process that runs alone: what it gave.
    Raises ValueError for an array of objects.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [dict(arrays)]
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **arrays)
    own = torch.frombuffer(packed.getbuffer(), dtype=torch.uint8).to(device)
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(own)], device=device))
    lengths = [int(size) for size in sizes]
    padded = torch.zeros(max(lengths), dtype=torch.uint8, device=device)
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return [_unpacked(part[:length].cpu().numpy()) for part, length in zip(parts, lengths, strict=True)]


def _unpacked(content: np.ndarray) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content.tobytes()), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
