"""Locks on folders: two processes do not run the same sweep or the same job."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 15.0  # seconds: a killed process's loaders outlive it for a few


@contextmanager
def locked(folder: Path, message: str) -> Iterator[None]:
    handle = lock_folder(folder, message)
    try:
        yield
    finally:
        if handle >= 0:
            os.close(handle)


def lock_folder(folder: Path, message: str) -> int:
    """Locks a folder for as long as this process lives; no file is left. -1 where the file system has no locks."""
    handle = os.open(folder, os.O_RDONLY)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(handle)
                raise ValueError(f"{message}; wait for it, or end it") from None
            time.sleep(0.2)
        except OSError:  # NFS locks no folders
            os.close(handle)
            return -1
