"""What a signature says about its arguments' values: a check of each, and its range in words.

The annotations are Python's own with the constraints of ``annotated_types``, which knows no framework:
``Annotated[int, Ge(1)]``, ``Literal["average", "max"]``, ``Sequence[float] | None``. pydantic checks values.
An annotation of another kind (a class, a callable) says nothing about a value of YAML, and is left alone.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union

import annotated_types as at
from pydantic import AllowInfNan, PydanticUserError, Strict, TypeAdapter, ValidationError, with_config
from pydantic_core import SchemaError
from typing_extensions import TypedDict, is_typeddict


class Wrong(ValueError):
    """A value outside its range."""


class Values(NamedTuple):
    """What an argument takes: ``type`` for pydantic, ``text`` for people ("a whole number of at least 1")."""

    type: Any
    text: str
    words: tuple[str, ...] = ()  # that it may be, for a misspelt one


def check(value: Any, values: Values) -> Any:
    """``value``, a whole number where a text belongs as that text. Raises ``Wrong`` with the range in words."""
    try:
        found = _plain(_adapter(values).validate_python(value))
    except ValidationError as error:
        if repr(texts := _as_texts(value)) != repr(value) and "number" not in values.text:
            return check(texts, values)
        infinite = isinstance(value, float) and not math.isfinite(value)
        raise Wrong(f"must be {values.text}{', and finite' if infinite else ''}") from error
    except (PydanticUserError, SchemaError, TypeError):
        return value  # a constraint that does not fit its type: somebody else's annotation, which says nothing
    # Otherwise as it was written: 1 is as good as 1.0.
    return value if found == value else found


def as_typed(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{as_typed(key)}: {as_typed(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_typed, value))}]"
    return str(value)


def parameters(target: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Annotation and default of each named parameter of a function or class; an unreadable annotation is ``Any``."""
    signature = inspect.signature(target)
    function = target.__init__ if inspect.isclass(target) else target
    function = inspect.unwrap(getattr(function, "func", function))  # of a partial, of a decorator
    names = getattr(function, "__globals__", None) or vars(sys.modules.get(target.__module__, typing))
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        name: (_evaluated(parameter.annotation, names), parameter.default)
        for name, parameter in signature.parameters.items()
        if parameter.kind not in kinds
    }


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, globalns=names, include_extras=True)["it"]
    except Exception:  # imported for type checkers only
        return Any


def _as_texts(value: Any) -> Any:
    """A folder of the name 2024 or a tag 7, which YAML takes for numbers. Of 1.10 the text would be lost."""
    if isinstance(value, list):
        return [_as_texts(item) for item in value]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


@functools.cache
def _adapter(values: Values) -> TypeAdapter[Any]:
    return TypeAdapter(values.type)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


# ---------------------------------------------------------------------- from annotations to Values


def values_of(annotation: Any) -> Values | None:
    """What an annotation says; None: nothing that is known here."""
    if scalar := next((values for kind, values in _SCALARS.items() if annotation is kind), None):
        return scalar
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _constrained(annotation)
    if origin is Literal:
        words = list(dict.fromkeys(as_typed(value) for value in arguments))
        return Values(annotation, _one_of(words), tuple(words))
    if origin in (Union, types.UnionType):
        return _joined([values_of(argument) for argument in arguments])
    if is_typeddict(annotation):
        return _mapping_of_keys(annotation)
    if origin is tuple and arguments[-1:] != (Ellipsis,):
        items = [item for item in map(values_of, arguments) if item is not None]
        if len(items) < len(arguments):
            return None
        kind = types.GenericAlias(tuple, tuple(item.type for item in items))
        return Values(kind, f"a list of {len(items)}: {', '.join(item.text for item in items)}")
    if annotation in _LISTS or origin in _LISTS:
        each = values_of(arguments[0]) if arguments else None
        if each is None:
            return Values(list[Any], "a list")
        return Values(types.GenericAlias(list, each.type), f"a list, each {each.text}", each.words)
    if annotation in _MAPPINGS or origin in _MAPPINGS:
        known = [values_of(argument) or _ANYTHING for argument in arguments] or [_ANYTHING, _ANYTHING]
        kind = types.GenericAlias(dict, tuple(values.type for values in known))
        return Values(kind, f"a mapping {{key: value}}, each key {known[0].text}, each value {known[1].text}")
    return None


_TEXT = Values(Annotated[str, Strict()], "a text")
_SCALARS: dict[Any, Values] = {
    None: Values(None, "null"),
    type(None): Values(None, "null"),
    bool: Values(Annotated[bool, Strict()], "true or false"),
    int: Values(Annotated[int, Strict()], "a whole number"),
    float: Values(Annotated[float, Strict(), AllowInfNan(False)], "a number"),
    str: _TEXT,
    Path: _TEXT,
}
_ANYTHING = Values(Any, "anything")
_LISTS = (list, tuple, Sequence, Collection, Iterable)
_MAPPINGS = (dict, Mapping)


def _one_of(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _joined(members: Sequence[Values | None]) -> Values | None:
    if None in members:
        return None
    known = [member for member in members if member is not None]
    # A number before a text: what may be either stays as it is.
    return Values(
        Union[*(member.type for member in known)],
        ", or ".join(member.text for member in known),
        tuple(word for member in known for word in member.words),
    )


def _mapping_of_keys(annotation: Any) -> Values | None:
    hints = typing.get_type_hints(annotation, include_extras=True)
    known = {key: values_of(hint) or _ANYTHING for key, hint in hints.items()}
    types_of = {key: values.type for key, values in known.items()}
    kind = TypedDict(annotation.__name__, types_of, total=False)  # type: ignore[misc]
    text = ", ".join(f"{key}: {values.text}" for key, values in known.items())
    return Values(with_config({"extra": "forbid"})(kind), f"a mapping {{{text}}}")


def _constrained(annotation: Any) -> Values | None:
    inner = values_of(annotation.__origin__)
    if inner is None:
        return None
    constraints: list[Any] = []
    for item in annotation.__metadata__:
        if isinstance(item, at.GroupedMetadata):
            constraints += list(item)
        elif isinstance(item, at.BaseMetadata):
            constraints.append(item)
    return Values(Annotated[inner.type, *constraints], _in_words(inner.text, constraints))


def _in_words(text: str, constraints: Sequence[Any]) -> str:
    limits: dict[str, Any] = {}
    told = []
    for item in constraints:
        if isinstance(item, at.Predicate):
            line = (item.func.__doc__ or item.func.__name__).strip().splitlines()[0].rstrip(".")
            told.append(line if line[:2].isupper() else line[0].lower() + line[1:])
        else:
            limits |= vars(item) if hasattr(item, "__dict__") else {n: getattr(item, n) for n in item.__slots__}
    if limits.get("min_length") or limits.get("max_length"):
        low, high = limits.get("min_length") or 0, limits.get("max_length")
        count = f"{low}" if low == high else f"at least {low}" if high is None else f"{low} to {high}"
        text = text.replace("a list", f"a list of {count}", 1).replace("a text", "a text that is not empty", 1)
    if "ge" in limits and "le" in limits:
        text += f" from {limits['ge']} to {limits['le']}"
    else:
        words = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
        parts = [f"{word} {limits[name]}" for name, word in words.items() if name in limits]
        text += "".join(f" {part}" if number == 0 else f" and {part}" for number, part in enumerate(parts))
    return ", ".join([text, *told])
