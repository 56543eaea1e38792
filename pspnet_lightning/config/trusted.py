"""What may be built from a file. Whatever config comes out of a file passes ``check_trusted`` before it is used."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from pspnet_lightning.config.targets import find_object


def _names(module: str, names: str) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for name in names.split())


_HEADS = _names("pspnet_lightning.models", "ASPPHead FCNHead PyramidHead UPerHead")
# The places of a config that may have a `_target_`, and what may stand there: what conf/ names, and nothing else.
# None of these runs what its arguments name; what they may download or write is bounded below.
ALLOWED: dict[str, frozenset[str]] = {
    "model": _names("pspnet_lightning.models", "build_pspnet"),
    "model.backbone": _names("pspnet_lightning.models", "ResNet TimmBackbone"),
    "model.head": _HEADS,
    "model.auxiliary": _HEADS,
    "model.fusion": _names("pspnet_lightning.models.fusion", "Attention Concat Gate Sum"),
    "loss": _names(
        "pspnet_lightning.training.losses",
        "BoundaryCrossEntropy CrossEntropy Dice Focal LovaszSoftmax OHEM Tversky weighted_sum",
    ),
    "data": _names("pspnet_lightning.data", "own.folder own.list_file scenes.scenes public.camvid.camvid")
    | _names(
        "pspnet_lightning.data.public",
        "ade20k cityscapes coco_stuff164k drive kvasir_seg loveda oxford_pet pascal_context potsdam vaihingen voc2012 "
        "voc2012_aug",
    ),
    "augment": _names("pspnet_lightning.data", "TrainTransform"),
    "optimizer": _names("pspnet_lightning.training.optim", "adamw sgd"),
    "scheduler": _names("pspnet_lightning.training.optim", "constant cosine poly"),
    "trainer": _names("lightning.pytorch", "Trainer"),
    "callbacks.*": _names("lightning.pytorch.callbacks", "RichModelSummary")
    | _names(
        "pspnet_lightning.callbacks",
        "MedianPruning RunCheckpoint RunResults StepCheckpoint Throughput ValidationPictures progress_bar",
    )
    | _names("pspnet_lightning.loggers", "Dashboard")
    | _names("pspnet_lightning.training", "ExponentialMovingAverage"),
    "logger.*": _names("pspnet_lightning.loggers", "csv_logger tensorboard_logger wandb_logger"),
}
# What files of earlier versions call these modules.
_EARLIER = {
    "pspnet_lightning.models.PSPNet": "pspnet_lightning.models.build_pspnet",
    "pspnet_lightning.callbacks.RunReport": "pspnet_lightning.callbacks.RunResults",
    "pspnet_lightning.losses.": "pspnet_lightning.training.losses.",
    "pspnet_lightning.optim.": "pspnet_lightning.training.optim.",
    "pspnet_lightning.data.benchmarks.": "pspnet_lightning.data.public.",
    "pspnet_lightning.data.camvid.": "pspnet_lightning.data.public.camvid.",
    "pspnet_lightning.callbacks.csv_logger": "pspnet_lightning.loggers.csv_logger",
    "pspnet_lightning.callbacks.tensorboard_logger": "pspnet_lightning.loggers.tensorboard_logger",
    "pspnet_lightning.callbacks.wandb_logger": "pspnet_lightning.loggers.wandb_logger",
    "pspnet_lightning.callbacks.Dashboard": "pspnet_lightning.loggers.Dashboard",
    "pspnet_lightning.callbacks.ExponentialMovingAverage": "pspnet_lightning.training.ExponentialMovingAverage",
}
# Places whose objects are made with the rest of their arguments later.
_PARTIAL = ("optimizer", "scheduler")
# Folders that a callback or a logger writes into: below the folder of the run that is started, wherever that is.
_FOLDERS, _FOLDER = ("dirpath", "save_dir"), re.compile(r"\$\{hydra:runtime\.output_dir\}(/[\w-][\w.-]*)*")
# Interpolations that ask nobody: another key of the same config, and the run's folder.
_REFERENCE = re.compile(r"\$\{(?:[A-Za-z_]\w*(?:\.\w+)*|hydra:runtime\.output_dir)\}")
_DEEPEST = 16


def check_trusted(node: Any, place: str = "", trust: Iterable[str] = (), *, references: bool = False) -> dict[str, Any]:
    """A node of a config that comes from a file, as plain types that can be built; a copy.

    ``place`` is where the node stands ("model"; "": it is the whole config). ``trust`` names packages or modules of
    the user's own whose classes and functions may stand in the same places. With ``references`` an interpolation may
    name another key of the config (``${data.epochs}``): for a config that is composed again.

    What the file says about downloads does not count: ``data.download`` becomes false.

    Raises ValueError for a ``_target_`` that is not in ``ALLOWED`` or that stands anywhere else, for ``_args_`` and its
    like, for every other interpolation (whose text is not shown), and for what is no plain type.
    """
    own = tuple(trust)
    for name in own:
        _check_trust(name)
    if not isinstance(node, Mapping):
        raise ValueError(f"{place or 'the config'} of a file must map keys to values; it is a {type(node).__name__}")
    checked: dict[str, Any] = _checked(node, place, own, references, 0)
    data = checked if place == "data" else checked.get("data") if not place else None
    if isinstance(data, dict) and "download" in data:
        data["download"] = False
    return checked


class StoredConfig(Mapping[str, Any]):
    """A config out of a file. Its nodes leave it through ``check_trusted`` only, each when it is asked for.

    What nobody asks for is not looked at: a checkpoint of a training with callbacks of the user's own predicts without
    them. ``origin`` is the file, for messages.
    """

    def __init__(self, content: Any, origin: str, trust: Iterable[str] = ()) -> None:
        if not isinstance(content, Mapping):
            raise ValueError(f"{origin}: its config must map keys to values; it is a {type(content).__name__}")
        self._content, self._origin, self._trust = content, origin, tuple(trust)

    def __getitem__(self, key: str) -> Any:
        try:
            return check_trusted({key: self._content[key]}, trust=self._trust)[key]
        except ValueError as error:
            raise ValueError(f"{self._origin}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def whole_numbers(self, node: str, key: str) -> list[int] | None:
        """The whole number or numbers that a node holds, None where there are none: data, whoever builds the node."""
        content = self._content.get(node)
        found = content.get(key) if isinstance(content, Mapping) else None
        numbers = found if isinstance(found, list) else [found]
        if not all(type(value) is int and value >= 0 for value in numbers):
            return None
        return list(numbers)

    def node(self, key: str) -> dict[str, Any]:
        """The node of a key. Raises ValueError where there is none."""
        found = self[key] if key in self._content else None
        if not isinstance(found, dict):
            raise ValueError(f"{self._origin}: its config has no node {key!r}")
        return found


def _checked(value: Any, place: str, trust: tuple[str, ...], references: bool, depth: int) -> Any:
    if depth > _DEEPEST:
        raise ValueError(f"{place[:60]}...: nodes are nested more than {_DEEPEST} deep")
    if isinstance(value, Mapping):
        if place == "" and (wrong := {"defaults", "hydra"} & {*value}):
            raise ValueError(f"{sorted(wrong)[0]}: a config that comes from a file cannot say how it is composed")
        for key in sorted(value, key=lambda key: key != "_target_"):
            if not isinstance(key, str | int):
                raise ValueError(f"{place}: a key is a {type(key).__name__}")
            if isinstance(key, str) and key.startswith("_"):
                _check_special(key, value[key], place, trust)
        checked = {
            key: _checked(item, f"{place}.{key}" if place else str(key), trust, references, depth + 1)
            for key, item in value.items()
        }
        if "_target_" in checked:
            checked["_target_"] = _present_name(checked["_target_"])
        return checked
    if isinstance(value, list | tuple):
        return [_checked(item, f"{place}[{number}]", trust, references, depth + 1) for number, item in enumerate(value)]
    if isinstance(value, str):
        _check_text(value, place, references)
    elif value is not None and not isinstance(value, bool | int | float):
        raise ValueError(f"{place}: it is a {type(value).__name__}, not text, a number, a list or a map")
    return value


def _check_special(key: str, value: Any, place: str, trust: tuple[str, ...]) -> None:
    if key == "_partial_" and value is True and place in _PARTIAL:
        return
    if key != "_target_":
        raise ValueError(f"{place}.{key}: a config that comes from a file cannot have this key")
    known = next((names for pattern, names in ALLOWED.items() if _matches(place, pattern)), None)
    if known is None:
        places = ", ".join(ALLOWED)
        raise ValueError(f"{place}._target_: nothing is built here from a file, only at {places}")
    if isinstance(value, str) and _present_name(value) in known:
        return
    shown = f"{value!r:.120}"
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", value):
        raise ValueError(f"{place}._target_={shown} is no dotted name")
    package = value.partition(".")[0]
    if any(value.startswith(f"{name}.") for name in trust):
        _check_owner(value, place, trust)
        return
    if package in sys.stdlib_module_names:
        raise ValueError(f"{place}._target_={shown} is Python's own; it is never built from a file")
    if package == "pspnet_lightning":
        raise ValueError(f"{place}._target_={shown} is not built from a file; known are: {', '.join(sorted(known))}")
    raise ValueError(
        f"{place}._target_={shown} is not built from a file: it is not one of this project's. If it is your own, or "
        f'you trust who wrote it: trust=[{package}] on the command line, load(path, trust=("{package}",)) in Python'
    )


def _present_name(name: str) -> str:
    for earlier, present in _EARLIER.items():
        if name.startswith(earlier):
            return present + name.removeprefix(earlier)
    return name


def _matches(place: str, pattern: str) -> bool:
    return place.count(".") == pattern.count(".") and fnmatchcase(place, pattern)


def _check_owner(name: str, place: str, trust: tuple[str, ...]) -> None:
    """A trusted module's names are also those that it imports: what counts is where the object was written."""
    try:
        found = find_object(name)
    except Exception as error:
        raise ValueError(f"{place}._target_={name!r} cannot be imported: {error}") from error
    home = f"{getattr(found, '__module__', None)}."
    if not callable(found) or not any(home.startswith(f"{own}.") for own in trust):
        raise ValueError(
            f"{place}._target_={name!r} is not one of {', '.join(trust)}'s own classes and functions: it comes from "
            f"{home[:-1]}"
        )


def _check_text(text: str, place: str, references: bool) -> None:
    last = place.rpartition(".")[2]
    if place.startswith(("callbacks.", "logger.")) and (
        (last in _FOLDERS and not _FOLDER.fullmatch(text)) or (last == "filename" and re.search(r"[/\\]", text))
    ):
        raise ValueError(f"{place}: a config that comes from a file writes below the new run's folder only")
    if "${" in (_REFERENCE.sub("", text) if references else text):
        raise ValueError(f"{place}: an interpolation is not resolved in a config that comes from a file")


def _check_trust(name: Any) -> None:
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise ValueError(f"trust={name!r}: give the names of packages or modules, trust=[mypackage]")
    if name.partition(".")[0] in sys.stdlib_module_names:
        raise ValueError(f"trust={name!r}: this is Python's own; a class of yours is in a package of yours")
