"""What every Hydra command shares: schemas, and errors a person can read instead of a stack trace."""

from __future__ import annotations

import functools
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pspnet_lightning.config import CONFIG_DIR, nearest
from pspnet_lightning.config.help import groups_of, options_of
from pspnet_lightning.config.schemas import HYDRA, register_schemas, top_level_keys
from pspnet_lightning.disk import DISK_FULL
from pspnet_lightning.launch.user_folder import open_user_folder
from pspnet_lightning.terminal import animated

if TYPE_CHECKING:
    from rich.progress import Progress


def user_errors() -> tuple[type[BaseException], ...]:
    """What a user can cause and mend. Anything else is a defect of ours and keeps its stack trace."""
    # Lightning's own can only have been raised where it is imported.
    lightning = sys.modules.get("lightning.fabric.utilities.exceptions")
    own = () if lightning is None else (lightning.MisconfigurationException,)
    return (ValueError, OSError, HydraException, OmegaConfBaseException, *own)


NOTHING_KEPT = "nothing is kept, the same command begins anew"
_kept: str | Callable[[], str] = NOTHING_KEPT


def keeping(what: str | Callable[[], str]) -> None:
    """What Ctrl-C leaves from now on and how to go on, for the one line that it ends with."""
    global _kept
    _kept = what


@contextmanager
def interruptible() -> Iterator[None]:
    """Lets Ctrl-C through: Lightning makes exit code 1 of it, and ignores it from then on."""
    from pspnet_lightning.runs.preempted import Preempted

    try:
        yield
    except SystemExit as stop:
        if isinstance(stop, Preempted):
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None


def run(config_name: str, task: Callable[[DictConfig], Any]) -> None:
    """Composes ``config_name`` from the command line and calls ``task``; exits with 1 and one message on an error.

    With ``HYDRA_FULL_ERROR=1`` in the environment the stack trace is shown.
    """
    full = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    os.environ["PSPNET_FULL_ERROR"] = str(int(full))  # for the other ranks of a job
    # Hydra would print errors its own way and exit: with this it raises, and the message is made here.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    register_schemas()
    open_user_folder()
    quiet()
    sys.argv[1:] = [in_quotes(word) for word in sys.argv[1:]]

    @functools.wraps(task)
    def guarded(cfg: DictConfig) -> Any:
        # Through Hydra an error would be said twice; of the jobs of a sweep their own wiring tells.
        try:
            return task(cfg)
        except user_errors() as error:
            if full or HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            fail(message_of(error, config_name))

    try:
        hydra.main(**HYDRA, config_path=str(CONFIG_DIR), config_name=config_name)(guarded)()
    except user_errors() as error:
        if full:
            raise
        fail(message_of(error, config_name))
    except KeyboardInterrupt:
        interrupted()


# Text with a {name} in it, but no quotes, interpolation or node.
_PLAIN = r"""[^\s,\[\]{}"'\\$:()]"""
_BRACED = re.compile(rf"(?:{_PLAIN}|\{{\w+\}})*(?:{_PLAIN}\{{\w+\}}|\{{\w+\}}{_PLAIN})(?:{_PLAIN}|\{{\w+\}})*")


def in_quotes(word: str) -> str:
    """``data.image_pattern=images/{stem}.jpg`` as Hydra takes it: to its grammar a brace within a value is an error."""
    key, _, value = word.partition("=")
    listed = value.startswith("[") and value.endswith("]")
    items = value[1:-1].split(",") if listed else [value]
    if not any(_BRACED.fullmatch(item) for item in items):
        return word
    quoted = ",".join(f"'{item}'" if _BRACED.fullmatch(item) else item for item in items)
    return f"{key}=[{quoted}]" if listed else f"{key}={quoted}"


def interrupted() -> NoReturn:
    """Ends the process as Ctrl-C does, in one line."""
    fail(f"interrupted; {_kept if isinstance(_kept, str) else _kept()}", status=130)


def fail(message: str, status: int = 1) -> NoReturn:
    """Prints one message and exits."""
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr)
    if status == 1:
        print("(HYDRA_FULL_ERROR=1 shows the stack trace)", file=sys.stderr)
    raise SystemExit(status)


def message_of(error: BaseException, config_name: str = "train") -> str:
    """The message of an error that a user can cause and mend, with the remedy where the library's own has none."""
    text = str(error).strip()
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1]
        hint = nearest(key, _known_keys(config_name))
        shown = hint if hint.startswith("did you") else "--help lists all keys"  # hundreds
        return f"{key}: there is no such key in the configuration; {shown}"
    if match := re.search(r"No supported (gpu) backend|`(CUDA|MPS)Accelerator` can not run", text):
        import torch  # which has said so; its version names what it was built for

        name = (match[1] or match[2]).lower()
        return (
            f"trainer.accelerator={name}: this machine has no such device that torch {torch.__version__} can use; "
            f"trainer=cpu takes its processor"
        )
    if match := re.search(r"Key '([^']+)' not in '(\w+Config)'", text):
        known = top_level_keys(config_name)
        return f"{match[1]}: there is no such key at the top of {config_name}.yaml; {nearest(match[1], known)}"
    if isinstance(error, OverrideParseException) and "=" not in error.override:
        return f"{error.override}: a setting is written KEY=VALUE, a choice GROUP=OPTION; --help lists them"
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override}: this cannot be read. A value with brackets, commas, colons or = in it is quoted twice: "
            f"'key=\"value\"'"
        )
    if match := re.search(r"You must specify '([\w/]+)'", text):
        return f"{match[1]} is required: give {match[1]}=OPTION, one of {', '.join(options_of(match[1]))}"
    if match := re.search(r"Missing mandatory value: (\S+)", text):
        return f"{match[1]} is required: give {match[1]}=... on the command line"
    if match := re.search(
        r"Could not find '([\w/]+)/([^/']+)'\s*Available options in '[^']+':\s*(.*)", text, re.DOTALL
    ):
        plugin = match[2].partition("_")[0]
        if match[1] == "hydra/launcher" and plugin in ("joblib", "submitit", "ray"):
            return f"{match[1]}={match[2]} needs its plugin: pip install 'pspnet-lightning[{plugin}]'"
        return f"{match[1]}={match[2]}: there is no such option; {nearest(match[2], _options(match[1], match[3]))}"
    if "Caught " in text and "Traceback" in text:
        # From a loader's worker process: the message is a stack trace whose last lines are the error.
        tail = re.split(r"\n(?:\w+\.)*\w*(?:Error|Exception): ", text)
        return tail[-1].strip()
    if isinstance(error, HydraException) and error.__cause__ is not None:
        if isinstance(error.__cause__, user_errors()):
            return message_of(error.__cause__, config_name)
        target = re.search(r"Error in call to target '(?:\w+\.)*(\w+)'", text)
        return f"{target[1] if target else text}: {error.__cause__}"
    # A message of our own says it all.
    if (
        isinstance(error, OSError)
        and error.errno in DISK_FULL
        and (error.filename or error.strerror == os.strerror(error.errno))
    ):
        file = error.filename or "a file in the output folder"
        return f"{error.strerror}: {file} is not written; make room and give the command again"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return text or type(error).__name__


def _options(group: str, told: str) -> set[str]:
    """What a group has to choose from: of ours the options, and out of Hydra's message what lies in other folders."""
    folder = CONFIG_DIR / group
    ours = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")}
    # After the options Hydra shows its search path.
    return set(options_of(group)) | (set(told.partition("Config search path")[0].split()) - ours)


def relative(path: str | Path) -> str:
    """A path relative to where the user stands, if it lies below."""
    try:
        return str(Path(path).resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def track(items: Iterable[Any], total: int, *, text: str) -> Iterable[Any]:
    """``items``, with a bar on standard error where that is a terminal."""
    return _tracked(items, text, total) if animated(sys.stderr) else items


def _tracked(items: Iterable[Any], text: str, total: int) -> Iterator[Any]:
    with bar() as progress:
        yield from progress.track(items, total=total, description=text)


def bar() -> Progress:
    """What is done, of how many, and the time left, on standard error; gone when it is over."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # What is printed meanwhile stays where it was sent: standard output may be a file.
    return Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=sys.stdout.isatty())


def _known_keys(config_name: str) -> list[str]:
    """Every dotted key of the config with the group choices of this command line."""
    choices = [word for word in sys.argv[1:] if re.fullmatch(r"[a-z]+=[\w/]+", word)]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR), **HYDRA):
        try:
            cfg = compose(config_name, overrides=choices)
        except Exception:
            cfg = compose(config_name)
    return groups_of(config_name) + _dotted(OmegaConf.to_container(cfg, resolve=False))


def _dotted(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    keys = []
    for key, value in node.items():
        keys.append(f"{prefix}{key}")
        keys += _dotted(value, f"{prefix}{key}.")
    return keys


def quiet() -> None:
    """Hushes what libraries warn about and this project has decided: the loaders' workers and checkpoint folders."""
    for message in (
        r".*does not have many workers.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*smaller than the logging interval.*",
        r".*LeafSpec.*",
        r".*isinstance\(treespec.*",
        r".*Experiment logs directory .* exists.*",
        r".*but have no logger configured.*",  # logger=none, which debug=fdr takes
    ):
        warnings.filterwarnings("ignore", message=message)
    # Devices found, checkpoints restored, tips: the screen belongs to the run. Warnings are still shown.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
