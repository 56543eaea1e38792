"""The processes of one job: rank 0 composes it and hands it to the others, so that no command line is replayed.

Lightning would start further ranks by repeating the command line, which under ``-m`` repeats the sweep: a grid in
lockstep, an adaptive sampler diverging. Here only rank 0 runs Hydra. For every job it

- starts ``trainer.devices - 1`` processes of its own machine (``rank_process``), which read the composed config in a
  folder that only this user can open (``exchange``), or,
- where torchrun, SLURM or a user has started all processes, writes it into a file that they read (``outside``).

They then call the same task with the same config. Nothing that a rank executes comes over a network, and what a job
leaves in this process (environment, process group) is cleared away after it.
"""

from __future__ import annotations

import atexit
import faulthandler
import multiprocessing
import os
import re
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hydra.utils
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from pspnet_lightning.callbacks.preemption import Preempted
from pspnet_lightning.launch.app import fail, message_of, quiet, run, user_errors
from pspnet_lightning.launch.exchange import Exchange
from pspnet_lightning.launch.group import Meeting
from pspnet_lightning.launch.job import GRACE, Handed, standing
from pspnet_lightning.launch.outside import Gathering, OutsideJob, place

Task = Callable[[DictConfig], Any]
# Seconds in which a command must have ended that has nothing more to do.
EXIT = 120.0


def start(config_name: str, task: Task, rank_task: Task) -> None:
    """Runs a command as ``app.run`` does, but only rank 0 composes it: other ranks are handed each job by rank 0.

    ``rank_task`` is what they call with its config.
    """
    if sys.__stderr__ is not None:
        # What is waited for then is shown: the stack of every thread.
        atexit.register(faulthandler.dump_traceback_later, EXIT, exit=True, file=sys.__stderr__)
    try:
        here = place()
    except RuntimeError as error:  # Lightning, on SLURM's variables
        fail(str(error))
    if here is None:
        run(config_name, task)
        return
    try:
        gathering = Gathering(here)
    except (RuntimeError, OSError) as error:
        fail(f"rank {here.rank} cannot reach rank 0 at {here.address}:{here.port}: {str(error).splitlines()[0]}")
    if here.rank > 0:
        _follow(gathering, here.rank, rank_task)
    standing.gathering = gathering
    try:
        run(config_name, task)
    finally:
        gathering.end()
        standing.gathering = None


def _follow(gathering: Gathering, rank: int, task: Task) -> None:
    """Does one job after the other until rank 0 says that there is no more; how it went is rank 0's to say."""
    os.environ["PSPNET_FULL_ERROR"] = str(int(os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")))
    number = 0
    while True:
        try:
            orders = gathering.next_job(number)
        except RuntimeError:
            raise SystemExit(1) from None  # rank 0 is gone and has said why
        except ValueError as error:
            gathering.job(number).fail(f"rank {rank}: {error}")
            fail(f"rank {rank}: {error}")
        if orders is None:
            raise SystemExit(0)
        job = gathering.job(number)
        if not _perform(task, orders, Handed(job, job.meeting), rank):
            _wait_for_rank_zero(job, rank)
        number += 1


def _wait_for_rank_zero(job: OutsideJob, rank: int) -> None:
    """After a failure: rank 0 has the time to notice, and this process ends only if it does not."""
    try:
        deadline = time.monotonic() + GRACE
        while not job.over() and time.monotonic() < deadline:
            time.sleep(0.1)
        if not job.over():
            print(f"error: {job.failure() or f'rank {rank} failed'}", file=sys.stderr, flush=True)
            os._exit(1)
    except RuntimeError:
        pass  # rank 0 is gone: this was a consequence


# ---------------------------------------------------------------------- one job in a rank other than 0


def rank_process() -> None:
    """What the processes run that rank 0 starts on its machine, given a folder (``Exchange``) and a rank.

    They read nothing on standard input, and end when it closes: then rank 0 has ended.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; rank 0 decides
    exchange, rank = Exchange(Path(sys.argv[1])), int(sys.argv[2])
    threading.Thread(target=_end_with_rank_zero, args=(exchange,), daemon=True).start()
    orders = exchange.orders()
    task = hydra.utils.get_object(orders["task"])
    done = _perform(task, orders, Handed(exchange, Meeting(**orders["meeting"])), rank)
    # Not by way of Python's end: what it waits for (threads, loaders' workers) has no limit, and all is written.
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch makes an exception of the end of a loader's worker
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0 if done else 1)


def _end_with_rank_zero(exchange: Exchange) -> None:
    # Its end closes the pipe, unless a process that it has forked still holds it.
    parent = os.getppid()
    while not select.select([0], [], [], 1.0)[0] and os.getppid() == parent:
        pass
    exchange.remove()
    os._exit(1)


def _perform(task: Task, orders: Mapping[str, Any], handed: Handed, rank: int) -> bool:
    """Does one job as rank 0 describes it; True unless it failed here."""
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    quiet()
    _set_hydra_config(orders["hydra"])
    standing.handed = handed
    try:
        task(OmegaConf.create(orders["config"]))
    except Preempted:
        return True  # all ranks have stopped together; rank 0 says so
    except BaseException as error:
        _report(handed, rank, error)
        return False
    finally:
        standing.handed = None
    return True


def _set_hydra_config(node: Mapping[str, Any]) -> None:
    setup_globals()  # the resolvers that hydra.main registers
    typed = OmegaConf.structured(HydraConf)
    OmegaConf.set_struct(typed, False)  # Hydra's own groups add keys to it
    HydraConfig.instance().set_config(OmegaConf.create({"hydra": OmegaConf.merge(typed, dict(node))}))


def _report(handed: Handed, rank: int, error: BaseException) -> None:
    text = f"rank {rank}: {message_of(error)}" if isinstance(error, user_errors()) else f"rank {rank}: {error!r}"
    try:
        first = handed.leader.fail(text)
    except RuntimeError:
        return  # rank 0 is gone: this was a consequence
    # Where a peer has gone, the trace is of no use: rank 0 says who.
    ours = not isinstance(error, user_errors()) and not re.search("Connection (closed|reset) by peer", str(error))
    if first and (os.environ.get("PSPNET_FULL_ERROR") == "1" or ours):
        traceback.print_exc()
