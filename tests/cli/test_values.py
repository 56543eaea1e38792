"""Changed values through the real command line: one line that names the key, or a run; never a stack trace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Run
from omegaconf import DictConfig
from PIL import Image
from small_checkpoint import write_checkpoint
from wrong_values import COMPOSED, Case, cases, changed, composed, sample

from pspnet_lightning.config import check_config
from pspnet_lightning.config.annotations import as_typed

# What makes each command end soon, and the files that it needs.
SOON = {
    "train": ["debug=fdr", "callbacks.results=null"],
    "evaluate": ["checkpoint=c.ckpt", "trainer.accelerator=cpu", "+data.val_length=2", "+data.num_workers=0"],
    "predict": ["checkpoint=c.ckpt", "input=images", "output=out", "device=cpu"],
    "explain": ["checkpoint=c.ckpt", "input=images", "output=out", "baseline=zero", "receptive_field=1", "device=cpu"],
    "export": ["checkpoint=c.ckpt", "format=safetensors", "output=out.safetensors"],
    "inspect": ["data.train_length=2", "data.val_length=2", "limit=2"],
    "benchmark_input": ["images=2", "rounds=1", "width=80", "height=60", "crop_size=33"],
    "benchmark_model": [
        *("depth=18", "classes=5", "size=33", "rounds=1", "measure=[forward]", "precisions=[float32]", "device=cpu"),
        "memory=false",
    ],
    "report": ["folder=nowhere"],
    "convert": ["weights=nowhere.pth", "source=semseg", "output=w.ckpt"],
    "workspace": [],
}
# Long, or outside this machine, or (compile, peaks of memory) minutes: not what is asked here.
LEFT_OUT = re.compile(
    r"compile|download|rounds|repeats|wandb|pretrained|_target_|threads|images$|batch$|num_nodes|stem_w|memory"
)


def word(case: Case) -> str:
    """As it is typed."""
    return f"++{case.key}={as_typed(case.value) if case.value != '' else chr(39) * 2}"


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, DictConfig]]:
    folder = tmp_path_factory.mktemp("run")
    chosen = ("train", "evaluate", "predict", "explain", "export", "inspect", "report", "convert")
    return {name: composed(name, folder) for name in (*chosen, "benchmark_input", "benchmark_model")}


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "c.ckpt")
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((64, 80, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_no_value_ends_in_a_stack_trace(
    command: Run, configs: dict[str, tuple[str, DictConfig]], workplace: Path, part: int
) -> None:
    """80 values, half of them such that the check lets them through, so that the command itself meets them."""
    found = [case for case in cases(configs) if not LEFT_OUT.search(case.key)]
    taken = [case for case in found if _is_taken(case, configs)]
    refused = [case for case in found if case not in taken]
    chosen = [*sample(taken, 40, seed=2), *sample(refused, 40, seed=3)][part::4]
    for case in chosen:
        _run(command, case, configs[case.composed][0])


def _is_taken(case: Case, configs: dict[str, tuple[str, DictConfig]]) -> bool:
    primary, cfg = configs[case.composed]
    try:
        check_config(changed(cfg, case.key, case.value), primary)
    except ValueError:
        return False
    return True


def _run(command: Run, case: Case, primary: str) -> None:
    name, *kind = primary.split("_", 1)
    words = [*kind, *COMPOSED[case.composed][1], *SOON[primary], word(case)]
    result = command(name, *words, timeout=100)
    said = f"{' '.join(words)}\n{result.stdout}\n{result.stderr}"
    assert "Traceback" not in result.stderr, said
    if result.returncode == 0:
        return
    assert result.returncode == 1, said
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    last = case.key.rpartition(".")[2]
    told = result.stderr.partition("error: ")[2]
    assert last in told or str(case.value) in told or "nowhere" in told, said


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("train", ["data.batch_size=abc"], "data.batch_size=abc must be a whole number of at least 1"),
        ("train", ["data.lr=inf"], "data.lr=inf must be a number above 0, and finite"),
        (
            "train",
            ["model.bins=[1,1]", "loss.aux_weight=-1"],
            "2 values are wrong:\n  model.bins=[1, 1] must be",
        ),
        ("train", ["optimizer=adamw", "data.lr=0.005"], "data.lr=0.005 has no effect"),
        (
            "train",
            ["experiment=pooling"],
            "experiment=pooling: there is no such option; known are: camvid/efficientnet, camvid_cpu, drive, paper/",
        ),
        (
            "train",
            ["data=ade20k"],
            "data.root is required: give data.root=... on the command line. ADE20K: ",
        ),
        ("inspect", ["data=cityscapes"], "Cityscapes: register at cityscapes-dataset.com, unpack"),
        ("workspace", ["project=[]"], "project=[] must be a text that is not empty"),
        ("report", ["folder=x", "pictures=-1"], "pictures=-1 must be a whole number from 0 to 1000"),
        ("benchmark", ["input", "width=0"], "width=0 must be a whole number from 1 to 32767"),
        ("explain", ["checkpoint=x", "baseline=men"], "baseline=men must be mean or zero; did you mean 'mean'?"),
    ],
)
def test_every_command_checks(command: Run, name: str, arguments: list[str], message: str, tmp_path: Path) -> None:
    result = command(name, *arguments)
    assert result.returncode == 1, result.stdout
    assert "Traceback" not in result.stderr
    assert f"error: {message}" in result.stderr or message in result.stderr


def test_what_runs_is_recorded(command: Run, tmp_path: Path) -> None:
    small: list[Any] = [*COMPOSED["train"][1], "logger=none", "callbacks.results=null", "callbacks.pictures=null"]
    result = command("train", *small, "trainer.precision=16-mixed", "hydra.run.dir=run", "tags=[2024]")
    assert result.returncode == 0, result.stderr
    assert "note: trainer.precision=16-mixed is for GPUs; on this CPU bf16-mixed runs" in result.stdout
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["trainer"]["precision"] == "bf16-mixed"
    assert config["tags"] == ["2024"]
    assert "lr: backbone 0.02, head 0.2\nthe data set's recipe: batch 8 and lr 0.02" in result.stdout
