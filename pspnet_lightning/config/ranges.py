"""What every value may be, in words, for `--help`: a table in ranges.json, made of the annotations.

The annotations stand on classes that import torch and Lightning; who asks for help does not wait for those. A test
compares the table with them; after a change of an annotation this writes it anew:

    python -m pspnet_lightning.config.ranges
"""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from pspnet_lightning.config.folder import CONFIG_DIR

_FILE = Path(__file__).with_suffix(".json")
Table = dict[str, dict[str, str]]


def stored() -> Table:
    """By a primary's name, a node's place ("data") or its ``_target_``: key -> what its value may be."""
    table: Table = json.loads(_FILE.read_text())
    return table


def range_of(table: Table, config_name: str, plain: Mapping[str, Any], key: str) -> str | None:
    """What the value at ``key`` of a plain composed config may be; None: nothing is known of it."""
    if (text := table[config_name].get(key)) is not None:
        return text
    names = key.split(".")
    for length in range(len(names) - 1, 0, -1):
        node: Any = plain
        for name in names[:length]:
            node = node.get(name, {})
        if isinstance(node, Mapping) and "_target_" in node:
            rest = ".".join(names[length:])
            where = ".".join(names[:length])
            return table.get(where, {}).get(rest) or table.get(str(node["_target_"]), {}).get(rest)
    return None


def from_annotations() -> Table:
    """The table, read from what the configs name; takes the seconds of their imports."""
    from pspnet_lightning.config import schemas
    from pspnet_lightning.config.targets import find_object
    from pspnet_lightning.config.values import WEIGHT, known, wiring
    from pspnet_lightning.training.losses.terms import TERMS

    table: Table = {name: dict(_of_schema(schema, "")) for name, schema in schemas.PRIMARIES.items()}
    for where, keys in wiring().items():
        table[where] = {name: values.text for name, values in keys.items() if values is not None}
    files = [path for path in CONFIG_DIR.rglob("*.yaml") if path.relative_to(CONFIG_DIR).parts[0] != "hydra"]
    contents = [yaml.safe_load(path.read_text()) for path in files]
    written = {key for content in contents for key in _keys(content)}
    for target in {target for content in contents for target in _targets(content)}:
        found = known(find_object(target))
        table[target] = {
            key: values.text for key, (values, _) in found.items() if values is not None and key in written
        }
    table["pspnet_lightning.training.losses.weighted_sum"] |= {
        f"terms.{term}.{name}": values.text
        for term, kind in TERMS.items()
        for name, (values, _) in {"weight": (WEIGHT, None), **known(typing.cast(Callable[..., Any], kind))}.items()
        if values is not None and name != "ignore_index"
    }
    return {name: keys for name, keys in table.items() if keys}


def _of_schema(schema: type, prefix: str) -> Iterator[tuple[str, str]]:
    from pspnet_lightning.config.annotations import values_of
    from pspnet_lightning.config.schemas import Kind

    hints = typing.get_type_hints(schema, include_extras=True)
    for item in fields(schema):
        if is_dataclass(hint := hints[item.name]):
            yield from _of_schema(typing.cast(type, hint), f"{prefix}{item.name}.")
        elif not any(isinstance(extra, Kind) for extra in getattr(hint, "__metadata__", ())):
            values = values_of(hint)
            assert values is not None, f"{schema.__name__}.{item.name}"
            yield f"{prefix}{item.name}", values.text


def _keys(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield str(key)
            yield from _keys(value)


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)


if __name__ == "__main__":
    _FILE.write_text(json.dumps(from_annotations(), indent=1, sort_keys=True) + "\n")
    print(f"written: {_FILE}")
