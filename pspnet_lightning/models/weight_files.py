"""What ``torch.save`` wrote, read as plain types and tensors: nothing in it runs, nothing in it inflates."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch


class PickledObjectsError(ValueError):
    """The file holds objects that could run code when they are loaded."""


def read_weight_file(path: str | Path, *, mmap: bool = False) -> Any:
    """The content of the file on the CPU.

    Raises FileNotFoundError, PickledObjectsError, and ValueError for a file that is torn, is of another kind, or holds
    more than it is large: torch writes records as they are, so that a compressed one comes from elsewhere.
    """
    path = Path(path)
    if not path.is_file():
        if path.exists():
            raise ValueError(f"{str(path)!r} is not a checkpoint: it is no file")
        raise FileNotFoundError(2, "there is no such file", str(path))
    with path.open("rb") as file:
        packed = file.read(4) == b"PK\x03\x04"  # what torch goes by
    if packed:
        _check_inflation(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and packed)
    except pickle.UnpicklingError as error:
        if packed:
            raise PickledObjectsError(
                f"{str(path)!r} holds pickled objects, which could run code when loaded; it is refused"
            ) from error
        raise ValueError(f"{str(path)!r} is not a checkpoint: the file is damaged or of another kind") from error
    except Exception as error:
        # A reader of bytes that anybody may have written breaks anywhere.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if packed:
            raise ValueError(f"{str(path)!r} cannot be read, it seems torn: {reason}") from error
        raise ValueError(f"{str(path)!r} is not a checkpoint: it is damaged or of another kind ({reason})") from error


def _check_inflation(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            inside = sum(record.file_size for record in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise ValueError(f"{str(path)!r} cannot be read, it seems torn: {error}") from error
    size = path.stat().st_size
    if inside > size:
        raise ValueError(
            f"{str(path)!r} is refused: its {size / 1e6:.1f} MB would become {inside / 1e6:.1f} MB; a checkpoint is "
            f"not compressed"
        )
