"""Checkpoint files on the disk: written whole or not at all, checked before they are used, found after a crash."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from pspnet_lightning.disk import DISK_FULL
from pspnet_lightning.models.weight_files import read_weight_file

ON_ERROR = ("stop", "continue")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to the disk, then renames: a reader sees the old file or the new one, whole.

    Where the disk is full, ``on_error="stop"`` raises OSError naming the file, ``"continue"`` says so on standard
    error and goes on; either way the earlier file is intact. ``failed`` is then True until a write succeeds, and
    nothing is removed meanwhile. Raises ValueError for another ``on_error``.
    """

    def __init__(self, on_error: str = "stop") -> None:
        super().__init__()
        if on_error not in ON_ERROR:
            raise ValueError(f"checkpoint.on_error={on_error!r} must be one of {', '.join(ON_ERROR)}")
        self.on_error = on_error
        self.failed = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        target = Path(path)
        try:
            _write(checkpoint, target)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            self.failed = True
            earlier = "the earlier one is intact" if target.is_file() else "there is no earlier one"
            message = f"{error.strerror}: checkpoint {str(target)!r} is not written, {earlier}"
            if self.on_error == "stop":
                raise OSError(
                    error.errno, f"{message}; make room and go on with ckpt_path=auto or checkpoint.on_error=continue"
                ) from error
            print(f"warning: {message}; training goes on", file=sys.stderr, flush=True)
        else:
            self.failed = False

    def remove_checkpoint(self, path: Any) -> None:
        if not self.failed:  # else the file that was to replace it does not exist
            super().remove_checkpoint(path)


class _Recording:
    """A file that remembers the error of its disk: torch turns it into one of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        try:
            return self.file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _write(checkpoint: dict[str, Any], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            recording = _Recording(file)
            try:
                torch.save(checkpoint, recording)  # type: ignore[arg-type]
            except RuntimeError:
                if recording.error is not None:
                    raise recording.error from None
                raise
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    # The new name is on the disk too before training goes on.
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def damage(path: str | Path) -> str | None:
    """What is wrong with a checkpoint file, or None: every record is read and its CRC-32 compared.

    torch.load compares no checksums: it takes a file with a flipped bit for a good one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None if record is None else f"the checksum of its record {record!r} does not match"


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint in ``folder`` of the highest step that is whole; None where there is none.

    A damaged file is reported on standard error and renamed to ``NAME.torn``, so that nothing loads it.
    """
    found = []
    for path in folder.glob("*.ckpt"):
        try:
            content = read_weight_file(path, mmap=True)
            step = int(content["global_step"]) if "optimizer_states" in content else None
        except Exception:  # a torn file may break anywhere
            if damage(path) is not None:
                _set_aside(path)
            continue
        if step is not None:
            found.append((step, path.stem == "last", path.name))
    for _, _, name in sorted(found, reverse=True):
        if damage(folder / name) is None:
            return folder / name
        _set_aside(folder / name)
    return None


def _set_aside(path: Path) -> None:
    reason = damage(path)
    kept = path.with_name(f"{path.name}.torn")
    number = 1
    while kept.exists():
        number += 1
        kept = path.with_name(f"{path.name}.torn.{number}")
    path.rename(kept)
    print(
        f"warning: checkpoint {str(path)!r} is torn ({reason}); kept as {kept.name!r}, not used",
        file=sys.stderr,
        flush=True,
    )
