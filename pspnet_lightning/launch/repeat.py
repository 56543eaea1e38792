"""`pspnet-train --repeat RUN`: the run again from its folder alone, and what is not as it was then."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from pspnet_lightning.config import CONFIG_DIR
from pspnet_lightning.config.trusted import check_trusted
from pspnet_lightning.launch.app import fail
from pspnet_lightning.launch.resume import typed
from pspnet_lightning.runs.checkout import DIFF
from pspnet_lightning.runs.checkpoint import read_checkpoint
from pspnet_lightning.runs.fields import record_of
from pspnet_lightning.runs.jobs import look_up
from pspnet_lightning.runs.plain_files import read_yaml
from pspnet_lightning.runs.record import read_record

# Where a config may name a file; relative to where the run was started.
_PATHS = ("data.root", "model.pretrained", "ckpt_path")


@contextmanager
def repeating(config_name: str) -> Iterator[None]:
    """Makes ``--repeat RUN`` in ``sys.argv`` into what Hydra knows: RUN's composed config as the primary one.

    It has the schema of ``config_name``, so that ``key=value`` words lay over it as ever, and begins from the start
    unless RUN continued a checkpoint of another run. Exits with a message where RUN has no ``.hydra/config.yaml``.
    """
    words = list(sys.argv)
    run, others = _take(words)
    if run is None:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        primary = {
            "defaults": [f"{config_name}_schema", "_self_"],
            **_config_of(run, _trust(others)),
            "repeats": str(run.resolve()),
            "hydra": yaml.safe_load((CONFIG_DIR / f"{config_name}.yaml").read_text())["hydra"],
        }
        OmegaConf.save(OmegaConf.create(primary), Path(folder) / "repeat.yaml")  # nothing is resolved
        typed[:] = words[1:]
        sys.argv[1:] = ["--config-dir", folder, "--config-name", "repeat", *others]
        try:
            yield
        finally:
            typed.clear()
            sys.argv[:] = words


def _take(words: list[str]) -> tuple[Path | None, list[str]]:
    for position, word in enumerate(words[1:], 1):
        if word == "--repeat":
            if position + 1 == len(words) or "=" in words[position + 1]:
                fail("--repeat needs the folder of the run to repeat")
            return Path(words[position + 1]), words[1:position] + words[position + 2 :]
        if word.startswith("--repeat="):
            return Path(word.partition("=")[2]), words[1:position] + words[position + 1 :]
    return None, words[1:]


def _trust(words: list[str]) -> list[str]:
    """``trust=[...]`` of the command line: it must be known before Hydra composes what it is about."""
    found: list[str] = []
    for word in words:
        if word.startswith("trust="):
            value = OverridesParser.create().parse_override(word).value()
            if not isinstance(value, list):
                fail(f"{word}: give a list of packages, trust=[mypackage]")
            found = [str(item) for item in value]
    return found


def _config_of(run: Path, trust: Sequence[str]) -> dict[str, Any]:
    """What the run was composed from, checked for what may be built from a file; ``${data.epochs}`` stays as it is."""
    file = run / ".hydra" / "config.yaml"
    if not file.is_file():
        fail(f"--repeat {run}: there is no {file}; give the folder of a run, or of one job of a sweep")
    try:
        config = check_trusted(read_yaml(file), trust=trust, references=True)
        hydra = read_yaml(run / ".hydra" / "hydra.yaml")
    except (OSError, ValueError) as error:
        fail(f"--repeat {run}: {file.parent}: {error}")
    if config.get("ckpt_path") in ("auto", "last"):
        config["ckpt_path"] = None
    if trust:
        config["trust"] = list(trust)
    else:
        config.pop("trust", None)  # whom the run trusted is for its user to say again
    started = look_up(hydra, "hydra.runtime.cwd")
    for key in _PATHS:
        *above, last = key.split(".")
        node = look_up(config, above[0]) if above else config
        value = node.get(last) if isinstance(node, dict) else None
        if isinstance(value, str) and isinstance(started, str):
            path = Path(started) / value
            if not Path(value).exists() and path.exists():
                node[last] = str(path)
    return config


def changes_since(run: Path, now: Mapping[str, Any], folder: Path) -> list[str]:
    """Sentences on data, packages and code that are not those of ``run``; ``now`` is the record of ``folder``."""
    written = read_record(run)
    if written is None:
        return [f"{run} has no run.json: data, packages and code cannot be compared"]
    then, lines = record_of(written), []
    if then["data"]["fingerprint"] != now["data"]["fingerprint"]:
        shown = [f"{record['data']['name']} {str(record['data']['fingerprint'])[:12]}" for record in (then, now)]
        lines.append(f"the data are not the same: {shown[0]} then, {shown[1]} now")
    lines += [
        f"{name} {value} then, {now['versions'].get(name)} now"
        for name, value in then["versions"].items()
        if str(now["versions"].get(name)) != value
    ]
    code = [then["git"]["commit"], (now["git"] or {}).get("commit")]
    patches = [(place / DIFF).read_bytes() if (place / DIFF).is_file() else b"" for place in (run, folder)]
    if code[0] != code[1] or patches[0] != patches[1]:
        remedy = f"git checkout {code[0]}" if code[0] else "it is not known"
        remedy += f" && git apply {shlex.quote(str(run / DIFF))}" if patches[0] else ""
        lines.append(f"the code is not the same; that of the repeated run: {remedy}")
    return lines


def compare_weights(run: Path, folder: Path) -> str:
    """One sentence on the last weights of both: the same bit for bit, or by how much they differ."""
    paths = [place / "checkpoints" / "last.ckpt" for place in (run, folder)]
    absent = [str(path) for path in paths if not path.is_file()]
    if absent:
        return f"weights are not compared: there is no {absent[0]}"
    first, second = (read_checkpoint(path) for path in paths)
    if first["global_step"] != second["global_step"]:
        return f"weights are not compared: {first['global_step']} steps then, {second['global_step']} now"
    one, other = first["state_dict"], second["state_dict"]
    different = [key for key in one if key not in other or not torch.equal(one[key], other[key])]
    if not different and one.keys() == other.keys():
        return f"weights after {first['global_step']} steps: the same, bit for bit, as {run}"
    largest = max(
        float((one[key].double() - other[key].double()).abs().max())
        for key in different
        if key in other and one[key].shape == other[key].shape
    )
    return f"weights after {first['global_step']} steps: {len(different)} of {len(one)} differ, by up to {largest:.3g}"
