"""Every command line that README, docs and the YAML headers show: composed, and run small where it can run here.

``shown_commands`` reads them out of the text. What makes them small (``SIZES``) changes lengths only: every check,
callback and folder is what a user would meet. A command that nothing here covers fails.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY, Run
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from miniatures import MINIATURES, blocks, picture, save
from omegaconf import DictConfig
from shown_commands import Shown, group_folder, shown_commands, texts
from small_checkpoint import write_checkpoint

from pspnet_lightning.config import CONFIG_DIR, as_plain, build_data, build_module, check_keys
from pspnet_lightning.config.schemas import register_schemas
from pspnet_lightning.launch.app import in_quotes

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
SCRIPTS = {name.removeprefix("pspnet-") for name in PROJECT["project"]["scripts"]}
GROUPS = {path.parent.relative_to(CONFIG_DIR).as_posix() for path in CONFIG_DIR.rglob("*.yaml")} - {"."}

# What docs/extending.md shows is typed in this folder: its modules and its conf/ stand in the commands' folder too.
EXAMPLES = REPOSITORY / "docs" / "examples"

# Lengths. Nothing that is checked, written or told is left out by these.
TRAIN_SIZES = ["model.width=8", "data.epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=2"]
SCENES_SIZES = ["data.train_length=8", "data.val_length=4", "data.batch_size=4", "data.crop_size=64"]
DISK_SIZES = ["data.batch_size=4", "data.crop_size=65"]  # two images on each of two devices
BENCHMARK_SIZES = ["measure=[labels]", "depth=18", "classes=5", "size=33", "width=45", "height=40", "rounds=2"]
# Where the documents say a number of processes, jobs or trials, two will do.
FEWER = {
    "trainer.devices=4": "trainer.devices=2",
    "data.fold=0,1,2,3,4": "data.fold=0,1",
    "loss.aux_weight=0,0.3,0.4,0.6,0.9": "loss.aux_weight=0,0.9",
}
SWEEP_SIZES = {
    "sweep=bins": ["seed=0"],
    "sweep=cross_validated_bins": ["data.fold=0,1", "model.bins=[],[1]"],
    "experiment=drive": ["data.folds=2", "data.batch_size=2"],
    "sweep=optuna_bins": ["hydra.sweeper.n_trials=2"],
    "hydra/sweeper=optuna": ["hydra.sweeper.n_trials=2"],
}
# What a document calls by a name of its own, and what it is in the folder in which the commands run.
CALLED = {
    "PATH": "best.ckpt",
    "runs/.../best.ckpt": "best.ckpt",
    "FILE": "photo.jpg",
    "DIR": "frames",
    "A.ckpt": "best.ckpt",
    "B.ckpt": "best.ckpt",
    "LABELS": "labels",
    "OTHERS": "labels",
    "GLOB": "frames/*.jpg",
    "VIDEO": "drive.mp4",
    "FRAMES": "frames",
    "/folder/of/jpegs": "frames",
    "RUN": "a_run",
    "RUN_OR_SWEEP_FOLDER": "a_run",
    "SWEEP": "a_sweep",
    "S": "1",
    "B": "[1,2]",
}
# Cannot run here, and why; these are composed and built.
ELSEWHERE = {
    "trainer=gpu": "needs a GPU",
    "model=pspnet50_imagenet": "fetches weights",
    "trainer.num_nodes=2": "needs two machines",
    "hydra/launcher=slurm": "needs a queue",
    "hydra/launcher=ray_gpus": "needs a GPU and Ray",
    "--nnodes=2": "needs two machines",
}
# No command of ours: what there is to check of each is in ``test_commands_of_others``.
OTHERS = ("pip", "pytest", "ruff", "mypy", "bash", "wandb", "pre-commit", "mkdocs")


@dataclass(frozen=True)
class Plan:
    """A command of ours: its name, the words after it in this folder, what starts it, and why it cannot run here."""

    name: str
    words: tuple[str, ...]
    starter: tuple[str, ...] = ()
    elsewhere: str | None = None

    @property
    def config(self) -> str:
        return f"benchmark_{self.words[0]}" if self.name == "benchmark" else self.name

    @property
    def overrides(self) -> list[str]:
        return [word for word in self.words if "=" in word and not word.startswith("-")]

    @property
    def several(self) -> bool:
        """A sweep of more than one job: ``-m`` alone is one."""
        lists = r"sweep=|model\.bins=\[.*\],\[|(data\.fold|loss\.aux_weight)=0,"
        return any(re.match(lists, word) for word in self.words)


def plan(shown: Shown) -> Plan | None:
    """How a command is run here; None for one of ``OTHERS``. Fails for one that is not covered."""
    words, starter = list(shown.words), []
    if words[0] in OTHERS:
        return None
    if words[0] == "srun":
        starter = [words.pop(0)]
    if words[0] == "torchrun":
        starter = words[: words.index("train.py")]
        words = ["pspnet-train", *words[len(starter) + 1 :]]
    if words[:2] == ["python", "train.py"]:
        words = ["pspnet-train", *words[2:]]
    name = words.pop(0).removeprefix("pspnet-")
    assert name in SCRIPTS, f"{shown} ({', '.join(shown.files)}): nothing in tests/test_commands.py covers it"
    chosen = next((word.partition("=")[2] for word in words if re.match(r"data=[\w/]", word)), None)
    if experiment := _experiment(words):
        chosen = experiment["data"]
    here = [found for word in words if (found := _here(name, word, chosen, shown)) is not None]
    why = next((ELSEWHERE[word] for word in shown.words if word in ELSEWHERE), None)
    if name == "workspace":
        why = "needs a login"
    return Plan(name, tuple(here), tuple(starter), why)


def _experiment(words: Iterable[str]) -> dict[str, str]:
    """What the experiment that a command names chooses of each group."""
    named = next((word.partition("=")[2] for word in words if word.startswith("experiment=")), None)
    if named is None:
        return {}
    content = yaml.safe_load((CONFIG_DIR / "experiment" / f"{named}.yaml").read_text())
    return {key.removeprefix("override /"): value for part in content["defaults"] for key, value in part.items()}


def _here(name: str, word: str, chosen: str | None, shown: Shown) -> str | None:
    """A word of a command as it is typed here; None for one that stands for nothing or for the default."""
    if word in ("...", "key=value", "model.KEY=...", "model=...", "data=...") and not (
        name in ("convert", "inspect") and word == "data=..."
    ):
        return None
    key, equals, value = word.partition("=")
    if word == "data=...":
        return "data=scenes"
    if key == "model.pretrained" and value.endswith("_v2.pth"):
        # semseg's ImageNet weights, of the full width; the run begins from random ones
        return None
    if key == "data.root":
        # scenes have no folder
        return f"data.root=sets/{chosen or 'camvid'}" if chosen or name == "evaluate" else None
    if name == "convert" and key == "weights" and value == "FILE":
        source = next(other for other in shown.words if other.startswith("source=")).partition("=")[2]
        return f"weights={source}{'.caffemodel' if source == 'caffe' else '.pth'}"
    if not equals:
        return re.sub(r"^runs/\d{4}-\d\d-\d\d/\S+$", "a_run", CALLED.get(word, word))
    if value == "...":
        return None
    if key == "output" and value == "DIR":
        return "output=out"
    return FEWER.get(word, f"{key}={CALLED.get(value, value)}")


SHOWN = shown_commands()
# Every command's help is read in tests/cli/test_help.py.
OURS = {str(shown): shown for shown in SHOWN if shown.words[0] not in OTHERS and "--help" not in shown.words}


# ------------------------------------------------------------------ all are composed


def test_commands_are_found_where_they_are_known_to_be() -> None:
    assert len(OURS) > 60
    assert "python train.py -m model.bins=[1],[1,2],[1,2,3,6]" in OURS
    assert "pspnet-export checkpoint=PATH format=safetensors" in OURS
    assert "torchrun --nproc_per_node=8 train.py data=ade20k data.root=..." in OURS


def composed(config: str, overrides: list[str], *, with_hydra: bool = False) -> DictConfig:
    register_schemas()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        # A conf/ in the folder where one stands is searched too; here it is that of the examples.
        search = [f"hydra.searchpath=[file://{EXAMPLES / 'conf'}]"]
        return compose(config, overrides=[*search, *overrides], return_hydra_config=with_hydra)


def single_jobs(overrides: list[str]) -> list[list[str]]:
    """The first and the last job of a grid on the command line, and of the recipe that it names."""
    ends: tuple[list[str], list[str]] = ([], [])
    for override in OverridesParser.create().parse_overrides([in_quotes(word) for word in overrides]):
        values = [override.value()]
        if override.is_sweep_override():
            values = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else [0.01]
        for end, value in zip(ends, (values[0], values[-1]), strict=True):
            end.append(f"{override.get_key_element()}={value}" if override.is_sweep_override() else override.input_line)
    return list(ends) if ends[0] != ends[1] else [ends[0]]


@pytest.mark.parametrize("text", OURS)
def test_every_command_composes(text: str) -> None:
    job = plan(OURS[text])
    assert job is not None
    launcher = next((word for word in job.words if word.startswith("hydra/launcher=")), "")
    plugin = {"slurm": "submitit", "ray_gpus": "ray", "side_by_side": "joblib"}.get(launcher.partition("=")[2])
    if plugin and importlib.util.find_spec(f"hydra_plugins.hydra_{plugin}_launcher") is None:
        pytest.skip(f"needs {plugin}: pip install 'pspnet-lightning[{plugin}]'")
    for overrides in single_jobs(job.overrides) if job.name == "train" else [job.overrides]:
        cfg = composed(job.config, overrides, with_hydra=job.name == "train")
        if job.name != "train":
            continue
        parameters = cfg.hydra.sweeper.get("params") or {}
        for each in single_jobs([f"{key}={value}" for key, value in parameters.items()]):
            composed("train", [*overrides, *each])


@pytest.mark.parametrize("text", [text for text, shown in OURS.items() if (job := plan(shown)) and job.elsewhere])
def test_what_cannot_run_here_is_built(text: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = plan(OURS[text])
    assert job is not None
    if job.starter[:1] == ("torchrun",):
        from torch.distributed.run import get_args_parser

        options = get_args_parser().parse_args([*job.starter[1:], "train.py"])
        assert options.rdzv_endpoint.endswith(":29500")
    if job.name != "train" or "hydra/launcher=ray_gpus" in job.words:
        return
    monkeypatch.chdir(workplace)
    (overrides, *_) = single_jobs([*job.overrides, "model.width=8"])
    # Of callbacks and loggers, whose folders only a run knows, nothing is needed.
    cfg: dict[str, Any] = {
        key: as_plain(value)
        for key, value in composed("train", overrides).items()
        if key not in ("callbacks", "logger")
    }
    for part in ("optimizer", "scheduler", "trainer"):
        check_keys(cfg[part], part)
    cfg["model"]["pretrained"] = False  # would be fetched
    data = build_data(cfg)
    assert build_module(cfg, data.spec, data=data).model.num_classes == data.spec.num_classes


# ------------------------------------------------------------------ those that can are run


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user's may be, with everything that the documents name."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in ("ade20k", "camvid", "cityscapes", "drive", "voc2012_aug"):
        MINIATURES[name](folder / "sets" / name)
    camvid_test(folder / "sets" / "camvid")
    for path in EXAMPLES.iterdir():
        (folder / path.name).symlink_to(path)
    for number in range(2):
        save(blocks([0, 3, 10], number), folder / "labels" / f"{number}.png")
    for number in range(10):
        label = blocks([0, 1], number)
        save(picture(label), folder / "sets" / "folder" / "images" / f"{number}.png")
        save(label, folder / "sets" / "folder" / "masks" / f"{number}.png")
        save(label, folder / "sets" / "folder" / "manual" / f"{number}_1stHO.png")
    shutil.copytree(folder / "sets" / "folder", folder / "sets" / "list")
    lines = [f"images/{number}.png masks/{number}.png\n" for number in range(10)]
    (folder / "sets" / "list" / "train.txt").write_text("".join(lines[:8]))
    (folder / "sets" / "list" / "val.txt").write_text("".join(lines[8:]))
    save(picture(blocks([0, 3, 10], 0)), folder / "photo.jpg")
    video = cv2.VideoWriter(str(folder / "drive.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5, (64, 48))
    for number in range(3):
        frame = picture(blocks([0, 3, 10], number))
        save(frame, folder / "frames" / f"{number}.jpg")
        video.write(np.ascontiguousarray(frame[..., ::-1]))
    video.release()
    data = ["data=camvid", f"data.root={folder / 'sets' / 'camvid'}", "data.crop_size=33"]
    write_checkpoint(folder / "best.ckpt", *data)
    (folder / "A.ckpt").symlink_to("best.ckpt")
    write_checkpoint(folder / "B.ckpt", *data, width=12)
    for name, shift in (("LABELS", 0), ("OTHERS", 5)):
        for number in range(2):  # of the validation split
            save(np.roll(blocks([0, 3, 10], number), shift, axis=1), folder / name / f"{number}.png")
    return folder


def camvid_test(root: Path) -> None:
    for number in range(2):
        label = blocks([0, 3, 10, 11], 10 + number)
        save(picture(label), root / "test" / f"{number}.png")
        save(label, root / "testannot" / f"{number}.png")


@pytest.fixture(scope="module")
def weights(workplace: Path) -> None:
    """The published weights' files, of the documents' names, drawn as ``named_weights`` says."""
    from named_weights import VECTORS, tensor

    for shapes, file, classes in (
        ("semseg_pspnet50_shapes.json", "train_epoch_100.pth", 150),
        ("semseg_pspnet50_shapes.json", "semseg.pth", 11),  # of the scenes
        ("mmseg_pspnet50_ade20k_shapes.json", "pspnet_r50-d8_512x512_80k_ade20k.pth", 150),
        ("mmseg_pspnet50_ade20k_shapes.json", "mmseg.pth", 11),
    ):
        content = {}
        for name, shape in json.loads((VECTORS / shapes).read_text()).items():
            if re.match(r"(module\.)?(cls\.4|aux\.4|decode_head\.conv_seg|auxiliary_head\.conv_seg)\.", name):
                shape = [classes, *shape[1:]]
            content[name] = tensor(name, tuple(shape))
        torch.save({"state_dict": content}, workplace / file)


def sized(job: Plan) -> list[str]:
    """The command's words and what makes it small."""
    given = {word.partition("=")[0] for word in job.words}
    sizes: list[str] = []
    if job.name == "train" and "--repeat" not in job.words:
        on_disk = any(word.startswith(("data=", "experiment=")) for word in job.words)
        sizes = [*TRAIN_SIZES, *(DISK_SIZES if on_disk else SCENES_SIZES), "data.num_workers=0"]
        sizes += [size for word in job.words for size in SWEEP_SIZES.get(word, [])]
        models = [word for word in job.words if word.startswith("model=")]
        models += [f"model={each}" for key, each in _experiment(job.words).items() if key == "model"]
        if any(not word.startswith("model=pspnet") for word in models):
            sizes.remove("model.width=8")  # of the paper's backbones
        # As many epochs as there are to the first validation.
        every = composed("train", single_jobs(job.overrides)[0]).trainer.check_val_every_n_epoch
        sizes = [f"data.epochs={every}" if size == "data.epochs=1" else size for size in sizes]
    elif job.name == "benchmark" and job.words[0] == "model":
        given |= {"depth", "classes"} if "checkpoint" in given else set()
        job = replace(job, words=tuple(word for word in job.words if not word.startswith("rounds=")))
        sizes = BENCHMARK_SIZES
        given.discard("rounds")
    elif job.name == "benchmark":
        sizes = ["images=3", "rounds=2", "crop_size=33", "width=45", "height=40"]
    elif job.name == "evaluate":
        sizes = ["data.num_workers=0"]
    return [*job.words, *(size for size in sizes if size.partition("=")[0] not in given)]


RUNNABLE = {text: job for text, shown in OURS.items() if (job := plan(shown)) and job.elsewhere is None}
# One of each kind, quick: the others are slow.
QUICK = {
    "python train.py",
    "python train.py debug=fdr",
    "python train.py data=folder data.root=... data.classes=[background,road]",
    "pspnet-inspect data=folder data.root=... data.classes=[background,road]",
    "pspnet-evaluate checkpoint=best.ckpt",
    "pspnet-predict checkpoint=best.ckpt input=photo.jpg output=out",
}


@pytest.mark.parametrize(
    "text", [pytest.param(text, marks=[] if text in QUICK else pytest.mark.slow) for text in RUNNABLE]
)
def test_it_runs_as_shown(
    text: str, command: Run, workplace: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    job = RUNNABLE[text]
    if job.name == "convert":
        request.getfixturevalue("weights")
        caffe = next((word for word in job.words if word.endswith(".caffemodel")), None)
        if caffe:
            pytest.skip("a .caffemodel is read in tests/models/test_convert_caffe.py")
    if "a_run" in job.words or "ckpt_path=last" in job.words:
        earlier = command("train", *TRAIN_SIZES, *SCENES_SIZES, "data.num_workers=0", at=str(tmp_path))
        assert earlier.returncode == 0, earlier.stderr
        (made,) = tmp_path.glob("runs/*/*")
        (tmp_path / "a_run").symlink_to(made)
    # Each command has a folder of its own, in which lies what the documents name.
    for path in workplace.iterdir():
        (tmp_path / path.name).symlink_to(path)
    words = sized(job)
    if job.starter:
        result = _under_torchrun(job, words, tmp_path)
    else:
        result = command(job.name, *words, timeout=420, at=str(tmp_path), WANDB_MODE="offline")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert "error" not in result.stderr.lower(), result.stderr
    if job.name == "train":
        runs = [path for path in tmp_path.glob("runs/**/run.json") if "a_run" not in path.parts]
        assert len(runs) >= (2 if job.several else 1)
    elif job.name in ("evaluate", "benchmark"):
        assert list(tmp_path.glob("runs/**/*.json")), "it says what it found in runs/"
    for word in job.words:
        if word.startswith("output="):
            assert (tmp_path / word.removeprefix("output=")).exists()


def _under_torchrun(job: Plan, words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    starter = [re.sub(r"^--nproc_per_node=\d+$", "--nproc_per_node=2", word) for word in job.starter[1:]]
    program = [sys.executable, "-m", "torch.distributed.run", *starter, str(REPOSITORY / "train.py"), *words]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(program, cwd=folder, env=variables, capture_output=True, text=True, timeout=420, check=False)


# ------------------------------------------------------------------ commands of others, and single names


@pytest.mark.parametrize("text", [str(shown) for shown in SHOWN if shown.words[0] in OTHERS])
def test_commands_of_others(text: str) -> None:
    program, *words = text.split(" ")
    if program == "pip":
        package, _, extras = words[-1].partition("[")
        assert package in (".", PROJECT["project"]["name"])
        for extra in filter(None, extras.rstrip("]").split(",")):
            assert extra in PROJECT["project"]["optional-dependencies"]
    elif program == "pytest":
        markers = {line.partition(":")[0] for line in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
        for place, word in enumerate(words):
            if word.startswith("tests/"):
                assert (REPOSITORY / word).exists()
            if words[place - 1] == "-m" and place:
                assert word in markers
            if words[place - 1] == "-k" and place:
                names = re.findall(
                    r"def (test_\w+)", "".join(map(Path.read_text, REPOSITORY.glob("tests/**/test_*.py")))
                )
                assert any(word in name for name in names)
    elif program == "bash":
        assert subprocess.run(["bash", "-n", REPOSITORY / words[0]], check=False).returncode == 0
    elif program == "wandb" and words[0] == "sweep":
        content = yaml.safe_load((REPOSITORY / words[1]).read_text())
        assert (REPOSITORY / content["program"]).is_file()
        given = [word for word in content["command"] if "=" in word]
        first = [f"{key}={_first(value)}" for key, value in content["parameters"].items()]
        composed("train", [*given, *first])
    elif program == "mkdocs":
        assert not words or (REPOSITORY / words[words.index("-f") + 1]).is_file()
    else:
        known = "\n".join(PROJECT["project"]["optional-dependencies"]["dev"] + PROJECT["project"]["dependencies"])
        assert program in known


def _first(parameter: dict[str, Any]) -> Any:
    return parameter["values"][0] if "values" in parameter else parameter["min"]


@pytest.mark.parametrize(("file", "text"), texts().items(), ids=list(texts()))
def test_every_command_and_option_that_is_named_exists(file: str, text: str) -> None:
    for name in re.findall(r"(?<![\w.])pspnet-([a-z]+)\b", text):
        assert name in SCRIPTS | {"lightning"}, f"pspnet-{name}"
    for group, options in re.findall(r"(?<![\w./])([a-z]\w*(?:/[a-z]\w*)*)=([a-z][\w/|]*)", text):
        if group in GROUPS:
            known = {path.relative_to(group_folder(group)).with_suffix("").as_posix() for path in _yamls(group)}
            for option in options.split("|"):
                examples = {path.stem for path in (EXAMPLES / "conf" / group).glob("*.yaml")}
                assert option in known | examples | PLUGINS.get(group, set()), f"{group}={option}"


PLUGINS = {"hydra/launcher": {"joblib", "submitit_slurm", "submitit_local", "ray", "basic"}, "hydra/sweeper": {"basic"}}


@lru_cache
def _yamls(group: str) -> list[Path]:
    return list(group_folder(group).rglob("*.yaml"))


@pytest.mark.parametrize(("file", "text"), texts().items(), ids=list(texts()))
def test_every_key_that_is_named_exists(file: str, text: str) -> None:
    for group, key in re.findall(r"(?<![\w./\-])(" + "|".join(sorted(GROUPS)) + r")\.(\w+)(?=[\w.]*=)", text):
        assert key in _keys(group) or key in ("KEY", "NAME"), f"{group}.{key}"


@lru_cache
def _keys(group: str) -> set[str]:
    found: set[str] = set()
    for path in _yamls(group):
        content = yaml.safe_load(path.read_text()) or {}
        found |= set(content) | set(content.get(group) or {})
    for path in CONFIG_DIR.glob("*.yaml"):
        found |= set(yaml.safe_load(path.read_text()).get(group) or {})
    return found
