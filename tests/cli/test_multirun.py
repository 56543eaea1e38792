"""Sweeps of runs that have several ranks: each job's ranks are its own, and nothing of one reaches the next."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import REPOSITORY, SMALL, Run
from ddp_probe import PATHS, left_over
from omegaconf import OmegaConf

from pspnet_lightning.runs.checkpoint import read_checkpoint

TWO_RANKS = [
    *SMALL,
    "trainer.devices=2",
    "data.train_length=8",
    "data.val_length=3",
    "data.batch_size=4",
    "data.epochs=1",
    "data.crop_size=64",
    "data.check=0",
    "callbacks.summary=null",
    "callbacks.pictures=null",
    "callbacks.results=null",
    "+callbacks.probe._target_=ddp_probe.Probe",
    "+callbacks.probe.dirpath=${hydra:runtime.output_dir}",
]


def config_of(job: Path) -> dict:
    content = read_checkpoint(job / "checkpoints" / "last.ckpt")
    return content["pspnet_lightning"]["config"]


def test_two_jobs_of_two_ranks(command: Run, tmp_path: Path) -> None:
    # No hydra.sweep.dir, as in the README: the folder has the name of the moment, and the ranks must agree on it.
    sweep = ["-m", "model.bins=[1],[1,2,3,6]", "logger=wandb"]
    shown = [word for word in TWO_RANKS if word != "callbacks.pictures=null"]  # they gather from all ranks
    result = command("train", *sweep, *shown, MARK=str(tmp_path), WANDB_MODE="offline", **PATHS)
    assert result.returncode == 0, result.stdout + result.stderr
    assert left_over(f"MARK={tmp_path}") == [], "a process was left over"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    (made,) = tmp_path.glob("runs/*/*")
    assert {path.name for path in made.iterdir() if path.is_dir()} == {"0", "1"}
    for job, bins in (("0", [1]), ("1", [1, 2, 3, 6])):
        folder = made / job
        assert config_of(folder)["model"]["bins"] == bins
        assert OmegaConf.load(folder / ".hydra" / "config.yaml").model.bins == bins
        assert (folder / "rank0.pt").is_file(), "of each job, both ranks ran in its own folder"
        assert (folder / "rank1.pt").is_file()
        assert len(list(folder.glob("wandb/offline-run-*"))) == 1
        with (folder / "metrics.csv").open() as file:
            assert len(list(csv.DictReader(file))) == 1  # the epoch's validation; the best checkpoint's is no new point
    assert result.stdout.count("best checkpoint") == 2


@pytest.mark.slow
def test_the_readmes_sweep_of_two_ranks_in_its_own_words(command: Run, tmp_path: Path) -> None:
    words = ["-m", "model.bins=[1],[1,2,3,6]", "trainer.accelerator=cpu", "trainer.devices=2", "debug=fdr"]
    result = command("train", *words, "data.crop_size=65", MARK=str(tmp_path), timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "failed" not in result.stderr
    assert len(list(tmp_path.glob("runs/*/*/[01]/config.yaml"))) == 2
    assert left_over(f"MARK={tmp_path}") == []


@pytest.mark.slow
def test_a_job_that_fails_leaves_the_next_one_alone(command: Run, tmp_path: Path) -> None:
    # Job 0 fails in training, on both ranks; job 1 on rank 0 before the other starts; job 2 is well.
    sweep = ["-m", "optimizer.lr=1e30,-1,0.01", "scheduler=constant", "hydra.sweep.dir=sweep"]
    result = command("train", *sweep, *TWO_RANKS, MARK=str(tmp_path), **PATHS)
    assert result.returncode == 1
    assert result.stderr.count("error: ") == 1
    assert "the training loss is" in result.stderr
    assert "Traceback" not in result.stderr
    assert config_of(tmp_path / "sweep" / "2")["optimizer"]["lr"] == 0.01
    assert left_over(f"MARK={tmp_path}") == []


@pytest.mark.slow
@pytest.mark.parametrize("start", ["shim", "module", "script"])
def test_from_another_folder(tmp_path: Path, start: str) -> None:
    words = {
        "shim": [str(REPOSITORY / "train.py")],
        "module": ["-m", "pspnet_lightning.cli.train"],
        "script": ["-c", "from pspnet_lightning.cli.train import main; main()"],  # what a console script runs
    }[start]
    here = tmp_path / "somewhere"
    here.mkdir()
    done = subprocess.run(
        [sys.executable, *words, *TWO_RANKS, "hydra.run.dir=run"],
        cwd=here,
        # The shim finds the package beside itself, and so must the ranks.
        env={**os.environ, "OMP_NUM_THREADS": "1", **PATHS},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (here / "run" / "rank1.pt").is_file()
    assert [path.name for path in here.iterdir()] == ["run"]


@pytest.mark.slow
def test_a_sweep_under_torchrun(tmp_path: Path) -> None:
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(REPOSITORY / "train.py")]
    done = subprocess.run(
        [sys.executable, *words, "-m", "model.bins=[1],[2]", *TWO_RANKS, "hydra.sweep.dir=sweep"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", **PATHS},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]
    for job, bins in (("0", [1]), ("1", [2])):
        assert config_of(tmp_path / "sweep" / job)["model"]["bins"] == bins
        assert (tmp_path / "sweep" / job / "rank1.pt").is_file()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("optuna") is None, reason="needs Optuna: pip install 'pspnet-lightning[optuna]'")
def test_a_sampler_that_replaying_would_lead_astray(command: Run, tmp_path: Path) -> None:
    search = [
        "hydra/sweeper=optuna",
        "hydra.sweeper.sampler.seed=null",  # what each process would draw for itself
        "hydra.sweeper.n_trials=3",
        "hydra.sweeper.n_jobs=1",
        "model.bins=choice([1],[1,2],[1,2,3,6])",
        "optimizer.lr=interval(0.001,0.1)",
    ]
    result = command(
        "train", "-m", *search, *TWO_RANKS, "hydra.sweep.dir=sweep", MARK=str(tmp_path), timeout=300, **PATHS
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert left_over(f"MARK={tmp_path}") == []
    assert {path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()} == {"0", "1", "2"}
    for job in ("0", "1", "2"):
        folder = tmp_path / "sweep" / job
        assert (folder / "rank1.pt").is_file()
        assert config_of(folder)["optimizer"]["lr"] == OmegaConf.load(folder / ".hydra" / "config.yaml").optimizer.lr
