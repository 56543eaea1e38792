"""Locks on what a command writes: two processes do not write one run, one sweep or one file at a time.

The lock is a small file, ``.lock`` in a folder or ``.NAME.lock`` beside a file, that names its holder. It counts only
while that process lives: the system lets go of it when a process ends, however it ends. It is a POSIX lock: the
loaders that a killed process leaves behind do not hold it, and it works over NFS.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

PATIENCE = 1.0  # seconds: a process that was killed may take some to be gone
# A file system without locks, or one that is read only: what is not writable says so where it is written.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EROFS, errno.EACCES, errno.EPERM)


_held: dict[Path, int] = {}  # by which process: a forked one holds nothing


class Lock:
    """Held until ``release`` or the end of this process; see ``lock``."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path, self._handle = path, handle

    def release(self) -> None:
        """Lets go, and removes the file. No effect where nothing is held."""
        if self._handle >= 0:
            _held.pop(self._path, None)
            self._path.unlink(missing_ok=True)  # while it is held: whoever waits sees that this file is gone
            os.close(self._handle)
            self._handle = -1


@contextmanager
def locked(target: Path, what: str, remedy: str = "", *, patience: float | None = None) -> Iterator[None]:
    """``lock`` as a context."""
    held = lock(target, what, remedy, patience=patience)
    try:
        yield
    finally:
        held.release()


def lock(target: Path, what: str, remedy: str = "", *, patience: float | None = None) -> Lock:
    """Locks a folder, which must exist, or a file, which need not.

    ``what`` names it in messages ("run folder 'runs/1'"). Where the file system has no locks nothing is held. Raises
    ValueError, naming the process that holds it and ``remedy``, after ``patience`` seconds, by default
    ``PATIENCE``.
    """
    path = (target / ".lock" if target.is_dir() else target.with_name(f".{target.name}.lock")).absolute()
    end = f"; wait for it, or end it{f', or {remedy}' if remedy else ''}"
    if _held.get(path) == os.getpid():
        raise ValueError(f"{what} is in use by this process{end}")  # to the system it would be the same lock
    deadline = time.monotonic() + (PATIENCE if patience is None else patience)
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if error.errno in _NO_LOCKS and not path.exists():
                return Lock(path, -1)
            raise OSError(error.errno, error.strerror, str(target)) from error
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(path, handle):
                _sign(handle)
                _held[path] = os.getpid()
                return Lock(path, handle)
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = _holder(handle)
                os.close(handle)
                raise ValueError(f"{what} is in use by {holder}{end}") from None
            time.sleep(0.1)
        except OSError as error:
            os.close(handle)
            if error.errno in _NO_LOCKS:
                path.unlink(missing_ok=True)
                return Lock(path, -1)
            raise
        os.close(handle)  # somebody holds it, or has just removed it


def _is(path: Path, handle: int) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _sign(handle: int) -> None:
    said = {
        "process": os.getpid(),
        "host": platform.node(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200],
        "since": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    os.ftruncate(handle, 0)
    os.write(handle, json.dumps(said).encode())


def _holder(handle: int) -> str:
    try:
        said = json.loads(os.pread(handle, 4096, 0))
        return f"process {said['process']} on {said['host']} ({said['command']}, since {said['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"  # it has just begun
