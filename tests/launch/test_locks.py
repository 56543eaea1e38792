"""What one process writes, no other writes at the same time; a process that is gone is in nobody's way."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pspnet_lightning.launch import locks


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.1)


@contextmanager
def held_elsewhere(target: Path) -> Iterator[int]:
    """Another process that holds the lock; its number."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        sys.argv = ["pspnet-train", "seed=1"]
        locks.lock(target, "it")
        os.write(told, b".")
        signal.pause()
        os._exit(0)
    os.read(ready, 1)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("name", [".", "best.onnx"])
def test_a_second_process_is_told_who_is_at_work(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    with held_elsewhere(target) as holder:
        with pytest.raises(ValueError, match="run folder 'x' is in use by") as caught:
            locks.lock(target, "run folder 'x'", "give another hydra.run.dir=...")
        said = str(caught.value)
        assert f"process {holder} on {os.uname().nodename} (pspnet-train seed=1, since 20" in said
        assert said.endswith("; wait for it, or end it, or give another hydra.run.dir=...")
        (file,) = tmp_path.iterdir()
        assert file.name == (".lock" if name == "." else ".best.onnx.lock")
    # Killed: its file is still there and means nothing.
    assert file.exists()
    with locks.locked(target, "x"):
        assert file.exists()
    assert not list(tmp_path.iterdir())


def test_a_process_does_not_lock_twice(tmp_path: Path) -> None:
    with locks.locked(tmp_path, "it"):
        with pytest.raises(ValueError, match="in use by this process"):
            locks.lock(tmp_path, "it")
        # The refused one has not let go of the first.
        child = os.fork()
        if child == 0:
            try:
                locks.lock(tmp_path, "it")
            except ValueError:
                os._exit(3)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    locks.lock(tmp_path, "it").release()
    assert not list(tmp_path.iterdir())


def test_a_child_that_outlives_its_parent_holds_nothing(tmp_path: Path) -> None:
    """A loader's worker, forked while the folder is locked."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        locks.lock(tmp_path, "it")
        worker = os.fork()
        if worker == 0:
            signal.pause()
        os.write(told, worker.to_bytes(4, "big"))
        os._exit(0)
    worker = int.from_bytes(os.read(ready, 4), "big")
    os.waitpid(child, 0)
    try:
        locks.lock(tmp_path, "it").release()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_file_that_says_nothing_yet(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path):
        os.truncate(tmp_path / ".lock", 0)
        with pytest.raises(ValueError, match=re.escape("in use by another process; wait for it, or end it")):
            locks.lock(tmp_path, "x")


def test_a_folder_without_locks_is_used_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(locks.errno.ENOLCK, "no locks")

    monkeypatch.setattr(locks.fcntl, "lockf", none)
    locks.lock(tmp_path, "x").release()
    assert not list(tmp_path.iterdir())


def test_a_file_that_its_holder_removes_meanwhile_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened while another process held it, locked when that one had let go and removed it."""
    lockf, tries = locks.fcntl.lockf, []

    def late(handle: int, how: int) -> None:
        tries.append(handle)
        if len(tries) == 1:
            (tmp_path / ".lock").unlink()
        lockf(handle, how)

    monkeypatch.setattr(locks.fcntl, "lockf", late)
    with locks.locked(tmp_path, "it"):
        assert len(tries) == 2
        assert (tmp_path / ".lock").exists()
