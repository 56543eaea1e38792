"""Files that a run can do without when the disk is full: it says so and goes on."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What a full disk, a used-up quota and a limit on file sizes answer.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def despite_full_disk(path: Path) -> Iterator[None]:
    """Turns the OSError of a full disk into a warning that ``path`` is not written."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        print(f"warning: {error.strerror}: {path} is not written", file=sys.stderr, flush=True)
