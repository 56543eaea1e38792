"""Reads the `.wandb` file of a run: what W&B has on the disk, whether the run is over, still going or was killed."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# LevelDB's log format: blocks of 32 KiB; a record is one chunk ("full") or several ("first", "middle", "last").
_BLOCK = 32768
_HEAD = struct.Struct("<IHB")  # checksum, length, kind of the chunk
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_IDENTIFICATION = 7  # bytes at the start of the file: ":W&B", a magic number, a version


class RunFile:
    """A `.wandb` file that may still grow. ``records()`` yields what was added since it was last called.

    Stops in front of a record that is not whole: the writer's buffer ends anywhere, and so does a killed run's file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._position = _IDENTIFICATION
        self._last_step = -1

    def records(self) -> Iterator[Any]:
        """``wandb_internal_pb2.Record`` messages."""
        from wandb.proto import wandb_internal_pb2

        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            while (content := self._next(file)) is not None:
                record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
                record.ParseFromString(content)
                yield record

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the history, keys with dots for nested ones: {"_step": 9, "train/loss": 0.5, ...}."""
        for record in self.records():
            if record.WhichOneof("record_type") == "history":
                row = {
                    item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
                }
                row.setdefault("_step", record.history.step.num)
                yield row

    def last_step(self) -> int:
        """The step of the last row on the disk, -1 before the first."""
        for row in self.rows():
            self._last_step = max(self._last_step, int(row["_step"]))
        return self._last_step

    def _next(self, file: Any) -> bytes | None:
        parts, position = [], self._position
        while True:
            left = _BLOCK - position % _BLOCK
            if left < _HEAD.size:  # padding
                position += left
            file.seek(position)
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                return None
            checksum, length, kind = _HEAD.unpack(head)
            data = file.read(length)
            if len(data) < length or zlib.crc32(data, zlib.crc32(bytes([kind]))) != checksum:
                return None
            position += _HEAD.size + length
            parts.append(data)
            if kind in (_FULL, _LAST):
                self._position = position
                return b"".join(parts)


def run_files(folder: Path, run_id: str) -> list[Path]:
    """The files of one W&B run below a run folder, the oldest first: each resumption wrote another."""
    # Their folders begin with "offline-run-" or "run-", then comes the time.
    found = folder.glob(f"wandb/*run-*-{run_id}/run-{run_id}.wandb")
    return sorted(found, key=lambda path: path.parent.name.removeprefix("offline-"))
