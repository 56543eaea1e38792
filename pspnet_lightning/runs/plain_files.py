"""JSON and YAML out of files that anybody may have written: data of a bounded size and depth, or an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import yaml

# A run's files are far smaller: a config of 171 classes has 20 kB, the results of the largest sweep 1 MB.
LARGEST = 16 * 2**20
LARGEST_YAML = 2**19  # it is parsed at 100 kB in a second
DEEPEST = 40


def read_text(path: str | Path, largest: int = LARGEST) -> str:
    """A file's text (UTF-8).

    Raises FileNotFoundError, and ValueError for what is no ordinary file (a pipe would be waited for, a device has no
    end), is larger than ``largest`` bytes, or is no text.
    """
    path = Path(path)
    if not path.is_file():
        if path.exists() or path.is_symlink():
            raise ValueError(f"{str(path)!r} is no ordinary file")
        raise FileNotFoundError(2, "there is no such file", str(path))
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"{str(path)!r} is larger than {largest / 2**20:g} MiB: it is not read")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is no text: {error}") from error


def read_json(path: str | Path, largest: int = LARGEST) -> Any:
    """A JSON file; raises as ``read_text`` and ``parse_json`` do."""
    return parse_json(read_text(path, largest), str(path))


def parse_json(text: str, origin: str) -> Any:
    """JSON text. Raises ValueError naming ``origin`` where it is none, or nested more than ``DEEPEST`` deep."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError(f"{origin!r} is nested more than {DEEPEST} deep: it is not read") from None
    except ValueError as error:
        raise ValueError(f"{origin!r} is no JSON: {error}") from error
    _check_depth(content, origin)
    return content


def read_yaml(path: str | Path) -> Any:
    """A YAML file; raises as ``read_text`` and ``parse_yaml`` do."""
    return parse_yaml(read_text(path, LARGEST_YAML), str(path))


def parse_yaml(text: str, origin: str) -> Any:
    """YAML text of plain types.

    Raises ValueError naming ``origin`` where it is none, is larger than ``LARGEST_YAML``, nested more than ``DEEPEST``
    deep, or has an alias, by which few bytes become a billion nodes.
    """
    if len(text) > LARGEST_YAML:
        raise ValueError(f"{origin!r} is larger than {LARGEST_YAML / 2**20:g} MiB: it is not read")
    try:
        return yaml.load(text, _Loader)
    except _RefusedError as error:
        raise ValueError(f"{origin!r} {error}: it is not read") from None
    except Exception as error:  # PyYAML raises whatever a constructor raises: !!bool x is a KeyError
        raise ValueError(f"{origin!r} is no YAML: {str(error).splitlines()[0] if str(error) else error!r}") from error


class _RefusedError(Exception):
    pass


class _Loader(yaml.SafeLoader):
    # A date is text here, as OmegaConf has it.
    yaml_implicit_resolvers: ClassVar = {
        first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise _RefusedError("has an alias (*name)")
        self.depth += 1
        if self.depth > DEEPEST:
            raise _RefusedError(f"is nested more than {DEEPEST} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _check_depth(content: Any, origin: str) -> None:
    level, depth = [content], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"{origin!r} is nested more than {DEEPEST} deep: it is not read")
        level = [
            item
            for value in level
            if isinstance(value, dict | list)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
