"""The record of a run, `run.json`: what was run, on which code and data, how it went. Written from rank 0 only."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import torch

from pspnet_lightning.disk import despite_full_disk
from pspnet_lightning.runs.checkout import code_state
from pspnet_lightning.runs.json_files import write_json
from pspnet_lightning.runs.plain_files import read_json
from pspnet_lightning.runs.preempted import Preempted

NAME = "run.json"
_PACKAGES = {
    "torch": "torch",
    "torchvision": "torchvision",
    "lightning": "lightning",
    "hydra": "hydra-core",
    "numpy": "numpy",
    "pspnet_lightning": "pspnet-lightning",
}


class RunRecord:
    """``with RunRecord(folder, ...) as record``: writes ``<folder>/run.json`` at the start and again at the end.

    ``status`` is ``running``, then ``finished``, ``stopped`` (by a limit, before there was a score), ``interrupted``
    (Ctrl+C), ``preempted`` or ``failed``; a run that was killed stays ``running``, with ``process`` telling which host
    and process that was. ``attempts`` and ``seconds`` go on counting from an earlier record in the folder where
    ``resumed``; seconds that a killed attempt trained after its last ``beat`` are lost. ``git`` is the checkout that
    this package runs from, or else the one the user stands in; its uncommitted changes (untracked sources among them)
    are in ``diff.patch``.

    With ``write=False``, on all ranks but the first, nothing is written. ``reason`` makes ``error`` of an exception,
    by default the kind and the message's last line.
    """

    def __init__(
        self,
        folder: Path,
        *,
        overrides: Sequence[str] = (),
        job: int | None = None,
        sweep: str | None = None,
        resumed: bool = False,
        command: Sequence[str] | None = None,
        write: bool = True,
        reason: Callable[[BaseException], str] | None = None,
    ) -> None:
        self.folder = folder
        self._reason = reason or last_line
        self.write = write
        earlier = (read_record(folder) if resumed else None) or {}
        self._earlier_seconds = float(earlier.get("seconds", 0.0))
        self._began = time.monotonic()
        self._stopped = False
        self.content: dict[str, Any] = {
            "status": "running",
            "error": None,
            "command": list(sys.argv if command is None else command),
            "overrides": list(overrides),
            "job": {"num": job, "sweep": sweep},
            "started": _now(),
            "ended": None,
            "seconds": self._earlier_seconds,
            "attempts": int(earlier.get("attempts", 0)) + 1,
            "process": {"host": platform.node(), "pid": os.getpid()},
            "peak_memory_bytes": {"host": 0, "device": None},
            "git": None,
            "versions": _versions(),
            "data": {"name": None, "fingerprint": None},
            "objective": {"name": None, "value": None},
        }

    def __enter__(self) -> Self:
        if self.write:
            self.content["git"] = code_state(self.folder, Path(__file__).resolve().parent)
            self._save()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = "stopped" if self._stopped else "finished"
        if isinstance(error, Preempted):
            status = "preempted"
        elif isinstance(error, KeyboardInterrupt):
            status = "interrupted"
        elif error is not None:
            status = "failed"
            self.content["error"] = self._reason(error)
        self.content.update(status=status, ended=_now())
        self._save()

    def set_data(self, name: str, fingerprint: str) -> None:
        """What the run trains on; see ``pspnet_lightning.data.fingerprint``."""
        self.content["data"] = {"name": name, "fingerprint": fingerprint}
        self._save()

    def set_objective(self, name: str, value: float) -> None:
        """What a sweep optimises; written with the end."""
        self.content["objective"] = {"name": name, "value": value}

    def stop(self) -> None:
        """The run ends by a limit of its own, before there is an objective; it can be resumed."""
        self._stopped = True

    def fail(self, message: str) -> None:
        """The end of a run whose process ends at once."""
        self.content.update(status="failed", error=message, ended=_now())
        self._save()

    def beat(self) -> None:
        """Brings seconds and peak memory up to date; for a run that may be killed."""
        self._save()

    def _save(self) -> None:
        if not self.write:
            return
        self.content["seconds"] = round(self._earlier_seconds + time.monotonic() - self._began, 3)
        self.content["peak_memory_bytes"] = {
            # Linux counts in KiB, macOS in bytes.
            "host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            "device": torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None,
        }
        with despite_full_disk(self.folder / NAME):
            write_json(self.content, self.folder / NAME)


def last_line(error: BaseException) -> str:
    """The kind of an error and the last line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


def read_record(folder: str | Path) -> dict[str, Any] | None:
    """The record in a run's folder, or None where there is none that can be read."""
    try:
        content = read_json(Path(folder) / NAME)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name, package in _PACKAGES.items():
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[name] = None
    # OpenCV goes by several package names.
    return {**found, "opencv": cv2.__version__, "cuda": torch.version.cuda}
