"""What a run's files say, field by field: each of the type that it has to be, or as if it were not there."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

# Beyond this a number is no score, no time and no size, and arithmetic with it overflows.
_LARGEST = 1e100
_LONGEST = 10_000
# What no name or message has: control characters, by which text moves a terminal's cursor or turns round a line, and
# halves of characters, which cannot be written to a file.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def finite(value: Any) -> float | None:
    """``value`` as a float, None where it is no finite number."""
    if isinstance(value, bool):
        return float(value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) <= _LARGEST else None


def number_at(content: Mapping[str, Any], path: str) -> float:
    """The number at ``surface.hd95`` or ``iou.3`` of results.json; not-a-number where null stands.

    Raises ValueError, naming what is there, where no number is.
    """
    found: Any = content
    for number, part in enumerate(path.split("."), start=1):
        inner = dict(enumerate(found)) if isinstance(found, list) else found
        known = {str(key): value for key, value in inner.items()} if isinstance(inner, Mapping) else {}
        if part not in known:
            there = ".".join(path.split(".")[: number - 1]) or "results.json"
            named = ", ".join(list(known)[:40]) or "one value alone"
            raise ValueError(f"objective=results.{path}: {there} has no {part!r}; it has {named}")
        found = known[part]
    if found is not None and finite(found) is None:
        raise ValueError(f"objective=results.{path} is no number; give one of it, such as results.{path}.0")
    return math.nan if found is None else float(found)


def whole(value: Any) -> int | None:
    """``value`` as an int of at least 0, None where it is none."""
    number = finite(value)
    return int(number) if number is not None and number >= 0 and number == int(number) else None


def text(value: Any) -> str | None:
    """Text on one line, what cannot be printed as an escape; None for anything but text."""
    return printable(value) if isinstance(value, str) else None


def texts(value: Any) -> list[str]:
    """The text in a list; empty for anything but a list."""
    return [printable(item) for item in value if isinstance(item, str)] if isinstance(value, list) else []


def node(value: Any) -> Mapping[str, Any]:
    """A map; empty for anything else."""
    return value if isinstance(value, Mapping) else {}


def printable(value: str) -> str:
    """Text that may be printed, at most 10,000 characters of it."""
    shown = value[:_LONGEST] + ("..." if len(value) > _LONGEST else "")
    return _UNPRINTABLE.sub(_escaped, shown)


def _escaped(match: re.Match[str]) -> str:
    character = match[0]
    return " " if character in "\n\t" else character.encode("unicode_escape").decode()


def cell(value: Any) -> Any:
    """A cell of a CSV: text that a spreadsheet would compute is marked as text."""
    if not isinstance(value, str):
        return value
    shown = printable(value)
    return f"'{shown}" if shown.lstrip()[:1] in ("=", "+", "-", "@") else shown


def record_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """run.json as far as it is read again."""
    found: dict[str, Any] = {
        "status": text(content.get("status")),
        "error": text(content.get("error")),
        "overrides": texts(content.get("overrides")),
        "seconds": finite(content.get("seconds")),
        "attempts": whole(content.get("attempts")),
        "objective": {
            "name": text(node(content.get("objective")).get("name")),
            "value": finite(node(content.get("objective")).get("value")),
        },
        "peak_memory_bytes": {
            key: whole(node(content.get("peak_memory_bytes")).get(key)) for key in ("host", "device")
        },
        "data": {key: text(node(content.get("data")).get(key)) for key in ("name", "fingerprint")},
        "git": {"commit": _commit(node(content.get("git")).get("commit"))},
        "versions": {
            printable(str(key)): printable(str(value)) for key, value in node(content.get("versions")).items()
        },
    }
    return found


def results_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """results.json as far as it is read again: ``split``, scores, and ``iou``, ``classes``, ``palette`` by class."""
    found: dict[str, Any] = {key: finite(value) for key, value in content.items() if finite(value) is not None}
    found["split"] = text(content.get("split")) or "val"
    found["classes"] = texts(content.get("classes"))[:256]
    iou = content.get("iou")
    found["iou"] = [finite(value) for value in iou[:256]] if isinstance(iou, list) else []
    palette = content.get("palette")
    found["palette"] = [_colour(item) for item in palette[:256]] if isinstance(palette, list) else []
    return found


def _commit(value: Any) -> str | None:
    """It stands in a command that is shown to be typed."""
    return value if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{7,64}", value) else None


def _colour(value: Any) -> tuple[int, int, int]:
    parts = [whole(part) for part in value[:3]] if isinstance(value, list) else []
    red, green, blue = (min(part or 0, 255) for part in (*parts, 0, 0, 0)[:3])
    return red, green, blue
