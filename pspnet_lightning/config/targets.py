"""From a dotted name to the class or function, and from a node of a config to the object that it describes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any

# What a node says about its own building; every other key is an argument.
_SPECIAL = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")


def find_object(name: str) -> Any:
    """The object of a dotted name: the longest part that is a module is imported, the rest are attributes.

    Raises ImportError where there is none.
    """
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ImportError(f"{name!r} is no dotted name")
    found: Any = None
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            # What the module itself imports and is not installed is another matter.
            if length > 1 and error.name is not None and f"{module}.".startswith(f"{error.name}."):
                continue
            raise
        break
    for part in parts[length:]:
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ImportError(f"{module!r} has no {part!r}") from None
    return found


def construct(node: Mapping[str, Any], where: str, **extra: Any) -> Any:
    """Calls ``node['_target_']`` with the node's other keys and ``extra``; with ``_partial_`` it is called later.

    Arguments that are nodes with a ``_target_`` are built first. Such nodes are the user's own words: what comes out
    of a file passes ``trusted.check_trusted`` before, which leaves none. Errors of a wrong argument become ValueError.
    """
    nested = node.get("_recursive_", True)
    given = {key: value for key, value in node.items() if key not in _SPECIAL}
    options = {key: _argument(value, f"{where}.{key}") for key, value in given.items()} if nested else given
    positional = node.get("_args_", ())
    target = find_object(node["_target_"])
    arguments = [_argument(value, where) for value in positional] if nested else list(positional)
    if node.get("_partial_"):
        return partial(target, *arguments, **options, **extra)
    try:
        return target(*arguments, **options, **extra)
    except (TypeError, AttributeError, LookupError, AssertionError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{getattr(target, '__name__', where)}: {error}") from error


def _argument(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return construct(value, where)
        return {key: _argument(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_argument(item, f"{where}[{number}]") for number, item in enumerate(value)]
    return value
