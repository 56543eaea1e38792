"""Every wait at a job's end has a limit and says what it waited for."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pspnet_lightning.callbacks.gather import _unpacked, gather_arrays
from pspnet_lightning.launch import group
from pspnet_lightning.launch.exchange import Exchange
from pspnet_lightning.launch.rank_processes import RankProcesses
from pspnet_lightning.training import datamodule


def test_a_rank_that_does_not_end_is_named_and_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ranks = RankProcesses()
    stuck = subprocess.Popen(["sleep", "600"], stdin=subprocess.PIPE)
    ranks._processes[3] = stuck
    began = time.monotonic()
    ranks.wait(0.3)
    assert ranks.failed() is None
    ranks.end()
    assert time.monotonic() - began < 5
    assert stuck.returncode == -signal.SIGKILL
    assert f"rank 3 (process {stuck.pid}) has not ended 0 s after its job; it is killed" in capsys.readouterr().err
    assert ranks.failed() is None, "it was ended from here: no failure"


def test_a_group_that_does_not_close_is_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    never = threading.Event()
    assert not group.within(0.2, never.wait, "the process group has not closed its connections")
    assert "the process group has not closed its connections within 0 s" in capsys.readouterr().err
    never.set()
    assert group.within(5, lambda: None, "")


def test_loader_workers_that_ignore_sigterm_are_ended() -> None:
    loader = DataLoader([0, 1], num_workers=1, persistent_workers=True, worker_init_fn=datamodule._start_worker)
    assert int(next(iter(loader))) == 0
    (worker,) = [child for child in multiprocessing.active_children() if child.daemon]
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        worker.terminate()
        worker.join(0.5)
        assert worker.is_alive(), "a scheduler's signal to the whole group leaves it at work"
        datamodule._kill_workers()
        worker.join(5)
        assert not worker.is_alive()
        loader._iterator._shutdown_workers()
    finally:
        signal.signal(signal.SIGCHLD, handler)


@pytest.mark.slow
def test_a_process_ends_whose_loader_is_still_there(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from pspnet_lightning.training.datamodule import SegmentationDataModule\n"
        "from torch.utils.data import DataLoader\n"
        "module = SegmentationDataModule(None, transform=None, eval_transform=None, num_workers=1)\n"
        "options = module._loader_options()\n"
        "loader = DataLoader([0, 1], **options)\n"
        "iterator = iter(loader)\n"
        "print(next(iterator))\n"
        "kept = [loader, iterator]; kept.append(kept)\n"
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_the_folder_that_ranks_share_is_this_users_alone() -> None:
    exchange = Exchange.new()
    assert exchange.folder.stat().st_mode & 0o777 == 0o700
    content = {"config": {"lr": 1e-5, "weights": {0: float("inf")}, "name": "${x}", "a": None}}
    exchange.hand_out(content)
    assert exchange.orders() == content
    # The callbacks' order is that of the ranks' collectives: in another, two ranks wait for each other for ever.
    assert list(exchange.orders()["config"]) == ["lr", "weights", "name", "a"]
    assert exchange.ready() == 0
    exchange.add_ready(1)
    exchange.add_ready(2)
    assert exchange.ready() == 3
    assert exchange.failure() is None
    assert exchange.fail("rank 2: first")
    assert not exchange.fail("rank 1: because of it")
    assert exchange.failure() == "rank 2: first"
    exchange.remove()
    assert not exchange.folder.exists()
    assert not exchange.fail("rank 1: late")


def gathers(rank: int, file: str, answers: multiprocessing.Queue) -> None:
    torch.distributed.init_process_group("gloo", store=torch.distributed.FileStore(file, 2), rank=rank, world_size=2)
    arrays: dict[str, np.ndarray] = {"numbers": np.arange(rank * 3, dtype=np.float64), "names": np.array(["é"] * rank)}
    found = gather_arrays(arrays, torch.device("cpu"))
    said = group.broadcast([f"from {rank}", True, None], device=torch.device("cpu"))
    answers.put([said, *((part["numbers"].tolist(), part["names"].tolist()) for part in found)])


def test_what_ranks_tell_each_other_is_arrays(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    ranks = [context.Process(target=gathers, args=(rank, str(tmp_path / "s"), answers)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    expected = [["from 0", True, None], ([], []), ([0.0, 1.0, 2.0], ["é"])]
    assert [answers.get(timeout=60) for _ in ranks] == [expected, expected]
    for process in ranks:
        process.join(10)
    with pytest.raises(ValueError, match="allow_pickle"):
        _unpacked(np.frombuffer(objects(tmp_path).read_bytes(), np.uint8))


def objects(folder: Path) -> Path:
    path = folder / "objects.npz"
    np.savez(path, allow_pickle=True, numbers=np.array([{"a": 1}], dtype=object))
    return path
