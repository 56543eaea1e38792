"""Weights drawn from their own names, so that a state dict travels as a list of names and shapes.

The same rule as the implementations followed whose answers lie in tests/vectors (see its README).
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch

VECTORS = Path(__file__).parent / "vectors"


def _normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    # RandomState: its streams are frozen over NumPy's versions.
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)


def tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.long)
    draw = _normal(name, shape)
    if name.endswith("running_var"):
        draw = 1 + 0.1 * np.abs(draw)
    elif name.endswith(("running_mean", "bias")):
        draw = 0.1 * draw
    elif len(shape) == 1:
        draw = 1 + 0.1 * draw
    else:
        draw = 0.7 * draw * np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy(draw.astype(np.float32))


def state_dict(shapes_file: str) -> dict[str, torch.Tensor]:
    shapes = json.loads((VECTORS / shapes_file).read_text())
    return {name: tensor(name, tuple(shape)) for name, shape in shapes.items()}


def image(height: int, width: int, batch: int = 2) -> torch.Tensor:
    return tensor("image", (batch, 3, height, width))


def label(height: int, width: int, classes: int, batch: int = 2) -> torch.Tensor:
    state = np.random.RandomState(zlib.crc32(b"label"))
    values = state.randint(0, classes, (batch, height, width))
    values[state.uniform(size=values.shape) < 0.1] = 255
    return torch.from_numpy(values.astype(np.int64))
