"""Sweeps as a user starts them: each engine, failures, interruptions, and what is on the screen at the end."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import REPOSITORY, SMALL, Run
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from wandb_records import recorded

from pspnet_lightning.config import CONFIG_DIR
from pspnet_lightning.config.schemas import HYDRA, register_schemas
from pspnet_lightning.launch import locks
from pspnet_lightning.launch.app import message_of
from pspnet_lightning.launch.sweep_job import changed_keys
from pspnet_lightning.runs import read_job, read_sweep

TINY = [
    *SMALL,
    "data.train_length=12",
    "data.val_length=5",
    "data.batch_size=4",
    "data.epochs=1",
    "data.crop_size=64",
    "data.check=0",
    "callbacks.pictures=null",
    "callbacks.summary=null",
]


def needs(module: str, extra: str) -> pytest.MarkDecorator:
    found = importlib.util.find_spec("hydra_plugins") is not None and importlib.util.find_spec(module) is not None
    return pytest.mark.skipif(not found, reason=f"needs {module}: pip install 'pspnet-lightning[{extra}]'")


def composed(*overrides: str) -> DictConfig:
    register_schemas()
    with initialize_config_dir(str(CONFIG_DIR), **HYDRA):
        return compose("train", overrides=list(overrides), return_hydra_config=True)


# ------------------------------------------------------------------ configs


JOBLIB = needs("hydra_plugins.hydra_joblib_launcher", "joblib")
SUBMITIT = needs("hydra_plugins.hydra_submitit_launcher", "submitit")
RAY = needs("hydra_plugins.hydra_ray_launcher", "ray")
LAUNCHERS = [
    pytest.param("side_by_side", "joblib_launcher.JoblibLauncher", marks=JOBLIB),
    pytest.param("slurm", "submitit_launcher.SlurmLauncher", marks=SUBMITIT),
    pytest.param("ray_gpus", "ray_launcher.RayLauncher", marks=RAY),
]


@pytest.mark.parametrize(("name", "target"), LAUNCHERS)
def test_launchers_compose_on_the_plugins_own_configs(name: str, target: str) -> None:
    launcher = composed(f"hydra/launcher={name}").hydra.launcher
    assert launcher._target_.endswith(target)
    if name == "slurm":
        assert launcher.tasks_per_node == 1  # ranks are started by the first
        assert launcher.signal_delay_s == 120  # the plugin's own is kept
    if name == "ray_gpus":
        assert launcher.ray.remote.num_gpus == 1
    # A key that the plugin does not take is an error.
    with pytest.raises(Exception, match="n_jbos"):
        composed(f"hydra/launcher={name}", "hydra.launcher.n_jbos=2")


@pytest.mark.parametrize(("name", "extra"), [("joblib", "joblib"), ("submitit_slurm", "submitit"), ("ray", "ray")])
def test_a_launcher_that_is_not_installed_names_its_extra(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydra.errors import HydraException

    known = ConfigStore.instance().repo["hydra"]["launcher"]
    monkeypatch.delitem(known, f"{name}.yaml", raising=False)
    with pytest.raises(HydraException) as caught:
        composed(f"hydra/launcher={name}")
    expected = f"hydra/launcher={name} needs its plugin: pip install 'pspnet-lightning[{extra}]'"
    assert message_of(caught.value) == expected


def test_every_launcher_config_is_tested() -> None:
    names = {path.stem for path in (CONFIG_DIR / "hydra" / "launcher").glob("*.yaml")}
    assert names == {parameter.values[0] for parameter in LAUNCHERS}
    assert {path.stem for path in (CONFIG_DIR / "sweep").glob("*.yaml")} == {
        "bins",
        "cross_validated_bins",
        "optuna_bins",
        "wandb",
    }


def test_recipes_compose_and_start_a_sweep_by_themselves() -> None:
    bins = composed("sweep=bins")
    assert bins.hydra.mode.name == "MULTIRUN"
    assert bins.hydra.sweeper.params == {"model.bins": "[],[1],[1,2],[1,2,3],[1,2,3,6]", "seed": "0,1,2"}
    folds = composed("sweep=cross_validated_bins")
    assert folds.data.folds == 5
    assert folds.hydra.sweeper.params["data.fold"] == "0,1,2,3,4"
    search = composed("sweep=optuna_bins", "hydra.sweeper.n_trials=3")
    assert search.hydra.sweeper._target_ == "hydra_plugins.pspnet_lightning.OptunaSweeper"
    assert search.hydra.sweeper.n_trials == 3
    assert set(search.hydra.sweeper.params) == {"model.bins", "data.lr", "loss.aux_weight"}
    for recipe in ("bins", "cross_validated_bins", "optuna_bins"):
        text = (CONFIG_DIR / "sweep" / f"{recipe}.yaml").read_text()
        assert f"python train.py sweep={recipe}" in text.split("\n\n")[0], "its header shows the launch command"


def test_a_sweeps_keys_are_strict() -> None:
    with pytest.raises(Exception, match="resum"):
        composed("sweep.resum=true")


# ------------------------------------------------------------------ W&B


def wandb_file() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CONFIG_DIR / "sweep" / "wandb.yaml").read_text())
    return content


def test_the_wandb_file_is_what_wandb_accepts() -> None:
    # The package that W&B's servers check with; it pins numpy 1, so that only its data file is of use here.
    found = importlib.util.find_spec("sweeps")
    if found is None or found.origin is None:
        pytest.skip("needs W&B's schema: pip install --no-deps sweeps")
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((Path(found.origin).parent / "config" / "schema.json").read_text())
    jsonschema.Draft7Validator(schema).validate(wandb_file())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate({**wandb_file(), "method": "guess"})


def test_the_command_that_wandbs_agent_makes_composes() -> None:
    # The agent's own functions.
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    content = wandb_file()
    values = {
        name: {"value": node["values"][-1] if "values" in node else node["min"]}
        for name, node in content["parameters"].items()
    }
    arguments = create_sweep_command_args({"args": values})["args_no_hyphens"]
    command = create_sweep_command(list(content["command"]))
    place = command.index("${args_no_hyphens}")
    assert command[:3] == ["${env}", "${interpreter}", "${program}"]
    cfg = composed(*command[3:place], *arguments, *command[place + 1 :])
    assert cfg.model.bins == [1, 2, 3, 6]
    assert cfg.optimizer.lr == 0.002
    assert cfg.loss.aux_weight == 0.0
    assert "wandb" in cfg.logger
    assert content["metric"] == {"name": cfg.objective, "goal": "maximize"}
    assert (REPOSITORY / content["program"]).is_file()
    for text in content["parameters"]["model.bins"]["values"]:
        assert OmegaConf.to_container(composed(f"model.bins={text}").model.bins) == json.loads(text)


def test_a_run_that_wandbs_agent_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent itself, with the commands that its server would send; no server is asked."""
    from wandb.wandb_agent import Agent

    content = wandb_file()
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_SWEEP_ID": "sweep123",
        "WANDB_DIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    agent = Agent(api=None, queue=None)
    # Further settings are lines of the command, as the file says.
    agent._sweep_command = [*content["command"], *TINY, "hydra.run.dir=run"]
    arguments = {"model.bins": "[1,2]", "data.lr": 0.0123, "loss.aux_weight": 0.25}
    assert arguments.keys() == content["parameters"].keys()
    answer = agent._process_command(
        {
            "type": "run",
            "run_id": "run45678",
            "program": str(REPOSITORY / content["program"]),
            "args": {name: {"value": value} for name, value in arguments.items()},
        }
    )
    assert "exception" not in answer, answer
    assert agent._run_processes["run45678"].wait(timeout=200) == 0
    # The server finds the run and its score under the names that the sweep has.
    (part,) = recorded(tmp_path / "run") or recorded(tmp_path)
    assert (part.run["run_id"], part.run["sweep_id"]) == ("run45678", "sweep123")
    ((_, score),) = part.values("val/miou")
    job = read_job(tmp_path / "run")
    assert score == pytest.approx(job.objective, abs=1e-6)
    assert job.config["model"]["bins"] == [1, 2]
    assert job.config["optimizer"]["lr"] == 0.0123
    assert job.config["loss"]["aux_weight"] == 0.25


# ------------------------------------------------------------------ failures


def jobs_of(folder: Path) -> dict[str, str]:
    return {job.name: job.status for job in read_sweep(folder)}


def test_a_failed_job_loses_no_other_and_is_repeated_alone(command: Run, tmp_path: Path) -> None:
    bins = "model.bins=[],[0],[1]"
    result = command("train", "-m", bins, "seed=0", "hydra.sweep.dir=all/sweep", *TINY)
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    assert jobs_of(tmp_path / "all" / "sweep") == {"0": "finished", "1": "failed", "2": "finished"}
    assert "job 1 failed: model.bins=[0] must be a list, each a whole number" in result.stderr
    assert "job 1 failed: model.bins=[0]: model.bins=[0] must be" in result.stderr  # in the list at the end
    assert "error: 1 of 3 jobs have not finished" in result.stderr
    assert "hydra.sweep.dir=all/sweep sweep.resume=true" in result.stdout
    written = json.loads((tmp_path / "all" / "sweep" / "sweep.json").read_text())
    scores = {group["settings"]["model.bins"]: group["mean"] for group in written["groups"]}
    assert scores["[0]"] is None
    assert written["best"] == {"model.bins": max(("[]", "[1]"), key=lambda key: scores[key])}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all"]

    # Without resume the folder is nobody else's.
    result = command("train", "-m", bins, "hydra.sweep.dir=all/sweep", *TINY)
    assert result.returncode == 1
    assert "all/sweep holds an earlier sweep or a run: sweep.resume=true continues it" in result.stderr

    # Other settings are an error that names them, and the folders are as they were.
    before = (tmp_path / "all/sweep/0/.hydra/overrides.yaml").read_text()
    changed = [word.replace("train_length=12", "train_length=16") for word in TINY]
    result = command(
        "train", "-m", bins, "seed=0", "hydra.sweep.dir=all/sweep", "sweep.resume=true", *changed, "data.lr=0.5"
    )
    assert result.returncode == 1
    assert re.search(
        r"all/sweep/0 was trained with another config.*data\.lr: 0\.02 -> 0\.5; data\.train_length: 12 -> 16; "
        r"optimizer\.lr: 0\.02 -> 0\.5",
        result.stderr,
    )
    assert (tmp_path / "all/sweep/0/.hydra/overrides.yaml").read_text() == before

    times = {job: (tmp_path / "all/sweep" / job / "results.json").stat().st_mtime_ns for job in "02"}
    result = command("train", "-m", bins, "seed=0", "hydra.sweep.dir=all/sweep", "sweep.resume=true", *TINY)
    assert result.returncode == 1  # [0] is still no choice of bins
    assert re.search(r"job 0: finished earlier, val/miou 0\.\d{4}", result.stdout)
    assert {job: (tmp_path / "all/sweep" / job / "results.json").stat().st_mtime_ns for job in "02"} == times


def test_stop_on_error_starts_no_further_job(command: Run, tmp_path: Path) -> None:
    arguments = ["-m", "model.bins=[0],[],[1]", "hydra.sweep.dir=sweep", "sweep.stop_on_error=true", *TINY]
    result = command("train", *arguments)
    assert result.returncode == 1
    assert jobs_of(tmp_path / "sweep") == {"0": "failed", "1": "unfinished", "2": "unfinished"}
    assert "error: job 0 failed and sweep.stop_on_error=true; further jobs were not started" in result.stderr


@pytest.mark.parametrize("sweeper", ["basic", "optuna"])
def test_an_objective_that_is_absent_is_an_error_under_every_sweeper(
    command: Run, tmp_path: Path, sweeper: str
) -> None:
    if sweeper == "optuna":
        pytest.importorskip("optuna")
    result = command(
        "train",
        "-m",
        f"hydra/sweeper={sweeper}",
        *(["hydra.sweeper.n_trials=2"] if sweeper == "optuna" else []),
        "model.bins=[],[1]",
        "objective=val/iou",
        "hydra.sweep.dir=sweep",
        *TINY,
        "data.epochs=50",  # it is told after the first, not the last
    )
    assert result.returncode == 1
    assert "epoch 2/50" not in result.stdout
    assert "objective='val/iou' was not logged; logged are: " in result.stderr
    assert "error: 2 of 2 jobs have not finished" in result.stderr
    assert set(jobs_of(tmp_path / "sweep").values()) == {"failed"}


def test_an_objective_that_is_no_number_is_an_error(command: Run, tmp_path: Path) -> None:
    # No class in any validation image: no mIoU.
    empty = tmp_path / "set"
    from PIL import Image

    for split in ("train", "val"):
        for kind, value in (("images", 90), ("masks", 255 if split == "val" else 0)):
            (empty / split / kind).mkdir(parents=True, exist_ok=True)
            for number in range(4):
                Image.new("L" if kind == "masks" else "RGB", (64, 64), value if kind == "masks" else (value,) * 3).save(
                    empty / split / kind / f"{number}.png"
                )
    words = ["data=folder", "data.root=set", "data.classes=[a,b]", "data.crop_size=33", "data.batch_size=2"]
    words += ["data.epochs=1", "data.check=0", *SMALL, "callbacks.pictures=null"]
    result = command("train", "-m", "seed=0,1", "hydra.sweep.dir=sweep", *words)
    assert result.returncode == 1
    assert "objective='val/miou' is nan" in result.stderr
    assert jobs_of(tmp_path / "sweep") == {"0": "failed", "1": "failed"}


def test_a_typo_leaves_no_folder(command: Run, tmp_path: Path) -> None:
    result = command("train", "-m", "model.binz=[1],[2]", "hydra.sweep.dir=some/where", *TINY)
    assert result.returncode == 1
    assert "did you mean 'model.bins'" in result.stderr
    assert not list(tmp_path.iterdir())


def test_two_sweeps_do_not_share_a_folder(command: Run, tmp_path: Path) -> None:
    with locks.locked(tmp_path, "it"):
        done = command("train", "-m", "seed=1,2", "hydra.sweep.dir=.", *TINY)
    assert done.returncode == 1
    assert re.search(r"error: sweep folder \. is in use by process \d+ on .*; wait for it", done.stderr), done.stderr
    assert not list(tmp_path.iterdir())


def test_what_counts_as_another_config(tmp_path: Path) -> None:
    old = {"seed": 0, "ckpt_path": None, "sweep": {"resume": False}, "data": {"lr": 0.1}, "tags": []}
    assert changed_keys(old, {**old, "ckpt_path": "last", "sweep": {"resume": True}}, tmp_path) == []
    assert changed_keys(old, {**old, "seed": 1, "data": {"lr": 0.1, "fold": 2}}, tmp_path) == [
        "data.fold: (absent) -> 2",
        "seed: 0 -> 1",
    ]
    # A sweep that was moved.
    moved = changed_keys({"a": "/old/3/checkpoints", "b": "/x"}, {"a": f"{tmp_path}/checkpoints", "b": "/y"}, tmp_path)
    assert moved == ["b: /x -> /y"]


# ------------------------------------------------------------------ engines


def test_folds_and_seeds_are_averaged_in_the_table(command: Run, tmp_path: Path) -> None:
    result = command(
        "train", "-m", "model.bins=[],[1]", "data.fold=0,1", "data.folds=2", "hydra.sweep.dir=sweep", *TINY
    )
    assert result.returncode == 0, result.stderr
    jobs = read_sweep(tmp_path / "sweep")
    values = [job.objective for job in jobs]
    assert None not in values
    means = {"[]": sum(values[:2]) / 2, "[1]": sum(values[2:]) / 2}
    for bins, mean in means.items():
        assert re.search(rf"{re.escape(bins)} +│ +2 │ +{100 * mean:.2f} │", result.stdout)
    best = max(means, key=lambda key: means[key])
    assert re.search(
        rf"Recommended bins: {re.escape(best)}, with the highest mean mIoU: {100 * means[best]:.2f}\.", result.stdout
    )


def side_by_side(command: Run, tmp_path: Path, launcher: str, *words: str) -> Any:
    """Three jobs, of which one fails, by a launcher that runs them side by side."""
    result = command(
        "train", "-m", f"hydra/launcher={launcher}", *words, "model.bins=[],[0],[1]", "hydra.sweep.dir=sweep", *TINY
    )
    assert result.returncode == 1
    assert jobs_of(tmp_path / "sweep") == {"0": "finished", "1": "failed", "2": "finished"}
    assert "job 1 failed: model.bins=[0]: model.bins=[0] must be a list" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    return result


def scores_one_by_one(command: Run, tmp_path: Path) -> None:
    """They do not depend on who started them."""
    assert command("train", "-m", "model.bins=[],[1]", "hydra.sweep.dir=alone", *TINY).returncode == 0
    ours, theirs = (
        [job.objective for job in read_sweep(tmp_path / name) if job.finished] for name in ("sweep", "alone")
    )
    assert ours == theirs


@JOBLIB
def test_joblib(command: Run, tmp_path: Path) -> None:
    result = side_by_side(command, tmp_path, "side_by_side")
    # Two jobs' bars would write over each other: each has a file.
    assert "epoch 1/1" not in result.stdout
    assert "epoch 1/1" in (tmp_path / "sweep" / "0" / "output.log").read_text()
    assert re.search(r"job 0: val/miou 0\.\d{4} after \d+ s", result.stdout)


@pytest.mark.slow
@SUBMITIT
def test_submitit_on_this_machine(command: Run, tmp_path: Path) -> None:
    side_by_side(command, tmp_path, "submitit_local", "hydra.launcher.timeout_min=5")
    scores_one_by_one(command, tmp_path)
    assert list((tmp_path / "sweep" / ".submitit").rglob("*_result.pkl"))


@pytest.mark.slow
@RAY
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray has no wheel for this Python")
def test_ray(command: Run, tmp_path: Path) -> None:
    side_by_side(command, tmp_path, "ray_gpus", "hydra.launcher.ray.remote.num_gpus=0")
    scores_one_by_one(command, tmp_path)


def test_optuna_from_the_command_line(command: Run, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    words = ["-m", "hydra/sweeper=optuna", "hydra.sweep.dir=sweep", "model.bins=choice([],[1],[1,2,3,6])"]
    words += ["data.lr=tag(log,interval(0.002,0.05))", *TINY]
    result = command("train", *words, "hydra.sweeper.n_trials=2")
    assert result.returncode == 0, result.stderr
    trials = json.loads((tmp_path / "sweep" / "trials.json").read_text())["trials"]
    jobs = read_sweep(tmp_path / "sweep")
    assert [trial["value"] for trial in trials] == [job.objective for job in jobs]
    for trial, job in zip(trials, jobs, strict=True):
        assert job.config["model"]["bins"] == json.loads(trial["params"]["model.bins"])
        assert job.config["optimizer"]["lr"] == trial["params"]["data.lr"]
        assert 0.002 <= trial["params"]["data.lr"] <= 0.05
    # More of them later.
    result = command("train", *words, "hydra.sweeper.n_trials=3", "sweep.resume=true")
    assert result.returncode == 0, result.stderr
    assert "job 0" not in result.stdout.split("best:")[0].replace("jobs", "")
    assert [job.name for job in read_sweep(tmp_path / "sweep")] == ["0", "1", "2"]
    assert json.loads((tmp_path / "sweep" / "trials.json").read_text())["trials"][:2] == trials


def test_pruning_ends_a_hopeless_run(command: Run, tmp_path: Path) -> None:
    words = [word for word in TINY if not word.startswith("data.epochs")]
    result = command(
        "train",
        "-m",
        "data.lr=0.05,0.04,1e-9",
        "callbacks=pruning",
        "callbacks.pruning.first_epoch=1",
        "callbacks.pruning.min_finished=2",
        "data.epochs=4",
        "hydra.sweep.dir=sweep",
        *words,
        "callbacks.pictures=null",
    )
    assert result.returncode == 0, result.stderr
    jobs = read_sweep(tmp_path / "sweep")
    assert [job.pruned for job in jobs] == [False, False, True]
    assert all(job.finished for job in jobs)
    told = json.loads((tmp_path / "sweep" / "2" / "pruned.json").read_text())
    assert told["epoch"] == 1
    assert told["best"] < told["median"]
    assert "stopped after epoch 2: val/miou" in result.stdout
    assert result.stdout.count("epoch 2/4") == 3
    assert result.stdout.count("epoch 3/4") == 2
    # Its score is in no mean.
    assert re.search(r"1e-09 +│ 0 of 1 │", result.stdout)


# ------------------------------------------------------------------ interruptions


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
@pytest.mark.parametrize("launcher", ["basic", "side_by_side"])
def test_an_interrupted_sweep_ends_with_the_weights_of_one_that_was_not(
    tmp_path: Path, how: signal.Signals, launcher: str
) -> None:
    if launcher != "basic":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = [word for word in TINY if not word.startswith(("data.epochs", "data.train_length"))]
    words += ["data.epochs=6", "data.train_length=48", "model.bins=[],[1],[1,2]", f"hydra/launcher={launcher}"]
    line = [sys.executable, str(REPOSITORY / "train.py"), "-m", *words]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}

    def start(folder: str, *more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*line, f"hydra.sweep.dir={folder}", *more],
            cwd=tmp_path,
            env=variables,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            # Tests that run in a shell's background ignore the keyboard; what a person starts does not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    assert start("whole").wait(timeout=900) == 0
    process = start("parts")
    waited = tmp_path / "parts" / "1" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not waited.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as the keyboard does
    else:
        process.kill()
    assert process.wait(timeout=60) == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert (tmp_path / "parts" / "1" / "results.json").exists() is False or launcher != "basic"
    assert start("parts", "sweep.resume=true").wait(timeout=900) == 0
    for job in "012":
        ends = [
            torch.load(tmp_path / sweep / job / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
            for sweep in ("whole", "parts")
        ]
        assert ends[0].keys() == ends[1].keys()
        assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    whole, parts = (read_sweep(tmp_path / name) for name in ("whole", "parts"))
    assert [job.objective for job in whole] == [job.objective for job in parts]
    assert all(job.status == "finished" for job in parts)
