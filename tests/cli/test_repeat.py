"""The same command gives the same weights, whatever the number of workers; a run is repeated from its folder alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import SMALL, Run, list_arguments

from pspnet_lightning.runs.checkpoint import read_checkpoint
from pspnet_lightning.runs.record import read_record

QUIET = ["callbacks.pictures=null", "callbacks.summary=null"]
SCENES = [*SMALL, *QUIET, "data.train_length=16", "data.val_length=2", "data.batch_size=4"]
SCENES += ["data.epochs=2", "data.crop_size=64", "augment=paper", "model.dropout=0.1"]


def succeeded(result: object) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def weights(run: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]


def different(first: Path, second: Path) -> list[str]:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    return [key for key in one if not torch.equal(one[key], other[key])]


@pytest.fixture
def run(command: Run, tmp_path: Path) -> Path:
    succeeded(command("train", *SCENES, "model.bins=[1,3]", "seed=5", "hydra.run.dir=first"))
    return tmp_path / "first"


@pytest.mark.slow
def test_the_same_command_with_any_number_of_workers(command: Run, run: Path, tmp_path: Path) -> None:
    for workers in (0, 1, 2, 4):
        option = f"data.num_workers={workers}"
        succeeded(command("train", *SCENES, "model.bins=[1,3]", "seed=5", option, f"hydra.run.dir={workers}"))
        assert different(run, tmp_path / str(workers)) == [], option
    succeeded(command("train", *SCENES, "model.bins=[1,3]", "seed=6", "hydra.run.dir=other"))
    assert len(different(run, tmp_path / "other")) > 20


def test_a_run_is_repeated_from_its_folder(command: Run, run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved" / "away"
    shutil.move(run, moved)
    said = succeeded(command("train", "--repeat", "moved/away", "hydra.run.dir=again"))
    again = tmp_path / "again"
    assert f"weights after 8 steps: the same, bit for bit, as {moved}" in said
    assert "then," not in said  # data, packages and code are the same
    assert different(moved, again) == []
    first, second = (json.loads((place / "results.json").read_text()) for place in (moved, again))
    assert first == second
    assert read_record(again)["command"] == ["pspnet-train", "--repeat", "moved/away", "hydra.run.dir=again"]

    # What lies over it is checked as ever, and lands in a folder named by date and time.
    said = succeeded(command("train", "--repeat=moved/away", "seed=7"))
    assert "differ, by up to" in said
    assert len(list(tmp_path.glob("runs/2*/*/run.json"))) == 1
    failed = command("train", "--repeat", "moved/away", "sed=7")
    assert failed.returncode == 1
    assert "sed: there is no such key" in failed.stderr
    # A repetition is a run like any other.
    said = succeeded(command("train", "--repeat", "again", "hydra.run.dir=third"))
    assert "the same, bit for bit" in said


def test_what_is_not_as_it_was(command: Run, run: Path) -> None:
    content = read_record(run)
    content["versions"]["torch"] = "1.0"
    content["data"]["fingerprint"] = "0" * 64
    content["git"] = {"commit": "f" * 40, "dirty": True, "diff_file": "diff.patch"}
    (run / "run.json").write_text(json.dumps(content))
    (run / "diff.patch").write_text("another\n")
    said = succeeded(command("train", "--repeat", "first", "hydra.run.dir=again"))
    assert f"warning: torch 1.0 then, {torch.__version__.split('+')[0]}" in said
    assert "warning: the data are not the same: scenes 000000000000 then, scenes " in said
    assert f"git checkout {'f' * 40} && git apply {run / 'diff.patch'}" in said


def test_a_job_of_a_sweep_on_own_data_from_another_folder(command: Run, small_list: Path, tmp_path: Path) -> None:
    """data.root is relative to where the run was started."""
    arguments = [*list_arguments(Path("set")), *QUIET]
    succeeded(command("train", "-m", "seed=1,2", *arguments, "hydra.sweep.dir=sweep"))
    folder = str(tmp_path / "sweep" / "1")
    (tmp_path / "elsewhere").mkdir()
    said = succeeded(command("train", "--repeat", folder, "hydra.run.dir=run", at="elsewhere"))
    assert "the same, bit for bit" in said
    assert (tmp_path / "elsewhere" / "run" / "results.json").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--repeat", "nowhere"], "there is no nowhere/.hydra/config.yaml; give the folder of a run"),
        (["--repeat"], "--repeat needs the folder of the run to repeat"),
        (["--repeat", "seed=1"], "--repeat needs the folder of the run to repeat"),
    ],
)
def test_mistakes(command: Run, words: list[str], message: str) -> None:
    failed = command("train", *words)
    assert failed.returncode == 1
    assert message in failed.stderr
