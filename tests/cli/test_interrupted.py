"""Ctrl-C, whenever it comes: exit code 130, and one line that says what is kept and how to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, SMALL, Run, list_arguments
from PIL import Image
from small_checkpoint import write_checkpoint

from pspnet_lightning.runs.record import read_record

# 2 steps.
ARGUMENTS = [
    *SMALL,
    "data.train_length=8",
    "data.val_length=4",
    "data.batch_size=4",
    "data.epochs=1",
    "data.crop_size=64",
    "data.check=0",
    "callbacks.pictures=null",
    "callbacks.summary=null",
]


def fault(where: str, step: int) -> list[str]:
    options = {"name": "SIGINT", "where": where, "step": step}
    return ["+callbacks.fault._target_=faulty.SignalAt", *(f"+callbacks.fault.{k}={v}" for k, v in options.items())]


def line_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that is said of the interruption."""
    assert done.returncode == 130, done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    assert [line for line in lines if "interrupted" in line] == lines[-1:], done.stderr
    assert "Traceback" not in done.stderr
    assert "to continue" not in "\n".join(lines[:-1])
    return lines[-1]


def test_while_it_imports(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *ARGUMENTS],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that run in a shell's background ignore the keyboard; what a person starts does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while "torch" not in Path(f"/proc/{process.pid}/maps").read_text() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)
    assert said == ("", "error: interrupted; nothing had begun, the same command begins anew\n")
    assert process.returncode == 130
    assert not list(tmp_path.iterdir())


def test_before_there_is_anything(command: Run, tmp_path: Path) -> None:
    composing = ["+hydra.callbacks.stop._target_=faulty.InterruptRun", "hydra.run.dir=run"]
    assert line_of(command("train", *ARGUMENTS, *composing)) == (
        "error: interrupted; nothing is kept, the same command begins anew"
    )
    done = command("train", *ARGUMENTS, *fault("batch", 1), "hydra.run.dir=run")
    assert line_of(done) == "error: interrupted; no checkpoint had been written, the same command begins anew"
    assert read_record(tmp_path / "run")["status"] == "interrupted"


@pytest.mark.parametrize("resume", ["null", pytest.param("auto", marks=pytest.mark.slow)])
def test_in_the_last_validation(command: Run, tmp_path: Path, resume: str) -> None:
    """Lightning makes exit code 1 of it there."""
    options = [*ARGUMENTS, "hydra.run.dir=run", f"ckpt_path={resume}", *fault("final", 2)]
    words = "" if resume == "auto" else " with hydra.run.dir=run ckpt_path=auto"
    expected = f"error: interrupted; kept in run/checkpoints; the same command{words} goes on from there"
    assert line_of(command("train", *options)) == expected
    assert read_record(tmp_path / "run")["status"] == "interrupted"
    if resume == "auto":
        assert line_of(command("train", *options)) == expected


@pytest.mark.slow
def test_in_a_sweep_and_in_one_that_is_resumed(command: Run, tmp_path: Path) -> None:
    expected = (
        "error: interrupted; what its jobs wrote is kept; to continue it: the same command with hydra.sweep.dir=sweep "
        "sweep.resume=true"
    )
    options = ["-m", *ARGUMENTS, "seed=1,2", "hydra.sweep.dir=sweep"]
    assert line_of(command("train", *options, *fault("final", 2))) == expected
    for _ in range(2):
        assert line_of(command("train", *options, *fault("final", 2), "sweep.resume=true")) == expected
    assert read_record(tmp_path / "sweep" / "0")["status"] == "interrupted"
    assert not (tmp_path / "sweep" / "1").exists()


@pytest.mark.slow
def test_predict_and_evaluate(command: Run, small_list: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "best.ckpt", *list_arguments(small_list))
    for number in range(20):
        Image.fromarray(np.full((60, 80, 3), number, np.uint8)).save(small_list / "images" / f"1{number:02}.png")
    arguments = ["checkpoint=best.ckpt", "device=cpu", "input=set/images", "output=out"]
    # Finished files: one of this size is being written for less time than there is between two looks.
    kill = {
        "who": "main",
        "folder": str(tmp_path / "out" / "index"),
        "pattern": "*.png",
        "count": 3,
        "signal": "SIGINT",
    }
    done = command("predict", *arguments, kill=kill)
    assert line_of(done) == "error: interrupted; what is finished is kept in out; the same command goes on"
    finished = len(list((tmp_path / "out" / "overlay").glob("*.png")))
    assert 1 <= finished < 29
    done = command("predict", *arguments)
    assert done.returncode == 0, done.stderr
    assert "29 inputs, " in done.stdout
    assert not list(tmp_path.rglob("*.part"))

    evaluating = ["checkpoint=best.ckpt", "trainer.accelerator=cpu", "evaluation.save_predictions=true"]
    kill = {**kill, "folder": str(tmp_path / "eval" / "predictions"), "count": 1}
    done = command("evaluate", *evaluating, "hydra.run.dir=eval", kill=kill)
    assert line_of(done) == "error: interrupted; nothing is kept, the same command begins anew"
