"""The command line as a user types it: what it writes, says, and does with mistakes."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, SMALL, Run, list_arguments
from PIL import Image

from pspnet_lightning import load
from pspnet_lightning.runs.checkpoint import read_checkpoint
from pspnet_lightning.runs.fields import number_at

SCENES = [
    *SMALL,
    "data.train_length=12",
    "data.val_length=5",
    "data.batch_size=4",
    "data.epochs=2",
    "data.crop_size=64",
]


def succeeded(result: object) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def failed(result: object) -> str:
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert result.stderr.count("error: ") == 1
    return result.stderr


def test_a_run_leaves_everything_it_promises_and_evaluates(command: Run, tmp_path: Path) -> None:
    said = succeeded(command("train", *SCENES, "trainer.log_every_n_steps=1", "hydra.run.dir=run"))
    assert re.search(r"epoch 2/2, step 6: loss .*, val mIoU 0\.\d+", said)
    assert "best checkpoint: run/checkpoints/best.ckpt" in said
    assert "pspnet-evaluate checkpoint=run/checkpoints/best.ckpt" in said
    assert "sapling" in said  # the table of classes
    run = tmp_path / "run"
    for name in ("config.yaml", "metrics.csv", "results.json", "curves.png", "validation.png", "confusion.png"):
        assert (run / name).is_file(), name
    assert not list(run.rglob("*.part"))
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"train/loss", "val/miou", "lr/backbone", "lr/head", "images_per_second"} <= set(rows[0])
    # Image, truth, prediction and errors at 240 pixels each.
    assert Image.open(run / "validation.png").size[0] == 4 * 240 + 3 * 6 + 16
    results = json.loads((run / "results.json").read_text())
    assert results["rule"] == "present"
    assert set(results["conventions"]) >= {"semseg", "mmseg", "torchmetrics"}
    assert sum(map(sum, results["confusion"])) == 5 * 96 * 96

    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert content["pspnet_lightning"]["config"]["model"]["width"] == 8
    module = load(run / "checkpoints" / "best.ckpt")
    assert module(torch.zeros(1, 3, 70, 81, dtype=torch.uint8)).shape == (1, 11, 70, 81)

    said = succeeded(command("evaluate", "checkpoint=run/checkpoints/best.ckpt", "hydra.run.dir=evaluated"))
    again = json.loads((tmp_path / "evaluated" / "results.json").read_text())
    assert again["confusion"] == results["confusion"]
    assert f"mIoU {results['miou']:.4f}" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluated", "run"]  # nothing stray


@pytest.mark.parametrize(
    ("options", "summary"),
    [
        ([], True),
        (["callbacks.summary=null"], False),  # Lightning would show its own
        (["trainer.enable_model_summary=false"], False),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_summary_is_ours_or_none(command: Run, options: list[str], summary: bool) -> None:
    small = [word for word in SCENES if "enable_model_summary" not in word]
    done = command("train", *small, "debug=fdr", *options)
    succeeded(done)
    assert ("Total params" in done.stdout or "Trainable params" in done.stdout) == summary
    assert ("FLOPs" in done.stdout) == summary


def test_no_bar_is_asked_for(command: Run) -> None:
    done = command("train", *SCENES, "debug=fdr", "trainer.enable_progress_bar=false", terminal=True)
    assert "\x1b[2K" not in succeeded(done)


def test_multirun_makes_a_folder_for_each_job(command: Run, tmp_path: Path) -> None:
    short = [*SCENES, "data.epochs=1", "callbacks.pictures=null"]
    succeeded(command("train", "-m", "model.bins=[],[1,2]", "hydra.sweep.dir=sweep", *short))
    bins = [
        read_checkpoint(tmp_path / "sweep" / job / "checkpoints" / "best.ckpt")["pspnet_lightning"]["config"]["model"][
            "bins"
        ]
        for job in ("0", "1")
    ]
    assert bins == [[], [1, 2]]


@pytest.mark.parametrize("logger", ["wandb", "tensorboard", "none"])
def test_loggers_need_no_login_and_no_prompt(command: Run, tmp_path: Path, logger: str) -> None:
    environment = {"HOME": str(tmp_path / "home"), "WANDB_API_KEY": ""}
    arguments = [*SCENES, "data.epochs=1", "hydra.run.dir=run", f"logger={logger}"]
    succeeded(command("train", *arguments, **environment))
    written = {
        "wandb": lambda run: list(run.glob("wandb/offline-run-*/*.wandb")),
        "tensorboard": lambda run: list(run.glob("tensorboard/events*")),
        "none": lambda run: (run / "results.json").is_file() and not (run / "metrics.csv").exists(),
    }
    assert written[logger](tmp_path / "run")


@pytest.mark.parametrize("mode", ["fdr", "limit", "profile"])
def test_debug_modes(command: Run, mode: str, tmp_path: Path) -> None:
    succeeded(command("train", f"debug={mode}", *SCENES, "data.epochs=1", "hydra.run.dir=run"))
    assert (tmp_path / "run" / "checkpoints").exists() == (mode != "fdr")


def test_debug_overfit_learns_a_few_images_by_heart(command: Run, tmp_path: Path) -> None:
    larger = ["model.width=16", "model.output_stride=8", "data.overfit=4", "data.epochs=60", "data.lr=0.03"]
    said = succeeded(command("train", "debug=overfit", *SMALL, *larger))
    scores = [float(value) for value in re.findall(r"val mIoU (\d\.\d+)", said)]
    assert len(scores) == 3
    assert scores[2] > max(0.4, scores[0])


TYPOS = [
    (["model.binz=[1]"], r"model\.binz: there is no such key.*did you mean 'model\.bins'"),
    (["sed=3"], r"sed: there is no such key.*did you mean 'seed'"),
    (["trainer.device=2"], r"trainer\.device: .*did you mean 'trainer\.devices'"),
    (["+trainer.max_epoch=2"], r"trainer\.max_epoch: unknown key; did you mean 'max_epochs'"),
    (["+data.rooot=x"], r"data\.rooot: unknown key"),
    (["model=pspnet51"], r"model=pspnet51: there is no such option; did you mean 'pspnet5"),
    (["optimizer=sgdd"], r"optimizer=sgdd: .*did you mean 'sgd'"),
    (["data=camvid"], r"data\.root"),
    (["model.bins=[0]"], r"model\.bins=\[0\] must be a list, each a whole number from 1"),
    (["ckpt_path=last"], r"ckpt_path=last: there is no last\.ckpt"),
    (["ckpt_path=gone.ckpt"], r"checkpoint 'gone\.ckpt' does not exist"),
    (["trainer.accelerator=cpu", "data.batch_size=100000"], r"data\.batch_size=100000"),
    (["scheduler.warmup_steps=100000"], r"warmup_steps=100000"),
    (
        ["objective=results.auc.auc"],
        r"objective='results\.auc\.auc' is scored with callbacks\.results\.metrics=\[auc\]",
    ),
    (["objective=val/iou"], r"objective='val/iou' was not logged; logged are: .*val/miou"),
]


def test_the_objective_may_be_any_number_of_the_results(command: Run, small_list: Path, tmp_path: Path) -> None:
    words = ("hydra.run.dir=run", "callbacks.results.metrics=[surface,calibration]", "callbacks.pictures=null")
    done = command("train", *list_arguments(small_list), *words, "objective=results.surface.dice_of_classes.1")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    objective = json.loads((tmp_path / "run" / "run.json").read_text())["objective"]
    assert objective["value"] == results["surface"]["dice_of_classes"][1]
    assert 0 <= results["calibration"]["ece"] <= 1
    for path, message in (
        ("mdise", r"results\.json has no 'mdise'; it has .*mdice"),
        ("iou.7", r"iou has no '7'; it has 0, 1, 2"),
        ("iou", r"is no number; give one of it, such as results\.iou\.0"),
        ("miou.a", r"miou has no 'a'; it has one value alone"),
    ):
        with pytest.raises(ValueError, match=message):
            number_at(results, path)
    assert number_at(results, "mdice") == results["mdice"]


@pytest.mark.parametrize(
    ("arguments", "message"), TYPOS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_typos(command: Run, arguments: list[str], message: str) -> None:
    defaults = SCENES if arguments[0] != "data=camvid" else SMALL
    kept = [word for word in defaults if word.split("=")[0] not in {part.split("=")[0] for part in arguments}]
    shortened = ["data.epochs=1"] if "objective" in arguments[0] else []
    assert re.search(message, failed(command("train", *kept, *shortened, *arguments)), re.DOTALL)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# @package _global_\nsed: 1\n", r"sed: .*did you mean 'seed'"),
        ("# @package _global_\nmodel:\n  binz: [1]\n", r"model\.binz: unknown key; did you mean 'bins'"),
        ("# @package _global_\ntrianer:\n  devices: 1\n", r"trianer: .*did you mean 'trainer'"),
        ("seed: 1\n", r"experiment"),  # the package line forgotten
    ],
)
def test_typos_in_an_experiment_file(command: Run, tmp_path: Path, content: str, message: str) -> None:
    folder = tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "own.yaml").write_text(content)
    result = command("train", *SCENES, "experiment=own", "--config-dir", str(tmp_path / "mine"))
    assert re.search(message, failed(result), re.DOTALL)


def test_more_devices_than_there_are(command: Run) -> None:
    said = failed(
        command(
            "train",
            *[w for w in SCENES if "accelerator" not in w],
            *("data.batch_size=64", "trainer.accelerator=gpu", "trainer.devices=64"),
        )
    )
    assert re.search(r"(?i)gpu|cuda", said)


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/self").exists(), reason="needs a folder nobody can write to")
def test_unwritable_output_folder(command: Run) -> None:
    # /proc takes no folders, not even from root.
    said = failed(command("train", *SCENES, "hydra.run.dir=/proc/run"))
    assert "/proc/run" in said


def test_list_data_trains(command: Run, small_list: Path, tmp_path: Path) -> None:
    succeeded(command("train", *list_arguments(small_list), "hydra.run.dir=run"))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["classes"] == ["a", "b", "c"]
    assert sum(map(sum, results["confusion"])) == 3 * 48 * 64


def test_the_shim_is_the_command() -> None:
    assert "pspnet_lightning.cli.commands import train" in (REPOSITORY / "train.py").read_text()
