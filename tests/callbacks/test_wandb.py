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
from PIL import Image

from pspnet_lightning.loggers import wandb_logger
from pspnet_lightning.loggers.wandb_file import RunFile, run_files
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


class Recorded:
    """A `.wandb` file with its records sorted by kind."""

    def __init__(self, path: Path) -> None:
        self.files = path.parent / "files"
        self.records = list(RunFile(path).records())
        self.rows = list(RunFile(path).rows())
        self.run = next(record.run for record in self.records if record.WhichOneof("record_type") == "run")
        self.artifacts = [record.artifact for record in self.records if record.WhichOneof("record_type") == "artifact"]
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.metrics = {}
        for record in self.records:
            kind = record.WhichOneof("record_type")
            if kind == "summary":
                for item in record.summary.update:
                    self.summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
            elif kind == "config":
                self.config |= {item.key: json.loads(item.value_json) for item in record.config.update if item.key}
            elif kind == "metric":
                self.metrics[record.metric.name or record.metric.glob_name] = record.metric

    def values(self, key: str) -> list[tuple[int, Any]]:
        return [(row["_step"], row[key]) for row in self.rows if key in row]

    def picture(self, name: str) -> np.ndarray:
        return np.array(Image.open(self.files / name))


def recorded(run: Path) -> list[Recorded]:
    run_id = next(run.glob("wandb/offline-run-*/*.wandb")).stem.removeprefix("run-")
    return [Recorded(path) for path in run_files(run, run_id)]


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
        assert len(run.values(key)) == 6, key
    miou, loss = dict(run.values("val/miou")), dict(run.values("val/loss"))
    assert sorted(miou) == sorted(loss) == [2, 5]
    assert run.summary["val/miou"] == {"max": max(miou.values())}
    assert run.summary["val/loss"] == {"min": min(loss.values())}
    assert run.summary["train/loss"] == {"min": min(value for _, value in run.values("train/loss"))}
    assert run.summary["best/miou"] == pytest.approx(max(miou.values()))
    assert {"best/macc", "best/aacc", "best/loss"} <= set(run.summary)
    assert run.metrics["val/miou"].summary.max
    assert run.metrics["val/loss"].summary.min
    assert {run.metrics[key].step_metric for key in ("*", "val/miou", "val/loss")} == {"trainer/global_step"}

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
    assert list(run.run.tags) == ["quick", "scenes"]
    assert (run.run.notes, run.run.job_type, run.run.display_name) == ("a note", "train", "run")
    assert run.run.git.commit == commit.stdout.strip() or any(
        record.environment.git.commit == commit.stdout.strip() for record in run.records
    )

    # Artifacts: the data set's description, the best and the last checkpoint, with files that are there.
    kinds = {(artifact.type, alias): artifact for artifact in run.artifacts for alias in artifact.aliases}
    data = kinds["dataset", "latest"]
    assert data.name == "data-scenes"
    (entry,) = data.manifest.contents
    described = json.loads(Path(entry.local_path).read_text())
    assert described["spec"]["classes"] == classes
    assert (described["train_images"], described["val_images"]) == (12, 5)
    for alias in ("best", "last"):
        (entry,) = kinds["model", alias].manifest.contents
        assert entry.path == f"{alias}.ckpt"
        assert read_checkpoint(entry.local_path)["wandb"]["id"] == run.run.run_id
    assert run.records[-1].WhichOneof("record_type") == "exit"


def test_jobs_of_a_sweep_are_runs_of_their_own_in_one_group(command: Run, tmp_path: Path) -> None:
    short = ["data.epochs=1", "callbacks.pictures=null"]
    succeeded(
        command("train", "-m", "model.bins=[],[1,2]", "hydra.sweep.dir=bins", "seed=3", *SCENES, *short, **NO_LOGIN)
    )
    jobs = [recorded(tmp_path / "bins" / number)[0] for number in ("0", "1")]
    assert [job.run.display_name for job in jobs] == ["model.bins=[]", "model.bins=[1,2]"]
    assert {job.run.run_group for job in jobs} == {"bins"}
    assert jobs[0].run.run_id != jobs[1].run.run_id
    assert [job.config["bins"] for job in jobs] == ["none", "1 2"]
    for job in jobs:  # the first is over before the second begins
        assert job.records[-1].exit.exit_code == 0
        assert [step for step, _ in job.values("train/loss")] == [0, 1, 2]


@pytest.mark.slow
def test_a_killed_and_resumed_run_goes_on_without_a_lost_or_a_second_point(tmp_path: Path) -> None:
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
    (killed,) = recorded(tmp_path / "run")
    # All that the checkpoint has seen was on the disk before it was.
    assert killed.rows[-1]["_step"] >= content["global_step"] - 1 >= content["wandb"]["step"] >= 14
    said = subprocess.run([*words, "ckpt_path=last"], text=True, check=False, **options)
    assert said.returncode == 0, said.stdout

    parts = recorded(tmp_path / "run")
    assert len(parts) == 2
    assert {part.run.run_id for part in parts} == {content["wandb"]["id"]}
    assert parts[1].run.resume  # `wandb sync` appends it to the first
    steps = [step for part in parts for step, _ in part.values("train/loss")]
    assert steps == list(range(36))
    validated = [step for part in parts for step, _ in part.values("val/miou")]
    assert validated == [11, 23, 35]
    assert validated == [step for part in parts for step, _ in part.values("val/pictures._type")]
    table = json.loads((parts[1].files / parts[1].values("val/iou.path")[-1][1]).read_text())
    assert [row[1] for row in table["data"]] == [11, 23, 35]
    scores = [value for part in parts for _, value in part.values("val/miou")]
    assert parts[1].summary["val/miou"] == {"max": max(scores)}


def test_a_torn_file_is_read_up_to_the_tear(tmp_path: Path, command: Run) -> None:
    succeeded(command("train", *SCENES, "hydra.run.dir=run", **NO_LOGIN))
    path = next((tmp_path / "run").glob("wandb/offline-run-*/*.wandb"))
    whole = list(RunFile(path).records())
    # The official reader finds the same records.
    told = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert [json.loads(line)["num"] for line in told.stdout.splitlines()] == [record.num for record in whole]
    torn = tmp_path / "torn.wandb"
    content = path.read_bytes()
    for size in (3, 7, 1000, len(content) - 1):
        torn.write_bytes(content[:size])
        read = list(RunFile(torn).records())
        assert read == whole[: len(read)]
        assert len(read) < len(whole)
    # One that grows is read on from where it ended.
    torn.write_bytes(content[: len(content) // 2])
    file = RunFile(torn)
    begun = list(file.records())
    torn.write_bytes(content)
    assert begun + list(file.records()) == whole


def test_log_model_takes_one_of_its_choices(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"logger\.wandb\.log_model='newest' must be false or one of best, last, all"):
        wandb_logger(str(tmp_path), offline=True, log_model="newest")
