"""The command lines that README, docs and the headers of the YAML files show, read out of the text.

A command is known by its first word, wherever it stands: an indented or fenced block, code within a sentence, a
comment. Text may be moved about freely; nothing here knows a file or a line.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conftest import REPOSITORY

PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")))
CONFIGS = tuple(sorted((REPOSITORY / "conf").rglob("*.yaml")))
_FIRST = re.compile(
    r"(python3?|pspnet-\w+|torchrun|srun|sbatch|pip|pytest|ruff|mypy|bash|sh|wandb|mkdocs|pre-commit|docker|git|export|make)"
    r"(?=$|\s)"
)


@dataclass(frozen=True)
class Shown:
    """One command: its words, and the files that show it."""

    words: tuple[str, ...]
    files: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.words)


def shown_commands() -> list[Shown]:
    """Every command once; alternatives (``format=onnx|safetensors``) are commands each, what is optional is given."""
    found: dict[tuple[str, ...], dict[str, None]] = {}
    for path in (*PAGES, *CONFIGS):
        lines = _of_page(path.read_text()) if path.suffix == ".md" else _of_yaml(path.read_text())
        for line in lines:
            for words in _commands(line):
                found.setdefault(words, {})[path.relative_to(REPOSITORY).as_posix()] = None
    return [Shown(words, tuple(files)) for words, files in found.items()]


def _of_page(text: str) -> Iterator[str]:
    fenced = False
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or (re.match(r" {4}", line) and _FIRST.match(_typed(line))):
            yield _typed(line)
        else:
            # A console script alone is a name in a sentence.
            code = (words.strip() for words in re.findall(r"`([^`]+)`", line))
            yield from (words for words in code if not re.fullmatch(r"pspnet-\w+", words))


def _typed(line: str) -> str:
    return line.strip().removeprefix("$ ")


def _of_yaml(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.startswith("#"):
            # Prose stands beside a command at a distance.
            yield from re.split(r"\s{2,}", line.lstrip("# "))


def _commands(line: str) -> Iterator[tuple[str, ...]]:
    if not _FIRST.match(line):
        return
    for part in re.split(r"\s&&\s", line):
        words = shlex.split(part, comments=True)
        if words[0] in ("python", "python3") and (len(words) == 1 or not words[1].startswith(("train.py", "-m"))):
            continue
        yield from itertools.product(*(_alternatives(word) for word in words))


def _alternatives(word: str) -> list[str]:
    word = re.sub(r"^\[(?=[^\]]*=)(.*)\]$|^\[(?=[^\]]*=)(.*)$", lambda match: match[1] or match[2], word)
    key, equals, value = word.partition("=")
    if word.endswith("...]"):
        word = "..."
    if not equals or "|" not in value or not re.fullmatch(r"[\w.|*]+", value):
        return [word]
    return [f"{key}={one}" for one in value.split("|")]


def texts() -> dict[str, str]:
    """All that users read: pages, and the comments of the YAML files."""
    found = {path.relative_to(REPOSITORY).as_posix(): path.read_text() for path in PAGES}
    for path in CONFIGS:
        comments = (line.partition("#")[2] for line in path.read_text().splitlines())
        found[path.relative_to(REPOSITORY).as_posix()] = "\n".join(comments)
    return found


def group_folder(group: str) -> Path:
    return REPOSITORY / "conf" / group
