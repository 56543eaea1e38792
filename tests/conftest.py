"""What several tests share: the command line as a user types it, and small data sets on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
# tests/ is no package: what tests share is imported by name from here.
sys.path.insert(0, str(REPOSITORY / "tests"))

# A network and a run of seconds.
SMALL = [
    "model=pspnet_tiny",
    "model.width=8",
    "model.output_stride=16",
    "trainer.accelerator=cpu",
    "trainer.enable_model_summary=false",
    "data.num_workers=0",
]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path) -> Run:
    """Runs ``python -m pspnet_lightning.cli.<name> ...`` in ``tmp_path``, as a user would, and returns what it said."""

    def run(name: str, *arguments: str, timeout: float = 240, **environment: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", f"from pspnet_lightning.cli.{name} import main; main()", *arguments]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **environment}
        variables.pop("HYDRA_FULL_ERROR", None)
        return subprocess.run(
            words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=timeout, check=False
        )

    return run


@pytest.fixture
def small_list(tmp_path: Path) -> Path:
    """A list-file data set of 6 + 3 images, 64 x 48, 3 classes in blocks: ``<tmp>/set`` with train.txt and val.txt."""
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    generator = np.random.default_rng(0)
    lines = []
    for number in range(9):
        label = np.kron(generator.integers(0, 3, (3, 4)), np.ones((16, 16))).astype(np.uint8)
        image = np.clip(label[..., None] * 90 + generator.integers(0, 40, (48, 64, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"{number}.png")
        Image.fromarray(label).save(root / "labels" / f"{number}.png")
        lines.append(f"images/{number}.png labels/{number}.png\n")
    (root / "train.txt").write_text("".join(lines[:6]))
    (root / "val.txt").write_text("".join(lines[6:]))
    return root


def list_arguments(root: Path) -> list[str]:
    """The command line that trains on ``small_list``."""
    return [
        "data=list",
        f"data.root={root}",
        "data.train=train.txt",
        "data.val=val.txt",
        "data.classes=[a,b,c]",
        "data.crop_size=33",
        "data.batch_size=2",
        "data.epochs=1",
        *SMALL,
    ]
