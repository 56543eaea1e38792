"""What a part of a network can do is asked as a protocol; what it cannot do is said in one sentence."""

from __future__ import annotations


def missing(thing: object, ability: type) -> list[str]:
    """The names of a protocol that ``thing`` lacks, methods with brackets."""
    names = {name: f"{name}()" if callable(member) else name for name, member in vars(ability).items()}
    names |= {name: name for name in ability.__annotations__}
    names["__call__"] = "forward()"
    public = [name for name in vars(ability) if not name.startswith("_")] + list(ability.__annotations__)
    if "__call__" in vars(ability) and not callable(thing):
        public.append("__call__")
    return [names[name] for name in dict.fromkeys(public) if not hasattr(thing, name)]


def demand(thing: object, ability: type, what: str) -> None:
    """Raises ValueError, which names the class of ``thing`` and what it lacks, where it has not the ``ability``.

    ``what``: who asks for it, the beginning of the sentence ("pspnet-explain").
    """
    if lacking := missing(thing, ability):
        raise ValueError(
            f"{what} needs {' and '.join(lacking)}, which {type(thing).__name__} has not; docs/extending.md says what "
            f"each part of a network may offer"
        )
