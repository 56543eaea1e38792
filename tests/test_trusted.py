"""Opening a file never runs it: what a config out of a file may build, and every reader held to it."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Run, list_arguments
from small_checkpoint import write_checkpoint

import pspnet_lightning
from pspnet_lightning import load
from pspnet_lightning.config import CONFIG_DIR
from pspnet_lightning.config.schemas import PRIMARIES
from pspnet_lightning.config.targets import find_object
from pspnet_lightning.config.trusted import ALLOWED, StoredConfig, check_trusted
from pspnet_lightning.export import write_weights

PACKAGE = Path(pspnet_lightning.__file__).parent
NETWORK = {"_target_": "pspnet_lightning.models.PSPNet", "bins": [1]}


def targets(node: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """(place, target) of each ``_target_`` in a config."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield place, node["_target_"]
        for key, value in node.items():
            if key != "hydra":  # never out of a file: --repeat takes this project's own
                yield from targets(value, f"{place}.{key}" if place else key)


def test_what_a_file_may_build_is_what_conf_names() -> None:
    named: dict[str, set[str]] = {}
    for path in CONFIG_DIR.rglob("*.yaml"):
        group = path.relative_to(CONFIG_DIR).parts[0]
        if group in ("hydra", "sweep"):
            continue
        content = yaml.safe_load(path.read_text())
        for place, target in targets(content, "" if path.parent == CONFIG_DIR or group == "experiment" else group):
            named.setdefault(re.sub(r"^(callbacks|logger)\..*", r"\1.*", place), set()).add(target)
    # What may stand at the parts of a network is in a user's configs, not in conf/.
    assert named == {place: set(names) for place, names in ALLOWED.items() if not place.startswith("model.")}


COMMAND = "open('ran', 'w').close()"
# (node "model", what the error says). Each would write the file "ran", or print a secret, under a recursive builder.
ATTACKS: dict[str, tuple[dict[str, Any], str]] = {
    "eval in a list": (
        {**NETWORK, "bins": [{"_target_": "builtins.eval", "_args_": [COMMAND]}]},
        r"model\.bins\[0\]\._target_: nothing is built here",
    ),
    "eval as an argument": (
        {**NETWORK, "bins": {"_target_": "builtins.eval", "_args_": [COMMAND]}},
        r"model\.bins\._target_: nothing is built here",
    ),
    "deep in an argument": (
        {**NETWORK, "bins": {"a": [{"b": {"_target_": "builtins.exec", "_args_": [COMMAND]}}]}},
        r"model\.bins\.a\[0\]\.b\._target_: nothing is built here",
    ),
    "write_text": (
        {**NETWORK, "bins": {"_target_": "pathlib.Path.write_text", "_args_": [{"_target_": "pathlib.Path"}, "x"]}},
        "nothing is built here",
    ),
    "the node itself": ({"_target_": "builtins.eval", "_args_": [COMMAND]}, r"'builtins\.eval' is Python's own"),
    "os.system": ({"_target_": "os.system", "command": "touch ran"}, r"'os\.system' is Python's own"),
    "shutil.copy": ({"_target_": "shutil.copy", "src": "a", "dst": "ran"}, "is Python's own"),
    "torch.load": ({"_target_": "torch.load", "f": "x", "weights_only": False}, r"trust=\[torch\] on the command line"),
    "a library": ({"_target_": "sympy.sympify", "_args_": [COMMAND]}, r"trust=\[sympy\] on the command line"),
    "our own function": (
        {"_target_": "pspnet_lightning.loggers.csv_logger", "save_dir": "ran"},
        r"known are: pspnet_lightning\.models\.build_pspnet",
    ),
    "through our own module": ({"_target_": "pspnet_lightning.models.pspnet.torch.load", "f": "x"}, "known are"),
    "no name": ({"_target_": "..os.system"}, "is no dotted name"),
    "no text": ({"_target_": {"_target_": "os.system"}}, "is no dotted name"),
    "_args_": ({**NETWORK, "_args_": [2]}, r"model\._args_: a config that comes from a file cannot have this key"),
    "_partial_": ({**NETWORK, "_partial_": True}, r"model\._partial_"),
    "_recursive_": ({**NETWORK, "_recursive_": True}, r"model\._recursive_"),
    "an environment variable": ({**NETWORK, "depth": "${oc.env:SECRET_HERE}"}, "an interpolation is not resolved"),
    "an escaped one": ({**NETWORK, "depth": r"\${oc.env:SECRET_HERE}"}, "an interpolation is not resolved"),
    "a nested one": ({**NETWORK, "depth": "${oc.decode:${oc.env:SECRET_HERE}}"}, "an interpolation is not resolved"),
    "a head of Python's own": ({**NETWORK, "head": {"_target_": "os.system"}}, r"model\.head\._target_='os\.s"),
    "somebody's fusion": ({**NETWORK, "fusion": {"_target_": "some.body"}}, r"model\.fusion\._target_='some"),
    "a part of a part": (
        {**NETWORK, "head": {"_target_": "pspnet_lightning.models.FCNHead", "stage": {"_target_": "builtins.eval"}}},
        r"model\.head\.stage\._target_: nothing is built here",
    ),
    "a tensor": ({**NETWORK, "depth": torch.zeros(1)}, "it is a Tensor"),
    "too deep": ({**NETWORK, "bins": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}, "nested more than 16 deep"),
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "good.ckpt"
    write_checkpoint(path)
    return path


def altered(checkpoint: Path, path: Path, **nodes: Any) -> Path:
    """The checkpoint with other nodes in its config."""
    content = torch.load(checkpoint, weights_only=True)
    content["pspnet_lightning"]["config"].update(copy.deepcopy(nodes))
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", ATTACKS)
def test_loading_refuses(name: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET_HERE", "50")
    node, message = ATTACKS[name]
    with pytest.raises(ValueError, match=message) as caught:
        load(altered(checkpoint, tmp_path / "bad.ckpt", model=node))
    assert "bad.ckpt" in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_description_in_a_safetensors_file_is_held_to_the_same(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    weights = {name.removeprefix("model."): value for name, value in content["state_dict"].items()}

    def described(text: str) -> Path:
        path = tmp_path / "a.safetensors"
        write_weights(weights, path, {"description": text, "batchnorm_folded": "false"})
        return path

    good = content["pspnet_lightning"]
    assert load(described(yaml.safe_dump(good))).model.num_classes == 11
    good["config"]["model"]["bins"] = {"_target_": "builtins.eval", "_args_": [COMMAND]}
    with pytest.raises(ValueError, match=r"model\.bins\._target_: nothing is built here"):
        load(described(yaml.safe_dump(good)))
    for text, message in (
        ("!!python/object/apply:os.system ['touch ran']", "is no YAML"),
        ("a: &a [x]\nb: [*a, *a]", r"has an alias \(\*name\): it is not read"),
        ("[" * 100_000, "nested more than 40 deep"),
        ("a: " + "x" * 2**20, "larger than 0.5 MiB"),
        ("[1]", "not a checkpoint|must be maps"),
    ):
        with pytest.raises(ValueError, match=message):
            load(described(text))


def test_an_own_class_is_opted_in_by_name(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "ownpackage.py").write_text(
        "import os\nfrom pspnet_lightning.models import PSPNet, build_pspnet\nfrom torch import load\n"
        "open('imported', 'w').close()\n\nclass Own(PSPNet):\n    def __init__(self, **options):\n"
        "        made = build_pspnet(**options)\n"
        "        super().__init__(made.backbone, made.head, made.aux_head)\n"
    )
    monkeypatch.chdir(tmp_path)
    node = torch.load(checkpoint, weights_only=True)["pspnet_lightning"]["config"]["model"]
    path = altered(checkpoint, tmp_path / "own.ckpt", model={**node, "_target_": "ownpackage.Own"})
    with pytest.raises(ValueError, match=r"""trust=\[ownpackage\] .*load\(path, trust=\("ownpackage",\)\)"""):
        load(path)
    assert not (tmp_path / "imported").exists(), "nothing is imported to find out"
    assert type(load(path, trust=("ownpackage",)).model).__name__ == "Own"
    # What the package imports is not its own; and a name that only begins alike is another package.
    for target, message in (
        ("ownpackage.os.system", "not one of ownpackage's own classes and functions: it comes from (posix|nt|os)"),
        ("ownpackage.load", r"it comes from torch\.serialization"),
        ("ownpackage2.Own", r"trust=\[ownpackage2\]"),
        ("ownpackage.Missing", "cannot be imported"),
    ):
        bad = altered(checkpoint, tmp_path / "bad.ckpt", model={**node, "_target_": target})
        with pytest.raises(ValueError, match=message):
            load(bad, trust=("ownpackage",))
    for name in ("os", "builtins", "a b", "", 3):
        with pytest.raises(ValueError, match="trust="):
            load(path, trust=(name,))  # type: ignore[arg-type]


def test_files_of_earlier_versions() -> None:
    old = {"_target_": "pspnet_lightning.losses.CrossEntropy", "label_smoothing": 0.1}
    assert check_trusted(old, "loss")["_target_"] == "pspnet_lightning.training.losses.CrossEntropy"
    for target in ("camvid.camvid", "benchmarks.ade20k", "own.folder"):
        new = check_trusted({"_target_": f"pspnet_lightning.data.{target}"}, "data")["_target_"]
        assert new in ALLOWED["data"]
        assert callable(find_object(new))
    with pytest.raises(ValueError, match="known are"):
        check_trusted({"_target_": "pspnet_lightning.losses.torch.load"}, "loss")


def test_what_may_be_built_is_there() -> None:
    for names in ALLOWED.values():
        assert all(callable(find_object(name)) for name in names)


def test_downloads_folders_and_references() -> None:
    node = {"_target_": "pspnet_lightning.data.public.ade20k", "root": "x", "download": True}
    assert check_trusted(node, "data")["download"] is False
    assert StoredConfig({"data": node}, "x")["data"]["download"] is False
    assert node["download"] is True

    partial = {"optimizer": {"_target_": "pspnet_lightning.training.optim.sgd", "_partial_": True, "lr": "${data.lr}"}}
    assert check_trusted(partial, references=True) == partial
    with pytest.raises(ValueError, match=r"optimizer\.lr: an interpolation"):
        check_trusted(partial)
    for text in ("${oc.env:HOME}", "${hydra:runtime.cwd}", "${data.lr}${now:%Y}", "${${a}}", "${a", "${.a}"):
        with pytest.raises(ValueError, match="an interpolation"):
            check_trusted({"tags": [text]}, references=True)

    def best(**options: str) -> dict[str, Any]:
        return {"callbacks": {"best": {"_target_": "pspnet_lightning.callbacks.RunCheckpoint", **options}}}

    folder = "${hydra:runtime.output_dir}"
    assert check_trusted(best(dirpath=f"{folder}/checkpoints", filename="best"), references=True)
    for options in (
        {"dirpath": "/home/somebody"},
        {"dirpath": f"{folder}/../other"},
        {"dirpath": f"{folder}/.ssh"},
        {"dirpath": "${data.root}"},
        {"filename": "../../other"},
    ):
        with pytest.raises(ValueError, match="below the new run's folder only"):
            check_trusted(best(**options), references=True)
    for key in ("hydra", "defaults"):
        with pytest.raises(ValueError, match=f"{key}: .* cannot say how it is composed"):
            check_trusted({key: {}}, references=True)


def test_what_nobody_builds_is_not_looked_at(checkpoint: Path, tmp_path: Path) -> None:
    path = altered(
        checkpoint, tmp_path / "a.ckpt", callbacks={"mine": {"_target_": "mypackage.Mine"}}, data={"_target_": "my.set"}
    )
    assert load(path).model.num_classes == 11


READERS = sorted(
    name for name, schema in PRIMARIES.items() if "checkpoint" in schema.__annotations__ and name != "train"
)


def test_the_commands_that_read_checkpoints() -> None:
    assert READERS == ["benchmark_model", "evaluate", "explain", "export", "predict"]
    assert all("trust" in PRIMARIES[name].__annotations__ for name in (*READERS, "train"))


@pytest.mark.parametrize("name", READERS)
def test_every_command_refuses(name: str, command: Run, checkpoint: Path, tmp_path: Path) -> None:
    altered(checkpoint, tmp_path / "bad.ckpt", model=ATTACKS["eval as an argument"][0])
    words = {"predict": ["input=image.png", "output=out"], "explain": ["output=out"]}.get(name, [])
    first = ["benchmark", "model"] if name == "benchmark_model" else [name]
    (tmp_path / "image.png").write_bytes(b"")
    result = command(*first, "checkpoint=bad.ckpt", *words, SECRET_HERE="50")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "error: checkpoint 'bad.ckpt': model.bins._target_: nothing is built here from a file" in result.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["evaluate", "explain"])
def test_the_data_node_is_held_to_the_same(name: str, command: Run, checkpoint: Path, tmp_path: Path) -> None:
    altered(checkpoint, tmp_path / "bad.ckpt", data={"_target_": "os.mkdir", "path": "ran", "crop_size": 33})
    result = command(name, "checkpoint=bad.ckpt", *(["output=out"] if name == "explain" else []))
    assert result.returncode == 1
    assert "data._target_='os.mkdir' is Python's own; it is never built from a file" in result.stderr
    assert not (tmp_path / "ran").exists()


def test_repeating_a_run_builds_what_a_file_may_build(command: Run, small_list: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    words = [*list_arguments(small_list), "hydra.run.dir=first", "trainer.fast_dev_run=true", "callbacks.best=null"]
    assert command("train", *words, "callbacks.last=null").returncode == 0
    good = yaml.safe_load((tmp_path / "first" / ".hydra" / "config.yaml").read_text())
    (run / ".hydra" / "hydra.yaml").write_text((tmp_path / "first" / ".hydra" / "hydra.yaml").read_text())

    def repeated(change: dict[str, Any], *others: str) -> Any:
        (run / ".hydra" / "config.yaml").write_text(yaml.safe_dump({**copy.deepcopy(good), **change}))
        return command("train", "--repeat", "run", "hydra.run.dir=again", *others, SECRET_HERE="secret")

    done = repeated({})
    assert done.returncode == 0, done.stderr
    own = {"callbacks": {**good["callbacks"], "mine": {"_target_": "faulty.CountGraphs"}}}
    evaluating = {"_target_": "builtins.eval", "_args_": [COMMAND]}
    for change, message in (
        ({"callbacks": {"a": evaluating}}, "callbacks.a._target_='builtins.eval' is Python's own"),
        ({"logger": {"a": evaluating}}, "logger.a._target_"),
        ({"trainer": {**good["trainer"], "profiler": evaluating}}, "trainer.profiler._target_: nothing is built"),
        ({"optimizer": {**good["optimizer"], "momentum": evaluating}}, "optimizer.momentum._target_: nothing is built"),
        ({"tags": ["${oc.env:SECRET_HERE}"]}, "tags[0]: an interpolation is not resolved"),
        ({"hydra": {"launcher": evaluating}}, "hydra: a config that comes from a file cannot say how"),
        ({"defaults": [{"override hydra/launcher": "x"}]}, "defaults: a config that comes from a file cannot say"),
        (own, "trust=[faulty] on the command line"),
    ):  # fmt: skip
        result = repeated(change)
        assert result.returncode == 1
        assert message in result.stderr, result.stderr
        assert "secret" not in result.stdout + result.stderr
        assert "Traceback" not in result.stderr
        assert not (tmp_path / "ran").exists()
    result = repeated(own, "trust=[faulty]")
    assert result.returncode == 0, result.stderr
    assert "graphs of rank 0" in result.stdout
    # What the user types is the user's own.
    typed = repeated({}, "+callbacks.mine._target_=faulty.CountGraphs")
    assert "graphs of rank 0" in typed.stdout, typed.stderr


# What may read or build what comes from elsewhere, and where it is used: whoever adds a place must say here why it is
# safe. `build` and `construct` take nodes that the user wrote or that went through `check_trusted`.
USES = {
    "torch.load": {"models/weight_files.py"},
    "yaml.load": {"runs/plain_files.py"},  # with its own safe loader
    "pickle.load": set(),
    "pickle.loads": set(),
    "hydra.utils.instantiate": set(),
    "OmegaConf.load": set(),
    "OmegaConf.resolve": set(),
}


def dotted(node: ast.expr) -> str:
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "?")


def test_every_reader_is_known() -> None:
    found: dict[str, set[str]] = {name: set() for name in USES}
    for path in PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and (name := dotted(call.func)) in found:
                found[name].add(path.relative_to(PACKAGE).as_posix())
                if name == "torch.load":
                    options = {item.arg: ast.unparse(item.value) for item in call.keywords}
                    assert options.get("weights_only") == "True", path
    assert found == USES
