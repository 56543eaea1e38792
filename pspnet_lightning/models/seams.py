"""A part of a network by its name or from a class of the user's own: called with what its signature names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def make(choice: str | Callable[..., Any], known: Mapping[str, Callable[..., Any]], where: str, **offered: Any) -> Any:
    """Calls ``known[choice]``, or ``choice`` itself, with those of the ``offered`` arguments that it takes.

    What a ``functools.partial`` holds already is left to it. Raises ValueError for a name that is not known.
    """
    factory = known.get(choice) if isinstance(choice, str) else choice
    if factory is None:
        raise ValueError(
            f"{where}={choice!r} must be one of {', '.join(map(repr, known))}, or name a class: a dotted path, or a "
            f"node with _target_"
        )
    taken = names_taken(factory)
    return factory(**{name: value for name, value in offered.items() if name in taken})


def names_taken(factory: Callable[..., Any]) -> set[str]:
    """The arguments that a signature names, less what a ``functools.partial`` holds already."""
    return set(inspect.signature(factory).parameters) - set(getattr(factory, "keywords", {}))
