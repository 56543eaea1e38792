"""``compile=true``: one graph for the training steps, whatever sizes the validation images have."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, Run, list_arguments
from ddp_probe import PATHS
from PIL import Image
from same_run import assert_same_run, rows

# Ten sizes: torch gives up after eight graphs of one function.
SIZES = [(48 + 7 * number, 90 - 5 * number) for number in range(10)]


@pytest.fixture
def arguments(small_list: Path) -> list[str]:
    """Trains on images of one size and validates on images of ten."""
    generator = np.random.default_rng(0)
    lines = []
    for height, width in SIZES:
        name = f"{height}x{width}.png"
        Image.fromarray(generator.integers(0, 255, (height, width, 3), np.uint8)).save(small_list / "images" / name)
        Image.fromarray(generator.integers(0, 3, (height, width), np.uint8)).save(small_list / "labels" / name)
        lines.append(f"images/{name} labels/{name}\n")
    (small_list / "val.txt").write_text("".join(lines))
    return [
        *list_arguments(small_list),
        "data.epochs=2",
        "data.val_batch_size=4",
        "trainer.log_every_n_steps=1",
        "callbacks.pictures=null",
        "callbacks.summary=null",
    ]


COUNT = ["compile=true", "+callbacks.count._target_=faulty.CountGraphs"]


def graphs(said: str) -> set[str]:
    return set(re.findall(r"graphs of rank .*", said))


def figures(run: Path, name: str) -> list[float]:
    return [float(row[name]) for row in rows(run) if name in row]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "tolerance"),
    # In bfloat16 the compiled network rounds less often than the plain one.
    [([], 1e-4), (["trainer.precision=bf16-mixed", "callbacks=ema"], 2e-2), (["trainer.devices=2"], 1e-4)],
    ids=["float32", "bf16, ema", "two ranks"],
)
def test_trains_like_the_plain_network(
    command: Run, arguments: list[str], tmp_path: Path, options: list[str], tolerance: float
) -> None:
    options = [*arguments, "data.batch_size=4", "data.epochs=3", "data.lr=0.001", "model.dropout=0", *options]
    assert command("train", *options, "hydra.run.dir=plain").returncode == 0
    done = command("train", *options, "hydra.run.dir=compiled", *COUNT, timeout=580, **PATHS)
    assert done.returncode == 0, done.stderr
    ranks = 2 if "trainer.devices=2" in options else 1
    assert graphs(done.stdout) == {
        f"graphs of rank {rank} after epoch {epoch}: 1" for rank in range(ranks) for epoch in (1, 2, 3)
    }
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    for name in ("train/loss", "train/aux_loss", "val/loss"):
        expected = figures(plain, name)
        assert len(expected) == 3
        assert figures(compiled, name) == pytest.approx(expected, rel=tolerance), name


@pytest.mark.slow
def test_goes_on_exactly_and_jobs_of_a_sweep_do_not_disturb_each_other(
    command: Run, arguments: list[str], tmp_path: Path
) -> None:
    options = [*arguments, *COUNT]
    done = command("train", "-m", *options, "data.crop_size=49,33", "hydra.sweep.dir=sweep", timeout=580, **PATHS)
    assert done.returncode == 0, done.stderr
    # The second job's is no recompilation of the first one's.
    assert graphs(done.stdout) == {f"graphs of rank 0 after epoch {epoch}: {job}" for job in (1, 2) for epoch in (1, 2)}
    assert "recompile" not in done.stderr

    options += ["hydra.run.dir=run", "ckpt_path=auto"]
    stop = ["+callbacks.fault._target_=faulty.SignalAt", "+callbacks.fault.name=SIGTERM", "+callbacks.fault.step=4"]
    assert command("train", *options, *stop, timeout=580).returncode == 75
    assert command("train", *options, timeout=580).returncode == 0
    assert_same_run(tmp_path / "sweep" / "1", tmp_path / "run")


@pytest.mark.slow
def test_without_a_compiler_it_says_so(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "train.py"), *arguments, "compile=true"],
        cwd=tmp_path,
        env={**os.environ, **PATHS, "CXX": "/nowhere", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(
        r"error: compile=true: torch cannot compile the network here \(.*C\+\+.*\); compile=false", done.stderr
    )
