"""What has been finished in an output folder, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pspnet_lightning.disk import naming

NAME = "manifest.jsonl"


class Manifest:
    """``manifest.jsonl``: a line for each run's settings and for each finished input.

    An input is done if it was finished with the same ``settings`` (checkpoint, protocol, outputs), has not changed
    since, and its outputs are there and were not written anew for something else. A torn last line, of a process that
    was killed, counts for nothing.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        text = json.dumps(settings, sort_keys=True)
        self.made_by = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._entries: dict[str, dict[str, Any]] = {}
        self._owners: dict[str, dict[str, Any]] = {}
        path = folder / NAME
        known = False
        for line in path.read_text().splitlines() if path.is_file() else ():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            known |= entry == {"run": self.made_by, "settings": settings}
            if "input" in entry:
                self._remember(entry)
        folder.mkdir(parents=True, exist_ok=True)
        torn = path.is_file() and not path.read_bytes().endswith(b"\n")
        self._file = path.open("a")
        if torn:
            self._file.write("\n")
        if not known:
            self._write({"run": self.made_by, "settings": settings})

    def is_done(self, path: Path) -> bool:
        entry = self._valid(path)
        return entry is not None and entry["finished"] and all((self.folder / name).exists() for name in entry["files"])

    def was_begun(self, path: Path) -> bool:
        """Whether what there is of this input's parts was made with these settings."""
        return self._valid(path) is not None

    def begin(self, path: Path, files: Sequence[Path]) -> None:
        """Notes that ``files`` (relative) are being written for an input of many parts."""
        self._add(path, files, finished=False)

    def finish(self, path: Path, files: Sequence[Path]) -> None:
        self._add(path, files, finished=True)

    def _valid(self, path: Path) -> dict[str, Any] | None:
        entry = self._entries.get(str(path.resolve()))
        if entry is None or {key: entry.get(key) for key in ("run", "size", "modified")} != self._state(path):
            return None
        return entry if all(self._owners[name] is entry for name in entry["files"]) else None

    def _state(self, path: Path) -> dict[str, Any]:
        status = path.stat()
        return {"run": self.made_by, "size": status.st_size, "modified": status.st_mtime_ns}

    def _add(self, path: Path, files: Sequence[Path], *, finished: bool) -> None:
        names = [file.as_posix() for file in files]
        entry = {"input": str(path.resolve()), **self._state(path), "files": names, "finished": finished}
        self._remember(entry)
        self._write(entry)

    def _remember(self, entry: dict[str, Any]) -> None:
        self._entries[entry["input"]] = entry
        for name in entry["files"]:
            self._owners[name] = entry

    def _write(self, entry: dict[str, Any]) -> None:
        with naming(self.folder / NAME):
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
