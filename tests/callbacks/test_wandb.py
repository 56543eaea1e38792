"""What an offline W&B run holds, read back from its file: every curve, table, picture and artifact; and resuming it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, SMALL, Run
from wandb_records import recorded

from pspnet_lightning.loggers import wandb_logger
from pspnet_lightning.runs.checkpoint import read_checkpoint

SCENES = [
    *SMALL,
    "data.train_length=12",
    "data.val_length=5",
    "data.batch_size=4",
    "data.epochs=2",
    "data.crop_size=64",
    "trainer.log_every_n_steps=1",
    "logger=wandb",
]
NO_LOGIN = {"WANDB_API_KEY": "", "NETRC": "/nonexistent"}


def succeeded(result: Any) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_everything_is_on_the_dashboard(command: Run, tmp_path: Path) -> None:
    for words in (["init", "-q"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "m", "--allow-empty"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True)
    options = ["tags=[quick,scenes]", "logger.wandb.notes=a note", "logger.wandb.log_model=last"]
    said = succeeded(command("train", *SCENES, *options, "hydra.run.dir=run", **NO_LOGIN))
    assert "send it to W&B:  wandb sync run/wandb" in said
    (run,) = recorded(tmp_path / "run")

    # Curves, at the steps of metrics.csv, and their best values as the summary.
    assert [step for step, _ in run.values("train/loss")] == [0, 1, 2, 3, 4, 5]
    for key in ("lr/backbone", "lr/head", "images_per_second", "data_wait", "epoch"):
        assert {step for step, _ in run.values(key)} == set(range(6)), key
    miou, loss = dict(run.values("val/miou")), dict(run.values("val/loss"))
    assert sorted(miou) == sorted(loss) == [2, 5]
    assert run.summary["val/miou"] == {"max": max(miou.values())}
    assert run.summary["val/loss"] == {"min": min(loss.values())}
    assert run.summary["train/loss"] == {"min": min(value for _, value in run.values("train/loss"))}
    assert run.summary["best/miou"] == pytest.approx(max(miou.values()))
    assert {"best/macc", "best/aacc", "best/loss"} <= set(run.summary)
    assert run.metrics["val/miou"]["summary"] == {"max": True}
    assert run.metrics["val/loss"]["summary"] == {"min": True}
    assert {run.metrics[key]["step_metric"] for key in ("*", "val/miou", "val/loss")} == {"trainer/global_step"}

    # Per-class IoU: a row more after each validation.
    tables = [json.loads((run.files / path).read_text()) for _, path in run.values("val/iou.path")]
    assert [len(table["data"]) for table in tables] == [1, 2]
    assert tables[1]["data"][0] == tables[0]["data"][0]
    classes = json.loads((tmp_path / "run" / "results.json").read_text())["classes"]
    assert tables[1]["columns"] == ["epoch", "step", "mIoU", *classes]
    assert [row[:2] for row in tables[1]["data"]] == [[0, 2], [1, 5]]
    for row in tables[1]["data"]:
        assert row[2] == pytest.approx(miou[row[1]], abs=1e-4)
        assert np.mean([value for value in row[3:] if value is not None]) == pytest.approx(row[2], abs=1e-4)

    for column, name in enumerate(classes, start=3):
        points = [(row[1], row[column]) for row in tables[1]["data"] if row[column] is not None]
        assert run.values(f"val/iou/{name}") == points, "a curve"

    # The confusion matrix, normalised: a picture, and a chart whose rows sum to 100.
    for key, count in (("val/confusion", 2), ("best/confusion", 1)):
        paths = run.values(f"{key}.path")
        assert len(paths) == count
        assert run.picture(paths[0][1]).shape[2] == 3
        table = json.loads((run.files / run.values(f"{key}_chart_table.path")[-1][1]).read_text())
        assert len(table["data"]) == len(classes) ** 2
        sums = {name: sum(row[2] for row in table["data"] if row[0] == name) for name in classes}
        assert all(value == pytest.approx(100, abs=0.1) or value != value or value == 0 for value in sums.values())

    # Pictures with masks that can be switched, the same images each time; and the hardest.
    for key, times in (("val/pictures", 2), ("val/hardest", 2), ("best/pictures", 1), ("best/hardest", 1)):
        files, masks = run.values(f"{key}.filenames"), run.values(f"{key}.all_masks")
        assert len(files) == times
        assert len(run.values(f"{key}_sheet.path")) == times
        for (_, names), (_, layers) in zip(files, masks, strict=True):
            assert len(names) == len(layers) == 5
            for name, layer in zip(names, layers, strict=True):
                assert set(layer) == {"prediction", "truth", "errors"}
                shape = run.picture(name).shape[:2]
                masks_of = {which: run.picture(entry["path"]) for which, entry in layer.items()}
                assert all(mask.shape == shape for mask in masks_of.values())
                wrong = masks_of["prediction"] != masks_of["truth"]
                assert np.array_equal(masks_of["errors"] == 1, wrong & (masks_of["truth"] != 255))
    first, second = (names for _, names in run.values("val/pictures.filenames"))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(run.picture(one), run.picture(other))
    captions = run.values("val/hardest.captions")[-1][1]
    scores = [float(caption.split("mIoU ")[1].removesuffix(" %")) for caption in captions]
    assert scores == sorted(scores)
    labels = run.config["_wandb"]["mask/class_labels"]["val/pictures_wandb_delimeter_truth"]["value"]
    assert labels == {**{str(index): name for index, name in enumerate(classes)}, "255": "ignored"}

    # Who, what, from which state.
    assert run.config["model"]["width"] == 8
    assert run.config["data"]["batch_size"] == 4
    assert run.run["tags"] == ["quick", "scenes"]
    assert tuple(run.run[key] for key in ("notes", "job_type", "display_name")) == ("a note", "train", "run")
    told = [part.get("git", {}).get("commit") for part in (run.run, *run.of_kind("environment"))]
    assert commit.stdout.strip() in told

    # Artifacts: the data set's description, the best and the last checkpoint, with files that are there.
    kinds = {(item["type"], alias): item for item in run.artifacts for alias in item["aliases"]}
    data = kinds["dataset", "latest"]
    assert data["name"] == "data-scenes"
    (entry,) = data["manifest"]["contents"]
    described = json.loads(Path(entry["local_path"]).read_text())
    assert described["spec"]["classes"] == classes
    assert (described["train_images"], described["val_images"]) == (12, 5)
    for alias in ("best", "last"):
        (entry,) = kinds["model", alias]["manifest"]["contents"]
        assert entry["path"] == f"{alias}.ckpt"
        assert read_checkpoint(entry["local_path"])["wandb"]["id"] == run.run["run_id"]
    assert run.records[-1]["type"] == "exit"


def test_jobs_of_a_sweep_are_runs_of_their_own_in_one_group(command: Run, tmp_path: Path) -> None:
    short = ["data.epochs=1", "callbacks.pictures=null"]
    succeeded(
        command("train", "-m", "model.bins=[],[1,2]", "hydra.sweep.dir=bins", "seed=3", *SCENES, *short, **NO_LOGIN)
    )
    jobs = [recorded(tmp_path / "bins" / number)[0] for number in ("0", "1")]
    assert [job.run["display_name"] for job in jobs] == ["model.bins=[]", "model.bins=[1,2]"]
    assert {job.run["run_group"] for job in jobs} == {"bins"}
    assert jobs[0].run["run_id"] != jobs[1].run["run_id"]
    assert [job.config["bins"] for job in jobs] == ["none", "1 2"]
    for job in jobs:  # the first is over before the second begins
        assert job.of_kind("exit") == [job.records[-1]["exit"]]
        assert job.records[-1]["exit"]["exit_code"] == 0
        assert [step for step, _ in job.values("train/loss")] == [0, 1, 2]


@pytest.mark.slow
def test_a_killed_and_resumed_run_goes_on_without_a_lost_point(tmp_path: Path) -> None:
    words = [sys.executable, str(REPOSITORY / "train.py"), *SCENES, "data.train_length=48", "data.epochs=3"]
    words += ["callbacks=every_steps", "callbacks.steps.every_n_train_steps=5", "hydra.run.dir=run"]
    words += ["callbacks.pictures.count=1", "callbacks.pictures.hardest=0"]
    environment = {**os.environ, **NO_LOGIN, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    options: Any = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(words, text=True, **options)
    checkpoint, step, deadline = tmp_path / "run" / "checkpoints" / "last.ckpt", 0, time.monotonic() + 200
    while step < 15 and time.monotonic() < deadline and process.poll() is None:
        if checkpoint.is_file():
            step = read_checkpoint(checkpoint)["global_step"]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    content = read_checkpoint(checkpoint)
    said = subprocess.run([*words, "ckpt_path=last"], text=True, check=False, **options)
    assert said.returncode == 0, said.stdout

    parts = recorded(tmp_path / "run")
    assert len(parts) == 2
    assert {part.run["run_id"] for part in parts} == {content["wandb"]["id"]}
    assert parts[1].run["resume"]  # `wandb sync` appends it to the first
    # Every step is there. Those between the checkpoint and the kill are there twice, and alike.
    steps = [step for part in parts for step, _ in part.values("train/loss")]
    assert set(steps) == set(range(36))
    again = dict(parts[0].values("train/loss")).keys() & dict(parts[1].values("train/loss")).keys()
    for step in again:
        assert dict(parts[0].values("train/loss"))[step] == dict(parts[1].values("train/loss"))[step]
    assert parts[1].values("train/loss")[0][0] == content["global_step"]
    assert {step for part in parts for step, _ in part.values("val/miou")} == {11, 23, 35}
    assert {step for part in parts for step, _ in part.values("val/pictures._type")} == {11, 23, 35}
    table = json.loads((parts[1].files / parts[1].values("val/iou.path")[-1][1]).read_text())
    assert [row[1] for row in table["data"]] == [11, 23, 35]
    sent = said.stdout.split("wandb sync ")[1].split()
    assert [Path(folder).name for folder in sent[:2]] == [part.files.parent.name for part in parts]


def test_log_model_takes_one_of_its_choices(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"logger\.wandb\.log_model='newest' must be false or one of best, last, all"):
        wandb_logger(str(tmp_path), offline=True, log_model="newest")
