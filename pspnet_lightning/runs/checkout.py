"""Which code a run ran: git's commit and what is not committed, asked so that no setting of the checkout runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DIFF = "diff.patch"
# Of files that git does not know yet, those that decide what runs.
_SOURCES = ("*.py", "*.yaml", "*.yml", "*.toml")
# A checkout's own .git/config may name programs that git starts: a monitor of files, hooks, helpers of a remote.
_SETTINGS = (
    "core.fsmonitor=",
    "core.hooksPath=/dev/null",
    "core.sshCommand=false",
    "core.gitProxy=",
    "credential.helper=",
    "protocol.allow=never",  # a partial clone would fetch what it lacks
    "color.ui=false",
    "core.quotePath=true",
    "diff.external=",
)
_VARIABLES = {"GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0", "GIT_PAGER": "cat", "GIT_OPTIONAL_LOCKS": "0"}
# The patch as `git apply` takes it, whatever the settings say of its looks. Of a submodule only its commit counts:
# for its files git would be asked again inside, with the settings there.
_DIFF = (
    "--binary",
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
    "--no-relative",
    "--no-renames",
    "--src-prefix=a/",
    "--dst-prefix=b/",
    "--ignore-submodules=dirty",
    "--submodule=short",
)
# Git LFS, which a checkout may well set up for itself; found on the user's own PATH.
_LFS = ("git-lfs clean -- %f", "git-lfs smudge -- %f", "git-lfs smudge --skip -- %f", "git-lfs filter-process", "true")


def code_state(folder: Path, package: Path) -> Mapping[str, Any] | None:
    """``commit``, ``dirty`` and ``diff_file``; the difference itself goes into ``<folder>/diff.patch``.

    The checkout is that of ``package`` where git knows its files, or else the one that the user stands in; None where
    there is none. ``dirty`` is None where git cannot tell the difference.
    """
    if shutil.which("git") is None:
        return None
    # An installed package may lie in a checkout that does not know it, below a virtual environment.
    tracked = _ask(package, "ls-files", "--error-unmatch", "__init__.py") is not None
    top = _ask(package if tracked else Path.cwd(), "rev-parse", "--show-toplevel")
    if top is None:
        return None
    root = Path(os.fsdecode(top.rstrip(b"\n")))
    commit = _ask(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    difference = _difference(root)
    if difference:
        (folder / DIFF).write_bytes(difference)
    else:
        (folder / DIFF).unlink(missing_ok=True)
    return {
        "commit": commit.decode().strip(),
        "dirty": None if difference is None else bool(difference),
        "diff_file": DIFF if difference else None,
    }


def _difference(root: Path) -> bytes | None:
    """``git diff HEAD`` with untracked sources as new files; the index itself is left alone. None where it fails."""
    index = Path(os.fsdecode((_ask(root, "rev-parse", "--git-path", "index") or b"").rstrip(b"\n")))
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "index"
        if (root / index).is_file():
            # With its time: a file that is not older than the index is compared by content, not by size and time.
            shutil.copy2(root / index, copy)
        untracked = _ask(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *_SOURCES) or b""
        names = [name for name in untracked.split(b"\0") if name]
        own = {"GIT_INDEX_FILE": str(copy)}
        if names and _ask(root, "add", "-N", "--", *names, variables=own) is None:
            return None
        return _ask(root, "diff", "HEAD", *_DIFF, variables=own)


def _ask(folder: Path, *words: str | bytes, variables: Mapping[str, str] | None = None) -> bytes | None:
    """What git answers, or None where it fails."""
    options = [word for setting in _SETTINGS for word in ("-c", setting)]
    own = {**os.environ, **_VARIABLES, **(variables or {})}
    done = subprocess.run(
        ["git", "-C", str(folder), *options, *words],
        env={**own, **_without_filters(folder, own)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    return done.stdout if done.returncode == 0 else None


def _without_filters(folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """Variables that switch off the filters which the checkout itself defines: git runs them on files to compare."""
    command = ["git", "-C", str(folder), "config", "--null", "--show-scope", "--get-regexp", r"^filter\."]
    answer = subprocess.run(command, env=dict(variables), stdin=subprocess.DEVNULL, capture_output=True).stdout
    fields = answer.split(b"\0")
    keys = set()
    for scope, pair in zip(fields[::2], fields[1::2], strict=False):
        key, _, value = os.fsdecode(pair).partition("\n")
        if scope in (b"local", b"worktree") and value not in _LFS:
            keys |= {f"{key.rpartition('.')[0]}.{last}" for last in ("clean", "smudge", "process")}
    begin = int(variables.get("GIT_CONFIG_COUNT") or 0)
    added = {"GIT_CONFIG_COUNT": str(begin + 2 * len(keys))} if keys else {}
    for number, key in enumerate(sorted(keys)):
        place = begin + 2 * number
        required = f"{key.rpartition('.')[0]}.required"
        added |= {f"GIT_CONFIG_KEY_{place}": key, f"GIT_CONFIG_VALUE_{place}": ""}
        added |= {f"GIT_CONFIG_KEY_{place + 1}": required, f"GIT_CONFIG_VALUE_{place + 1}": "false"}
    return added
