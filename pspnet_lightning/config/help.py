"""What `--help` says of a command, out of the YAML: its comments are the meanings, its values the defaults.

The comment at the head of a primary says what the command does and shows it used; the comment beside a key says what
the key means, beside a group in the defaults list what the group is for ("not used ..." leaves it out). What a value
may be comes from the annotations, see ``ranges``.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pspnet_lightning.config.annotations import as_typed
from pspnet_lightning.config.folder import CONFIG_DIR
from pspnet_lightning.config.ranges import range_of, stored

# What options of a group share, none by itself; and what another program reads.
_NO_OPTIONS = {"data/base", "data/own", "model/base", "sweep/wandb"}
_COMMAND = re.compile(r"(python train\.py|pspnet-\w+)(?=$|\s)")
_COLUMN = 30
_GROUPS = "Groups: GROUP=OPTION takes another than the one in brackets; its keys stand below"
_KEYS = "Keys: KEY=VALUE, with their defaults; +KEY=VALUE adds what a node takes beside these"


def help_text(
    config_name: str,
    plain: Mapping[str, Any],
    choices: Mapping[str, str | None],
    options: Mapping[str, str],
    width: int,
) -> str:
    """The help of one command, ``width`` columns wide.

    Args:
        plain: its composed config, unresolved, without Hydra's own node.
        choices: the option taken in each group.
        options: "--name" -> what it does.
    """
    primary = CONFIG_DIR / f"{config_name}.yaml"
    said, examples = head(primary)
    groups = dict(_groups(primary))
    lines = [*_wrapped(said, width), "", "Examples", *(f"  {example}" for example in examples), "", "Options"]
    for option, meaning in options.items():
        lines += _entry(option, [meaning], width)
    lines.append("")
    if groups:
        lines += [
            *_wrapped(_GROUPS, width),
            "",
        ]
        for group, meaning in groups.items():
            lines += _entry(group, [meaning, _listed(options_of(group), choices.get(group))], width)
        lines.append("")
    lines += [
        *_wrapped(_KEYS, width),
        "",
    ]
    table = stored()
    section = ""
    for key, value, meaning in keys(config_name, plain, choices):
        top = key.partition(".")[0]
        if top != section and top in groups and (chosen := choices.get(top)):
            lines += ["", *_wrapped(f"{top}={chosen}: {' '.join(head(CONFIG_DIR / top / f'{chosen}.yaml')[0])}", width)]
        elif top != section and section in groups:
            lines.append("")
        section = top
        allowed = (range_of(table, config_name, plain, key) or "").replace(" that is not empty", "")
        shown = "... (required)" if value == "???" else as_typed(value)
        lines += _entry(f"{key}={shown}", [f"{meaning} ({allowed})" if allowed else meaning], width)
    return "\n".join(line.rstrip() for line in lines)


def head(path: Path) -> tuple[list[str], list[str]]:
    """The comment at the head of a YAML: what it says, and the commands that it shows."""
    said, shown = [], []
    for line in path.read_text().splitlines() if path.is_file() else ():
        if not line.startswith("#"):
            break
        text = line.lstrip("# ").rstrip()
        if _COMMAND.match(text):
            shown.append(text)
        elif not text.startswith("@package"):
            said.append(text)
    return said, shown


def keys(
    config_name: str, plain: Mapping[str, Any], choices: Mapping[str, str | None]
) -> Iterator[tuple[str, Any, str]]:
    """(key, value, meaning) of all that the command line may set; the meaning is empty where none is written."""
    primary = CONFIG_DIR / f"{config_name}.yaml"
    groups, own = dict(_groups(primary)), comments(primary)
    unused = {name for name, meaning in _defaults(primary) if meaning.startswith("not used")}
    meanings: dict[str, str] = {}
    for group, chosen in choices.items():
        if group in plain and chosen:
            meanings |= {f"{group}.{key}": text for key, text in _of_option(group, chosen).items()}
    meanings |= own
    alone = [key for key in plain if key not in groups and key not in unused]
    for top in [*alone, *(key for key in groups if key in plain and key not in alone)]:
        for key, value in _leaves(plain[top], top, meanings):
            yield key, value, meanings.get(key, "")
    written = yaml.safe_load(primary.read_text()).get("hydra", {})
    for key, value in _leaves({part: written[part] for part in ("run", "sweep") if part in written}, "hydra", {}):
        if key in own:
            yield key, value, own[key]


def comments(path: Path) -> dict[str, str]:
    """Dotted key -> the comment in its line."""
    text = path.read_text()
    lines = text.splitlines()
    found: dict[str, str] = {}

    def walk(node: yaml.Node | None, prefix: str) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            nested = isinstance(value, yaml.MappingNode) and not value.flow_style
            end = (key if nested or value.start_mark.line > key.start_mark.line else value).end_mark
            if match := re.match(r":?\s+#\s*(.*)", lines[end.line][end.column :]):
                found[name] = match[1]
            walk(value, f"{name}.")

    walk(yaml.compose(text), "")
    return found


def _of_option(group: str, option: str) -> dict[str, str]:
    """The comments of an option, with those of what it is made from."""
    path = CONFIG_DIR / group / f"{option}.yaml"
    if not path.is_file():
        return {}  # the user's own
    found: dict[str, str] = {}
    for part in (yaml.safe_load(path.read_text()) or {}).get("defaults", ()):
        if isinstance(part, str) and part != "_self_":
            found |= _of_option(group, part)
    return found | comments(path)


def groups_of(config_name: str) -> list[str]:
    """The groups that a command line may choose from."""
    return [group for group, _ in _groups(CONFIG_DIR / f"{config_name}.yaml")]


def _defaults(primary: Path) -> Iterator[tuple[str, str]]:
    """(group, comment) of a primary's defaults list."""
    for line in primary.read_text().splitlines():
        if match := re.match(r"  - (\w+): \S+(?:\s+# (.*))?$", line):
            yield match[1], match[2] or ""


def _groups(primary: Path) -> Iterator[tuple[str, str]]:
    yield from ((group, text) for group, text in _defaults(primary) if not text.startswith("not used"))
    if primary.stem == "train":
        yield "hydra/launcher", "what runs the jobs of a sweep; each but basic needs its extra: pip install ..."
        yield "hydra/sweeper", "what chooses the jobs of a sweep"


def options_of(group: str) -> list[str]:
    """What a command line may choose from; YAML files that are parts of others are not among them."""
    folder = CONFIG_DIR / group
    ours = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")}
    named = {option for option in ours if f"{group}/{option}" not in _NO_OPTIONS}
    return sorted(named | ({"basic"} if group.startswith("hydra/") else set()))


def _listed(options: list[str], chosen: str | None) -> str:
    return "  ".join(f"[{option}]" if option == chosen else option for option in options)


def _leaves(node: Any, prefix: str, meanings: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """What is set as one: a value, a mapping that has a meaning as a whole, a node whose target needs nothing."""
    if isinstance(node, Mapping) and set(node) == {"_target_"} and "." in prefix:
        yield prefix, node["_target_"].rpartition(".")[2]
    elif not isinstance(node, Mapping) or (prefix in meanings and "_target_" not in node) or not node:
        if not isinstance(node, Mapping) or prefix in meanings:
            yield prefix, node
    else:
        for key, value in node.items():
            if not str(key).startswith("_"):
                yield from _leaves(value, f"{prefix}.{key}", meanings)


def _entry(name: str, texts: list[str], width: int) -> list[str]:
    paragraphs = [line for text in texts for line in textwrap.wrap(text, max(20, width - _COLUMN))]
    room = len(name) + 4 <= _COLUMN
    first = [f"  {name}" + (f"{'':{_COLUMN - 2 - len(name)}}{paragraphs[0]}" if room and paragraphs else "")]
    return first + [f"{'':{_COLUMN}}{line}" for line in paragraphs[1 if room else 0 :]]


def _wrapped(said: list[str] | str, width: int) -> list[str]:
    return textwrap.wrap(said if isinstance(said, str) else " ".join(said), width)
