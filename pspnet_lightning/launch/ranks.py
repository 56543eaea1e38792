"""The processes of one job: rank 0 composes it and hands it to the others, so that no command line is replayed.

Lightning would start further ranks by repeating the command line, which under ``-m`` repeats the sweep: a grid in
lockstep, an adaptive sampler diverging. Here only rank 0 runs Hydra. For every job it opens a ``TCPStore`` on a port
that the system gives it, puts the composed config there, and

- on its own machine starts ``trainer.devices - 1`` processes that read it (``rank_process``), or,
- where torchrun, SLURM or a user has started all processes, tells them where the store is (``_follow``).

They then call the same task with the same config. The job's process group meets in the same store, so jobs share no
port and no key, and what a job leaves in this process (environment, process group) is cleared away after it.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hydra.utils
import torch.distributed as dist
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from pspnet_lightning.launch.app import USER_ERRORS, explain, fail, quiet, run
from pspnet_lightning.launch.job import CONNECT, GRACE, Leader, meeting, standing
from pspnet_lightning.runs.preempted import Preempted

Task = Callable[[DictConfig], Any]

# ---------------------------------------------------------------------- ranks that were started from outside


@dataclass(frozen=True)
class _Place:
    """Where this process stands among processes that torchrun, SLURM or a user has started."""

    rank: int
    address: str
    port: int
    hosted: bool  # torchrun's agent keeps a store at address and port
    attempt: str = "0"


def _place() -> _Place | None:
    variables = os.environ
    if TorchElasticEnvironment.detect():
        return _Place(
            rank=int(variables["RANK"]),
            address=variables["MASTER_ADDR"],
            port=int(variables["MASTER_PORT"]),
            hosted=variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            attempt=variables.get("TORCHELASTIC_RESTART_COUNT", "0"),
        )
    if SLURMEnvironment.detect() and int(variables["SLURM_NTASKS"]) > 1:
        slurm = SLURMEnvironment()
        return _Place(slurm.global_rank(), slurm.main_address, slurm.main_port, hosted=False)
    if "MASTER_ADDR" in variables and "MASTER_PORT" in variables and ("NODE_RANK" in variables or "RANK" in variables):
        # One process a node, or each rank, started by hand.
        rank = int(variables.get("RANK", variables.get("NODE_RANK", 0)))
        return _Place(rank, variables["MASTER_ADDR"], int(variables["MASTER_PORT"]), hosted=False)
    return None


def match_devices(cfg: DictConfig) -> None:
    """Takes ``trainer.devices`` and ``trainer.num_nodes`` from torchrun or SLURM where the config leaves them at 1."""
    variables = os.environ
    if TorchElasticEnvironment.detect():
        size, local = int(variables["WORLD_SIZE"]), int(variables["LOCAL_WORLD_SIZE"])
        name = "torchrun"
    elif SLURMEnvironment.detect():
        size = int(variables["SLURM_NTASKS"])
        local = max(1, size // int(variables.get("SLURM_NNODES", "1")))
        name = "SLURM"
    else:
        return
    if size > 1 and cfg.trainer.devices == 1 and cfg.trainer.get("num_nodes", 1) == 1:
        OmegaConf.update(cfg, "trainer.devices", local)
        OmegaConf.update(cfg, "trainer.num_nodes", size // local, force_add=True)
        rank_zero_only(print)(
            f"{name} started {size} processes: trainer.devices={local} trainer.num_nodes={size // local}", flush=True
        )


def start(config_name: str, task: Task) -> None:
    """Runs a command as ``app.run`` does, but only rank 0 composes it: other ranks are handed each job by rank 0."""
    place = _place()
    if place is None:
        run(config_name, task)
        return
    hosting = place.rank == 0 and not place.hosted
    try:
        base = dist.TCPStore(
            place.address, place.port, is_master=hosting, wait_for_workers=False, timeout=CONNECT, multi_tenant=True
        )
    except (RuntimeError, OSError) as error:
        fail(f"rank {place.rank} cannot reach rank 0 at {place.address}:{place.port}: {str(error).splitlines()[0]}")
    control = dist.PrefixStore(f"pspnet/{place.attempt}", base)
    if place.rank > 0:
        control.add("joined", 1)
        _follow(control, place.rank)
        return
    standing.leader = Leader(control, place.address)
    try:
        run(config_name, task)
    finally:
        control.set(f"job/{standing.leader.jobs}", "end")
        # The store ends with this process: the others read the end first.
        deadline = time.monotonic() + 10
        while control.add("left", 0) < control.add("joined", 0) and time.monotonic() < deadline:
            time.sleep(0.02)
        standing.leader = None


def _follow(control: dist.Store, rank: int) -> None:
    number = 0
    while True:
        try:
            told = _read(control, f"job/{number}")
        except RuntimeError:
            raise SystemExit(1) from None  # rank 0 is gone and has said why
        if told == "end":
            control.add("left", 1)
            raise SystemExit(0)  # whether it went well is rank 0's to say
        address, port = told.rsplit(":", 1)
        _work(address, int(port), rank, patient=True)
        number += 1


def _read(store: dist.Store, key: str) -> str:
    """Waits for as long as the store is there: a rank 0 that counts classes takes its time."""
    while not store.check([key]):
        time.sleep(0.05)
    return store.get(key).decode()


# ---------------------------------------------------------------------- one job in a rank other than 0


def rank_process() -> None:
    """What the processes run that rank 0 starts on its machine: one job, from the store at MASTER_ADDR and MASTER_PORT.

    They read nothing on standard input, and end when it closes: then rank 0 has ended.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; rank 0 decides
    threading.Thread(target=_end_with_rank_zero, daemon=True).start()
    rank = int(os.environ.pop("PSPNET_RANK"))
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    if not _work(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), rank, patient=False):
        raise SystemExit(1)


def _end_with_rank_zero() -> None:
    os.read(0, 1)
    os._exit(1)


def _work(address: str, port: int, rank: int, *, patient: bool) -> bool:
    """Does one job as rank 0 describes it in the store; True unless it failed here.

    ``patient``: after a failure, give rank 0 the time to notice, and end this process only if it does not.
    """
    standing.orders = store = dist.TCPStore(address, port, is_master=False, timeout=CONNECT)
    orders = OmegaConf.create(_read(store, "orders"))
    os.environ.update(meeting(address, port))
    os.environ["HYDRA_FULL_ERROR"] = "1"
    quiet()
    _set_hydra_config(orders.hydra)
    try:
        hydra.utils.get_object(orders.task)(orders.config)
    except Preempted:
        return True  # all ranks have stopped together; rank 0 says so
    except BaseException as error:
        return _report(store, rank, error, full=orders.full, patient=patient)
    finally:
        standing.orders = None
    return True


def _set_hydra_config(node: DictConfig) -> None:
    setup_globals()  # the resolvers that hydra.main registers
    typed = OmegaConf.structured(HydraConf)
    OmegaConf.set_struct(typed, False)  # Hydra's own groups add keys to it
    HydraConfig.instance().set_config(OmegaConf.create({"hydra": OmegaConf.merge(typed, node)}))


def _report(store: dist.Store, rank: int, error: BaseException, *, full: bool, patient: bool) -> bool:
    text = f"rank {rank}: {explain(error)}" if isinstance(error, USER_ERRORS) else f"rank {rank}: {error!r}"
    try:
        first = store.compare_set("failure", "", text).decode() == text
        # Where a peer has gone, the trace is of no use: rank 0 says who.
        ours = not isinstance(error, USER_ERRORS) and not re.search("Connection (closed|reset) by peer", str(error))
        if first and (full or ours):
            traceback.print_exc()
        if not patient:
            return False  # rank 0 sees this process end, and says why
        deadline = time.monotonic() + GRACE
        while not store.check(["over"]) and time.monotonic() < deadline:
            time.sleep(0.1)
        if not store.check(["over"]):
            print(f"error: {text}", file=sys.stderr, flush=True)
            os._exit(1)
    except RuntimeError:
        pass  # rank 0 is gone: this was a consequence
    return False
