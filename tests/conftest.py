"""What several tests share: the command line as a user types it, and small data sets on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

# Tests run in two processes, and torch, which is not imported yet, would take every core in each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent
# tests/ is no package: what tests share is imported by name from here.
sys.path.insert(0, str(REPOSITORY / "tests"))

# Real driving frames, where a machine has them.
FRAMES = Path(os.environ.get("PSPNET_CAMVID", REPOSITORY.parent / "shared" / "data" / "camvid"))

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


@pytest.fixture(scope="session")
def command_server() -> Iterator[subprocess.Popen[str]]:
    """See ``command_server.py``: one for the whole session."""
    # This checkout first, then what the caller's own path says: another Hydra, for one (see .ci/hydra_next).
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    variables.pop("HYDRA_FULL_ERROR", None)
    server = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "tests" / "command_server.py")],
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield server
    server.kill()
    server.wait()


@pytest.fixture
def command(command_server: subprocess.Popen[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs ``pspnet-<name> ...`` in ``tmp_path``, in a process of its own, and returns what it said.

    ``terminal``: on one of 120 columns; all that it is sent is then the standard output. ``file_size``: no file may be
    bigger, in bytes; writing more fails as on a full disk. ``kill``: see ``command_server.wait``.
    """
    said = tmp_path_factory.mktemp("said")

    def run(
        name: str,
        *arguments: str,
        timeout: float = 240,
        at: str = ".",
        kill: dict[str, Any] | None = None,
        terminal: bool = False,
        file_size: int | None = None,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        request = {
            "command": name,
            "arguments": arguments,
            "folder": str(tmp_path / at),
            "environment": environment,
            "stdout": str(said / "stdout"),
            "stderr": str(said / "stderr"),
            "timeout": timeout,
            "kill": kill,
            "terminal": terminal,
            "file_size": file_size,
        }
        assert command_server.stdin is not None
        assert command_server.stdout is not None
        command_server.stdin.write(json.dumps(request) + "\n")
        command_server.stdin.flush()
        if terminal:
            (said / "stderr").write_text("")
        code = json.loads(command_server.stdout.readline())["returncode"]
        return subprocess.CompletedProcess(
            # As bytes: reading as text would make a new line of a carriage return.
            arguments,
            code,
            *((said / name).read_bytes().decode() for name in ("stdout", "stderr")),
        )

    return run


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """For tests that compile: torch remembers a function's sizes, and makes what varies between tests dynamic."""
    import torch

    torch.compiler.reset()
    yield
    torch.compiler.reset()


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
