"""Type and range of every value of a config, from the annotations of what it is for; checked before any work.

What a node builds says itself what it takes: the signature of its ``_target_``, the user's own classes too. The keys
at the top of a primary have their types in ``schemas``; what the wiring takes out of a node has its here.
"""

from __future__ import annotations

import copy
import difflib
import functools
import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Ge, Gt, Interval, MinLen
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from typing_extensions import TypedDict

from pspnet_lightning.config import schemas
from pspnet_lightning.config.annotations import Values, Wrong, as_typed, check, parameters, values_of
from pspnet_lightning.config.targets import find_object
from pspnet_lightning.sizes import CropSize

_MISSING = "???"
_NO_DEFAULT = inspect.Parameter.empty
_MAPPING = Values(dict, "a mapping {key: value}")
_NODE_OR_NULL = Values(dict | None, "a node with a _target_, or null")


class Recipe(TypedDict):
    """A data set's recipe: the batch and rate that belong together."""

    batch_size: Annotated[int, Ge(1)]
    lr: Annotated[float, Gt(0)]


class _Hydra(TypedDict):
    """What Hydra's ``instantiate`` reads in a node."""

    _target_: str
    _partial_: bool
    _recursive_: bool
    _convert_: Literal["none", "partial", "object", "all"]
    _args_: list[Any]


class _Data(TypedDict):
    """Keys of the ``data`` node that neither the source nor the data module takes."""

    crop_size: CropSize
    epochs: Annotated[int, Ge(1)]
    lr: Annotated[float, Gt(0)]
    recipe: Recipe
    folds: Literal[0] | Annotated[int, Ge(2)]


class _Model(TypedDict):
    """Keys of the ``model`` node beside the network's own arguments; its parts, where they are no nodes."""

    backbone: Annotated[str, MinLen(1)] | None
    head: Literal["pyramid", "fcn", "aspp", "uper"]
    fusion: Literal["concat", "sum", "gate", "attention"]
    auxiliary: bool
    in_channels: Annotated[int, Interval(ge=1, le=8192)] | None
    pretrained: bool | Annotated[str, MinLen(1)] | None
    init: Annotated[str, MinLen(1)] | None


class _Loss(TypedDict):
    """Keys of the ``loss`` node that the wiring reads."""

    class_weights: (
        Literal["balanced", "median_frequency", "enet"] | Annotated[list[Annotated[float, Ge(0)]], MinLen(1)] | None
    )


class _Factory(TypedDict):
    """Optimiser and schedule are built when there is a network."""

    _partial_: Literal[True]


def _picked(target: Callable[..., Any], *names: str) -> dict[str, Values | None]:
    known = parameters(target)
    return {name: values_of(known[name][0]) for name in names}


def _of_keys(keys: type) -> dict[str, Values | None]:
    return {name: values_of(hint) for name, hint in typing.get_type_hints(keys, include_extras=True).items()}


@functools.cache
def wiring() -> dict[str, dict[str, Values | None]]:
    """The path of a node -> values of keys that the wiring takes out of it or gives another meaning."""
    # Not above: a command without such a node imports neither Lightning nor training.
    from pspnet_lightning.data.folds import FoldSource
    from pspnet_lightning.data.reviewed import ReviewedSource
    from pspnet_lightning.training.datamodule import SegmentationDataModule
    from pspnet_lightning.training.module import SegmentationModule

    return {
        "data": {
            **_picked(SegmentationDataModule, "batch_size", "val_batch_size", "num_workers", "check", "overfit"),
            **_picked(FoldSource, "fold", "group"),
            **_picked(ReviewedSource, "exclude", "fix"),
            **_of_keys(_Data),
        },
        "model": _of_keys(_Model),
        "loss": {
            **_picked(SegmentationModule, "aux_weight", "reduction"),
            **_of_keys(_Loss),
        },
        "optimizer": _of_keys(_Factory),
        "scheduler": _of_keys(_Factory),
    }


_HYDRA = _of_keys(_Hydra)
WEIGHT = values_of(Annotated[float, Ge(0)])


class Place(NamedTuple):
    """One value of a config, and what it may be; ``values`` None: nothing is known of it."""

    key: str
    value: Any
    values: Values | None
    default: Any = _NO_DEFAULT

    def checked(self) -> Any:
        """The value, see ``annotations.check``. Raises ``Wrong`` with the key, the value and its range."""
        if self.values is None or self.value == _MISSING:
            return self.value
        if type(self.value) is type(self.default) and self.value == self.default:
            return self.value
        try:
            return check(self.value, self.values)
        except Wrong as error:
            items = self.value if isinstance(self.value, list) else [self.value]
            wrong = next((str(item) for item in items if str(item) not in self.values.words), "")
            close = difflib.get_close_matches(wrong, self.values.words, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise Wrong(f"{self.key}={as_typed(self.value)} {error}{hint}") from None


def check_config(cfg: DictConfig, config_name: str) -> None:
    """Checks every value of a composed primary; a whole number where a text belongs becomes that text, in place.

    Raises ValueError with every wrong key, its value and its range. Values that are still missing ("???") and those
    of which no annotation says anything are left alone.
    """
    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException:
        # What is interpolated is not there: a wrong value above it says more.
        as_written = places(OmegaConf.to_container(cfg, resolve=False), config_name)
        _checked(place for place in as_written if "${" not in str(place.value))
        raise
    for place, value in _checked(places(plain, config_name)):
        if value is not place.value:
            OmegaConf.update(cfg, place.key, value, force_add=True)


def _checked(found: Iterable[Place]) -> list[tuple[Place, Any]]:
    result, told = [], []
    for place in found:
        try:
            result.append((place, place.checked()))
        except Wrong as error:
            told.append(str(error))
    if told:
        raise ValueError("\n  ".join(told if len(told) == 1 else [f"{len(told)} values are wrong:", *told]))
    return result


def checked_node(node: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A plain node that builds its ``_target_``, its values checked; see ``check_config``."""
    result = copy.deepcopy(dict(node))
    for place in _of_node(node, where, target_of(node, where)):
        holder, *names = result, *place.key.removeprefix(f"{where}.").split(".")
        for name in names[:-1]:
            holder = holder[name]
        holder[names[-1]] = place.checked()
    return result


def target_of(node: Any, where: str) -> Callable[..., Any]:
    """What a node builds. Raises ValueError for a node without ``_target_`` or with one that cannot be imported."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ValueError(f"{where}: this node needs a _target_ (a class or function to build), it has {node!r}")
    name = node["_target_"]
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}._target_={as_typed(name)} must be the dotted name of a class or function")
    try:
        target = find_object(name)
    except Exception as error:
        raise ValueError(f"{where}._target_={name!r} cannot be imported: {error}") from error
    if not callable(target):
        raise ValueError(f"{where}._target_={name!r} is a {type(target).__name__}, not a class or function to build")
    return target


def places(plain: Any, config_name: str) -> Iterator[Place]:
    """Every value of a plain config that is composed of ``config_name``."""
    yield from _of_schema(plain, schemas.PRIMARIES[config_name], "")


@functools.cache
def _hints(schema: type) -> dict[str, Any]:
    return typing.get_type_hints(schema, include_extras=True)


def _of_schema(plain: Any, schema: type, prefix: str) -> Iterator[Place]:
    hints = _hints(schema)
    for item in fields(schema):
        key, value, hint = f"{prefix}{item.name}", plain.get(item.name, _MISSING), hints[item.name]
        kind = next((extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, schemas.Kind)), None)
        if is_dataclass(hint):
            if isinstance(value, Mapping):
                yield from _of_schema(value, typing.cast(type, hint), f"{key}.")
            else:
                yield Place(key, value, Values(dict, f"a mapping of {', '.join(part.name for part in fields(hint))}"))
        elif kind is schemas.Kind.NODES:
            yield Place(key, value, _MAPPING)
            for name, node in (value if isinstance(value, Mapping) else {}).items():
                yield Place(f"{key}.{name}", node, _NODE_OR_NULL)
                if isinstance(node, Mapping):
                    yield from _of_node(node, f"{key}.{name}", target_of(node, f"{key}.{name}"))
        elif kind in (schemas.Kind.NODE, schemas.Kind.OVERRIDES):
            yield Place(key, value, _MAPPING)
            if isinstance(value, Mapping):
                complete = kind is schemas.Kind.NODE or "_target_" in value
                yield from _of_node(value, key, target_of(value, key) if complete else None)
        elif kind is None:
            yield Place(key, value, values_of(hint))


def _of_node(node: Mapping[str, Any], where: str, target: Callable[..., Any] | None) -> Iterator[Place]:
    parameters_of = {} if target is None else known(target)
    wired = {**_HYDRA, **wiring().get(where, {})}
    for key, value in node.items():
        values, default = (wired[key], _NO_DEFAULT) if key in wired else parameters_of.get(key, (None, _NO_DEFAULT))
        if isinstance(value, Mapping) and "_target_" in value:
            yield from _of_node(value, f"{where}.{key}", target_of(value, f"{where}.{key}"))
            continue
        yield Place(f"{where}.{key}", value, values, default)
        if (where, key) == ("loss", "terms") and isinstance(value, Mapping):
            from pspnet_lightning.training.losses.terms import TERMS

            for name, options in value.items():
                known_of_term = (
                    {**known(typing.cast(Callable[..., Any], TERMS[name])), "weight": (WEIGHT, _NO_DEFAULT)}
                    if name in TERMS
                    else {}
                )
                for option, given in (options if isinstance(options, Mapping) else {}).items():
                    yield Place(f"loss.terms.{name}.{option}", given, *known_of_term.get(option, (None, _NO_DEFAULT)))


@functools.cache
def known(target: Callable[..., Any]) -> dict[str, tuple[Values | None, Any]]:
    """What each parameter takes, and its default."""
    from pspnet_lightning.config.lightning_ranges import RANGES

    named = parameters(target)
    for kind in reversed(inspect.getmro(target)) if inspect.isclass(target) else ():
        ranges = typing.get_type_hints(RANGES[kind], include_extras=True) if kind in RANGES else {}
        for name in ranges.keys() & named.keys():
            # A subclass may have said more itself.
            if typing.get_origin(named[name][0]) is not Annotated:
                named[name] = ranges[name], _NO_DEFAULT
    return {name: (values_of(annotation), default) for name, (annotation, default) in named.items()}
