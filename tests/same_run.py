"""Whether two runs are one and the same: weights, every row of figures, results."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from pspnet_lightning.runs.checkpoint import read_checkpoint

# What depends on the clock.
MEASURED = ("images_per_second", "data_wait")


def weights(run: Path) -> dict[str, torch.Tensor]:
    content = read_checkpoint(run / "checkpoints" / "last.ckpt")
    return content["state_dict"]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [
            {key: value for key, value in row.items() if key not in MEASURED and value} for row in csv.DictReader(file)
        ]


def assert_same_weights(first: Path, second: Path) -> None:
    expected, found = weights(first), weights(second)
    assert expected.keys() == found.keys()
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []


def assert_same_run(first: Path, second: Path) -> None:
    assert_same_weights(first, second)
    assert rows(first) == rows(second)
    assert (first / "results.json").read_text() == (second / "results.json").read_text()
