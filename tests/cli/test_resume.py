"""Exact resume: a killed run continued ends with the weights of a run that was never killed, bit for bit."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import Run

from pspnet_lightning.launch.resume import run_name
from pspnet_lightning.runs.checkpoint import read_checkpoint

REPOSITORY = Path(__file__).resolve().parents[2]

ARGUMENTS = [
    "model.width=8",
    "model.output_stride=16",
    "trainer.accelerator=cpu",
    "trainer.enable_model_summary=false",
    "data.train_length=48",
    "data.val_length=4",
    "data.batch_size=4",
    "data.epochs=3",
    "data.crop_size=64",
    "callbacks=every_steps",
    "callbacks.steps.every_n_train_steps=5",
    "callbacks.pictures=null",
]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    words = [sys.executable, str(REPOSITORY / "train.py"), *ARGUMENTS, "hydra.run.dir=run", *arguments]
    return subprocess.Popen(
        words,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def weights(folder: Path) -> dict[str, torch.Tensor]:
    content = read_checkpoint(folder / "run" / "checkpoints" / "last.ckpt")
    assert content["global_step"] == 36
    return content["state_dict"]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_in_mid_epoch_and_resumed_ends_with_the_same_weights(tmp_path: Path, workers: int) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    undisturbed.mkdir()
    killed.mkdir()
    option = f"data.num_workers={workers}"
    finish(start(undisturbed, option))

    process = start(killed, option)
    checkpoint = killed / "run" / "checkpoints" / "last.ckpt"
    # The second epoch is steps 12 to 24; its checkpoint in mid-epoch is the one of step 15 or 20.
    deadline = time.monotonic() + 200
    step = 0
    while step not in (15, 20) and time.monotonic() < deadline and process.poll() is None:
        if checkpoint.is_file():
            step = read_checkpoint(checkpoint)["global_step"]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    step = read_checkpoint(checkpoint)["global_step"]
    assert step % 12 != 0, f"the run was killed at an epoch's end (step {step}), not in its middle"
    finish(start(killed, option, "ckpt_path=last"))

    expected, resumed = weights(undisturbed), weights(killed)
    assert expected.keys() == resumed.keys()
    different = [key for key in expected if not torch.equal(expected[key], resumed[key])]
    assert different == []


def test_the_same_command_has_the_same_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def name(*words: str, ckpt_path: str | None = "auto") -> str:
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        return run_name(ckpt_path)

    expected = name("seed=1", "model=pspnet18", "ckpt_path=auto")
    assert re.fullmatch(r"auto/[0-9a-f]{12}", expected)
    assert name("ckpt_path=auto", "model=pspnet18", "hydra.job.chdir=false", "seed=1") == expected
    others = {name("seed=2", "model=pspnet18"), name("-m", "seed=1", "model=pspnet18"), name("seed=1"), expected}
    assert len(others) == 4
    assert re.fullmatch(r"\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d", name("seed=1", ckpt_path=None))


def test_auto_finds_its_folder_again(command: Run, tmp_path: Path) -> None:
    options = [*ARGUMENTS, "data.num_workers=0", "data.epochs=1", "callbacks.summary=null"]
    assert command("train", *options, "ckpt_path=auto").returncode == 0
    said = command("train", "ckpt_path=auto", *options).stdout
    (run,) = tmp_path.glob("runs/auto/*")
    assert f"resuming from {run}/checkpoints/last.ckpt" in said
    swept = [*options, "model.bins=[],[1]", "ckpt_path=auto", "-m"]
    assert command("train", *swept).returncode == 0
    # A sweep's finished jobs answer what they reached.
    assert command("train", *swept).stdout.count(": finished earlier, val/miou ") == 2
    assert len(list(tmp_path.glob("runs/auto/*/[01]/run.json"))) == 2
