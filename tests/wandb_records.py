"""What an offline W&B run holds, read by W&B's own reader (``wandb leet inspect``)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


class Recorded:
    """A `.wandb` file with its records sorted by kind."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        self.files = path.parent / "files"
        self.records: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.rows = [item["item"] for item in self.of_kind("history")]
        self.run = self.of_kind("run")[0]
        self.artifacts = self.of_kind("artifact")
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        for item in self.of_kind("summary"):
            self.summary |= item.get("update", {})
        for item in self.of_kind("config"):
            self.config |= item.get("update", {})
        self.metrics = {item.get("name") or item["glob_name"]: item for item in self.of_kind("metric")}

    def of_kind(self, kind: str) -> list[Any]:
        return [record[kind] for record in self.records if record["type"] == kind]

    def values(self, key: str) -> list[tuple[int, Any]]:
        """(optimiser step, value) of every row that has the key."""
        return [(row.get("trainer/global_step", -1), row[key]) for row in self.rows if key in row]

    def picture(self, name: str) -> np.ndarray:
        return np.array(Image.open(self.files / name))


def recorded(run: Path) -> list[Recorded]:
    """The parts of the one W&B run below a run folder, the oldest first: each resumption wrote another."""
    return [Recorded(path) for path in sorted(run.glob("wandb/*run-*/run-*.wandb"))]
