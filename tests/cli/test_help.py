"""`--help` and the answer to a typo: what they say, and that they come before anything heavy is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY
from omegaconf import OmegaConf

from pspnet_lightning.config import CONFIG_DIR
from pspnet_lightning.config import help as help_of
from pspnet_lightning.config.ranges import from_annotations, range_of, stored
from pspnet_lightning.config.schemas import PRIMARIES
from pspnet_lightning.config.values import places
from pspnet_lightning.launch.words import _composed

HEAVY = ("torch", "lightning", "torchvision", "torchmetrics", "wandb", "matplotlib", "timm", "scipy", "cv2")
COMMANDS = ("train", "evaluate", "convert", "export", "predict", "explain", "inspect", "report", "workspace")
SECONDS = 1.5  # of processor time; 0.7 measured, with other processes beside it

# One interpreter that has imported what the console script imports; each case is a child of it.
CASES = """
import io, json, os, resource, sys
from pspnet_lightning.cli import commands
import pspnet_lightning.launch.words
for case in json.loads(sys.argv[1]):
    read, write = os.pipe()
    if os.fork() == 0:
        sys.argv = ["pspnet-" + case[0], *case[1:]]
        sys.stdout = sys.stderr = out = io.StringIO()
        code = None
        try:
            getattr(commands, case[0])()
        except SystemExit as stop:
            code = stop.code
        with open(write, "w") as file:
            json.dump({"code": code, "said": out.getvalue(), "modules": [*sys.modules]}, file)
        os._exit(0)
    os.close(write)
    with open(read) as file:
        print(file.read(), flush=True)
    os.wait()
"""


def answers(cases: list[tuple[str, ...]], folder: Path) -> list[dict[str, Any]]:
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "80"}
    for name in ("HYDRA_FULL_ERROR", "RANK", "MASTER_ADDR", "SLURM_PROCID"):
        variables.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", CASES, json.dumps(cases)],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(cases), done.stderr
    for case, answer in zip(cases, found, strict=True):
        heavy = {module.partition(".")[0] for module in answer["modules"]} & {*HEAVY}
        assert not heavy, f"{case} imports {heavy}"
    assert not list(folder.iterdir()), "an answer leaves nothing behind"
    return found


def test_help_of_every_command(tmp_path: Path) -> None:
    cases = [(name, "--help") for name in COMMANDS] + [("benchmark", "input", "-h"), ("benchmark", "model", "-h")]
    found = answers(cases, tmp_path)
    for case, answer in zip(cases, found, strict=True):
        said = answer["said"]
        assert answer["code"] is None, said
        name = f"benchmark_{case[1]}" if case[0] == "benchmark" else case[0]
        examples = [line for line in said.splitlines() if line.startswith(("  pspnet-", "  python train.py"))]
        assert len(examples) >= 3, case
        for key in yaml.safe_load((CONFIG_DIR / f"{name}.yaml").read_text()):
            if key not in ("defaults", "hydra", "data", "model") or name in ("train", "inspect"):
                assert f"  {key}" in said or key in ("defaults", "hydra"), f"{case}: {key}"
        assert all(len(line) <= 80 or line.startswith(("  pspnet-", "  python")) for line in said.splitlines()), said
    said = {case[0]: answer["said"] for case, answer in zip(cases, found, strict=True)}
    assert "optimizer" not in said["report"], "a group that is not for this command"
    assert "[whole]" in said["predict"], "the option that is taken"
    assert "--repeat RUN" in said["train"]
    assert "--repeat RUN" not in said["predict"]


def test_help_follows_the_groups_that_are_chosen(tmp_path: Path) -> None:
    cases = [("train", "loss=focal", "--help"), ("convert", "data=list", "--help"), ("benchmark", "--help")]
    focal, listed, both = (answer["said"] for answer in answers(cases, tmp_path))
    assert "loss.gamma=2.0" in focal
    assert "0 is cross-entropy (a number of at least 0)" in " ".join(focal.split())
    assert "data.train=... (required)" in listed
    assert "pspnet-benchmark input" in both
    assert "pspnet-benchmark model" in both


TYPOS = {
    ("train", "sed=1"): "sed: there is no such key in the configuration; did you mean 'seed'?",
    ("train", "model.binz=[1]"): "model.binz: there is no such key in the configuration; did you mean 'model.bins'?",
    ("train", "zzz=1"): "zzz: there is no such key in the configuration; --help lists all keys",
    ("train", "experimnt=a"): "experimnt: there is no such key in the configuration; did you mean 'experiment'?",
    ("train", "loss=focul"): "loss=focul: there is no such option; did you mean 'focal'?",
    ("train", "-m", "seed=1,2", "modl.bins=[1],[2]"): (
        "modl.bins: there is no such key in the configuration; did you mean 'model.bins'?"
    ),
    ("train", "fast"): "fast: a setting is written KEY=VALUE, a choice GROUP=OPTION; --help lists them",
    ("train", "--halp"): "--halp: there is no such option; did you mean '--help'?",
    ("predict", "--repeat", "x"): "--repeat: there is no such option; known are: ",
    ("predict",): "checkpoint is required: give checkpoint=... on the command line; --help lists all keys",
    ("convert",): "data is required: give data=OPTION, one of ade20k, camvid, ",
    ("benchmark",): "pspnet-benchmark: say what is measured, input or model; --help shows both",
    ("benchmark", "modle"): "pspnet-benchmark modle: did you mean 'model'?",
    ("benchmark", "input", "imags=3"): "imags: there is no such key in the configuration; did you mean 'images'?",
}


def test_typos(tmp_path: Path) -> None:
    for case, answer in zip(TYPOS, answers([*TYPOS], tmp_path), strict=True):
        assert answer["said"].startswith(f"error: {TYPOS[case]}"), answer["said"]
        assert answer["code"] == 1, case


def test_the_version(tmp_path: Path) -> None:
    (answer,) = answers([("train", "--version")], tmp_path)
    assert answer["said"].startswith("pspnet-lightning 0.")


@pytest.mark.parametrize("words", [["--help"], ["sed=1"]])
def test_processor_time_from_a_cold_start(words: list[str], tmp_path: Path) -> None:
    program = [sys.executable, str(REPOSITORY / "train.py"), *words]
    measured = []
    for _ in range(4):  # the machine is shared: the quickest of a few
        before = os.times()
        subprocess.run(program, cwd=tmp_path, capture_output=True, timeout=60, check=False)
        after = os.times()
        measured.append(after.children_user + after.children_system - before.children_user - before.children_system)
        if measured[-1] < SECONDS:
            return
    raise AssertionError(f"{min(measured):.2f} s")


def test_the_ranges_are_those_of_the_annotations() -> None:
    assert stored() == from_annotations(), "python -m pspnet_lightning.config.ranges writes the table anew"


@pytest.mark.parametrize("config_name", PRIMARIES)
def test_what_help_says_of_a_value_is_what_is_checked(config_name: str) -> None:
    cfg = _composed(config_name, ["data=base"] if config_name == "convert" else [])
    choices = dict(cfg.hydra.runtime.choices)
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    plain.pop("hydra")
    if config_name == "convert":
        del plain["data"]
        plain["data"] = {"_target_": "pspnet_lightning.data.scenes.scenes"}
    checked = {place.key: place.values.text for place in places(plain, config_name) if place.values is not None}
    found = list(help_of.keys(config_name, plain, choices))
    assert len(found) >= 4
    table = stored()
    for key, _, meaning in found:
        assert meaning, f"{key} has no comment in its YAML"
        if key in checked and "{key: value}" not in checked[key] and "a node" not in checked[key]:
            assert range_of(table, config_name, plain, key) == checked[key], key


def test_every_key_of_every_option_has_a_meaning() -> None:
    seen = 0
    for group in ("model", "augment", "loss", "optimizer", "scheduler", "trainer", "callbacks", "logger", "data"):
        for option in help_of.options_of(group):
            meanings = help_of._of_option(group, option)
            for key, _ in help_of._leaves(_whole(group, option), "", {f".{key}": "" for key in meanings}):
                assert meanings.get(key.lstrip(".")), f"{group}={option}: {key.lstrip('.')} has no comment in its YAML"
                seen += 1
    assert seen > 400


def _whole(group: str, option: str) -> dict[str, Any]:
    content = yaml.safe_load((CONFIG_DIR / group / f"{option}.yaml").read_text()) or {}
    whole: dict[str, Any] = {}
    for part in content.pop("defaults", ()):
        if isinstance(part, str) and part != "_self_":
            whole |= _whole(group, part)
    return whole | content
