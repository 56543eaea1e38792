"""Processes that were started from outside: what stands in their store can end a run and not tell it what to do."""

from __future__ import annotations

import os
import pickle
import socket
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist
import yaml
from conftest import Run
from ddp_probe import listening

from pspnet_lightning.launch import outside
from pspnet_lightning.launch.outside import Gathering, Place

ORDERS = {"task": "t", "config": {"weights": {0: 1.5}, "seed": 3}, "hydra": {"mode": "RUN"}}


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def gathered(port: int, tmp_path: Path) -> tuple[Gathering, ...]:
    """Rank 0 and rank 1 of a command, in this process."""
    return tuple(Gathering(Place(rank, "127.0.0.1", port, hosted=False), tmp_path) for rank in (0, 1))


def intruder(port: int) -> dist.Store:
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=5))
    return dist.PrefixStore("pspnet/0", store)


def test_a_job_is_a_file_of_this_user_that_is_gone_once_all_have_read_it(
    gathered: tuple[Gathering, Gathering], tmp_path: Path
) -> None:
    leader, follower = gathered
    for number in range(2):
        job = leader.hand_out({**ORDERS, "number": number})
        (file,) = tmp_path.iterdir()
        assert file.stat().st_mode & 0o777 == 0o600
        told = follower.next_job(number)
        assert told == {**ORDERS, "number": number}
        assert list(told["config"]) == ["weights", "seed"], "callbacks keep their order"
        follower.job(number).add_ready(1)
        assert job.ready() == 1
        assert job.meeting == follower.job(number).meeting
        leader.taken()
        assert not list(tmp_path.iterdir())
    assert follower.job(1).fail("rank 1: first")
    assert not job.fail("rank 2: second")
    assert job.failure() == "rank 1: first"
    assert not follower.job(1).over()
    job.finish()
    assert follower.job(1).over()
    leader._control.add("ended", 1)
    assert follower.next_job(2) is None
    leader.end()  # and does not wait: the other has left


def test_the_store_of_one_machine_is_out_of_the_networks_reach(gathered: object, port: int) -> None:
    assert listening(port) == {"0100007F"}


PAYLOADS = {
    "yaml": lambda trace: yaml.safe_dump({"task": "os.system", "config": f"touch {trace}", "hydra": {}}).encode(),
    "pickle": lambda trace: pickle.dumps(Evil(trace)),
    "interpolation": lambda trace: f"${{oc.env:HOME}}{{_target_: os.system, _args_: ['touch {trace}']}}".encode(),
    "path": lambda trace: b"/../../tmp/elsewhere",
}


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_stands_in_the_store_runs_nothing(
    gathered: tuple[Gathering, Gathering], port: int, tmp_path: Path, payload: str
) -> None:
    leader, follower = gathered
    trace = tmp_path / "trace"
    content = PAYLOADS[payload](trace)
    leader.hand_out(ORDERS)
    theirs = intruder(port)
    for key in ("began", "jobs", "ended", "orders", "job/0", "job/0/orders", "job/0/failure", "job/0/ready"):
        theirs.set(key, content)
    with pytest.raises(RuntimeError):
        follower.next_job(0)
    # What a failed rank has said is printed, as plain characters.
    assert (Gathering(Place(1, "127.0.0.1", port, hosted=False), tmp_path).job(0).failure() or "").isprintable()
    assert not trace.exists()


def test_numbers_from_the_store_choose_no_other_file(
    gathered: tuple[Gathering, Gathering], port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "SEEN", 0.2)
    leader, follower = gathered
    leader.hand_out(ORDERS)
    intruder(port).set("began", "7")
    with pytest.raises(ValueError, match=r"\.pspnet-job-7-0\.yaml.*No such file.*in one folder that every node sees"):
        follower.next_job(0)
    planted = tmp_path / ".pspnet-job-7-0.yaml"
    planted.write_text(yaml.safe_dump({"task": "os.system"}))
    planted.chmod(0o644)
    with pytest.raises(ValueError, match="not a file of this user alone"):
        follower.next_job(0)
    own = tmp_path / "own"
    own.write_text(yaml.safe_dump({"task": "os.system"}))
    own.chmod(0o600)
    planted.unlink()
    planted.symlink_to(own)
    with pytest.raises(ValueError, match="cannot be read"):
        follower.next_job(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a file of another user")
def test_a_file_of_another_user_is_no_job(gathered: tuple[Gathering, Gathering], tmp_path: Path) -> None:
    leader, follower = gathered
    leader.hand_out(ORDERS)
    (file,) = tmp_path.iterdir()
    os.chown(file, 65534, 65534)
    with pytest.raises(ValueError, match="not a file of this user alone"):
        follower.next_job(0)


def test_the_end_is_waited_for_within_a_limit_and_says_for_what(
    gathered: tuple[Gathering, Gathering], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outside, "LEFT", 0.3)
    gathered[0].end()
    assert "warning: 1 of the other processes have not ended 0 s after the last job" in capsys.readouterr().err


def test_a_rank_whose_rank_0_is_an_intruder_runs_nothing(command: Run, port: int, tmp_path: Path) -> None:
    """The whole command, as ``srun`` starts its second process, with a store that says what it likes."""
    server = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    control = dist.PrefixStore("pspnet/0", server)
    trace = tmp_path / "trace"
    evil = yaml.safe_dump({"task": "os.system", "config": f"touch {trace}", "hydra": {}})
    for key in ("orders", "job/0", "job/0/orders", "job/0/failure"):
        control.set(key, evil)
    control.add("began", 7)
    control.add("jobs", 1)
    planted = tmp_path / ".pspnet-job-7-0.yaml"
    planted.write_text(evil)
    planted.chmod(0o644)
    done = command(
        "train",
        "trainer.accelerator=cpu",
        SLURM_JOB_ID="1",
        SLURM_JOB_NAME="train",
        SLURM_NTASKS="2",
        SLURM_NTASKS_PER_NODE="2",
        SLURM_NNODES="1",
        SLURM_NODEID="0",
        SLURM_NODELIST="127.0.0.1",
        SLURM_PROCID="1",
        SLURM_LOCALID="1",
        MASTER_PORT=str(port),
    )
    assert done.returncode == 1, done.stdout
    assert f"error: rank 1: {planted} is not a file of this user alone" in done.stderr
    assert not trace.exists()
