"""Files that are written whole or not at all, and a disk that is full: an error that names the file, or a warning."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What a full disk, a used-up quota and a limit on file sizes answer.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """``with replacing(path) as part``: what is written to ``part`` becomes ``path``, whole.

    Where that fails, ``path`` stays as it was, nothing is left of ``part``, and an OSError names ``path``.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with naming(path, part):
            # A link of that name, in a folder from elsewhere, would lead the writing to another file.
            part.unlink(missing_ok=True)
            yield part
            os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: Path, *others: Path) -> Iterator[None]:
    """Gives an OSError that names no file, or one of ``others``, the name of ``path``, which is written within.

    Writing into an open file fails without its name; tifffile, which counts the bytes, without a number either.
    """
    try:
        yield
    except OSError as error:
        if error.filename not in (None, *map(str, others)):
            raise
        number, text = error.errno, error.strerror
        if number is None:
            if not str(error).endswith(" written"):
                raise
            number, text = errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({error})"
        raise OSError(number, text, str(path)) from error


@contextmanager
def despite_full_disk(path: Path) -> Iterator[None]:
    """Turns the OSError of a full disk into a warning that ``path`` is not written."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        print(f"warning: {error.strerror}: {path} is not written", file=sys.stderr, flush=True)


def clear_parts(folder: Path, *below: str) -> None:
    """Removes what a killed process had begun to write: ``.NAME.part`` in ``folder`` and, at any depth, in those below.

    For who holds the folder's lock: nobody else is writing there.
    """
    for pattern in (".*.part", ".*.part.mp4"):
        for part in (*folder.glob(pattern), *(part for name in below for part in (folder / name).rglob(pattern))):
            part.unlink(missing_ok=True)
