"""The words of a command line: `--help`, `--version` and a typo are answered before anything heavy is imported."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pspnet_lightning.config import CONFIG_DIR, nearest
from pspnet_lightning.config.help import help_text
from pspnet_lightning.config.schemas import HYDRA, register_schemas
from pspnet_lightning.launch.app import fail, in_quotes, message_of, user_errors
from pspnet_lightning.launch.user_folder import open_user_folder

BENCHMARKS = ("input", "model")
_HELP = ("--help", "-h")
_OPTIONS = {
    "--help, -h": "this page; with GROUP=OPTION beside it that option's keys",
    "--version": "the version",
    "--cfg job": "prints the composed configuration and does nothing",
    "--multirun, -m": "a sweep: every combination of KEY=A,B,C is a run",
    "--repeat RUN": "the run of that folder again, and what is not as it was; KEY=VALUE lays over it",
}
# Hydra's own, whose answers it gives itself.
_HYDRAS = (
    *("--hydra-help", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r", "--multirun", "-m", "-i", "--info"),
    *("--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"),
    "--experimental-rerun",
)
# By which torchrun, SLURM, or a user says that there are other processes: rank 0 answers, and tells them.
_STARTED_FROM_OUTSIDE = ("RANK", "MASTER_ADDR", "SLURM_PROCID")


def command_words(name: str, words: Sequence[str]) -> tuple[str, list[str]]:
    """The primary config of ``pspnet-<name> <words>``, and what Hydra is to read of the words.

    The first word of ``report`` and ``audit`` may be a folder; that of ``benchmark`` says what is measured, and is a
    ValueError where it says something else.
    """
    first, *rest = words or [""]
    if name == "benchmark":
        if not first:
            raise ValueError("pspnet-benchmark: say what is measured, input or model; --help shows both")
        if first not in BENCHMARKS:
            raise ValueError(f"pspnet-benchmark {first}: {nearest(first, BENCHMARKS)}")
        return f"benchmark_{first}", rest
    if (
        name in ("report", "audit")
        and first
        and not first.startswith("-")
        and (Path(first).exists() or "=" not in first)
    ):
        quoted = first.replace("\\", "\\\\").replace("'", "\\'")
        return name, [f"folder='{quoted}'", *rest]
    return name, list(words)


def answer(name: str, words: Sequence[str]) -> None:
    """Answers ``pspnet-<name> <words>`` and exits, if it asks for help or cannot be composed; else there is work."""
    if "--version" in words:
        print(f"pspnet-lightning {version('pspnet-lightning')}")
        raise SystemExit
    wants_help = any(word in _HELP for word in words)
    if not wants_help and any(variable in os.environ for variable in _STARTED_FROM_OUTSIDE):
        return
    config_name = "train"
    try:
        if wants_help and name == "benchmark" and words[0] not in BENCHMARKS:
            print("\n\n".join(_help(f"benchmark_{kind}", []) for kind in BENCHMARKS))
            raise SystemExit
        config_name, words = command_words(name, words)
        if wants_help:
            print(_help(config_name, [word for word in words if "=" in word and not word.startswith("-")]))
            raise SystemExit
        _check_options(name, words)
        if all(word in ("-m", "--multirun") for word in words if word.startswith("-")):
            cfg = _composed(config_name, [word for word in words if not word.startswith("-")])
            # Evaluate takes predictions instead of a checkpoint, and says so itself.
            for key in map(str, cfg) if name != "evaluate" else ():
                if OmegaConf.is_missing(cfg, key):
                    raise ValueError(f"{key} is required: give {key}=... on the command line; --help lists all keys")
    except user_errors() as error:
        if os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0"):
            raise
        fail(message_of(error, config_name))


def _check_options(name: str, words: Sequence[str]) -> None:
    known = {*_HYDRAS, *_HELP, "--version", *(("--repeat",) if name == "train" else ())}
    for word in words:
        if word.startswith("-") and (option := word.partition("=")[0]) not in known:
            raise ValueError(f"{option}: there is no such option; {nearest(option, known)}")


def _composed(config_name: str, overrides: list[str]) -> DictConfig:
    register_schemas()
    open_user_folder()
    with initialize_config_dir(str(CONFIG_DIR), **HYDRA):
        # Of a sweep its first job; whether there is to be one Hydra decides.
        parsed = OverridesParser.create().parse_overrides([in_quotes(word) for word in overrides])
        first = [_first(override) if override.is_sweep_override() else str(override.input_line) for override in parsed]
        return GlobalHydra.instance().config_loader().load_configuration(config_name, first, RunMode.RUN)


def _first(override: Override) -> str:
    key, value = str(override.input_line).partition("=")[0], override.value()
    return f"{key}={value.start if isinstance(value, IntervalSweep) else next(override.sweep_string_iterator())}"


def _help(config_name: str, overrides: list[str]) -> str:
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    # What is required is said to be, and composed of what all options share.
    missing = ["data=base"] if config_name == "convert" and "data" not in given else []
    cfg = _composed(config_name, [*missing, *overrides])
    choices: Mapping[str, Any] = cfg.hydra.runtime.choices
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    plain.pop("hydra")
    width = min(100, shutil.get_terminal_size().columns)
    options = {
        option: text for option, text in _OPTIONS.items() if config_name == "train" or option[2:5] not in ("mul", "rep")
    }
    return help_text(config_name, plain, dict(choices), options, width)
