"""One job of one or several processes: who starts the others, waits for them, and says why one has failed.

See ``ranks`` for what the others do.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Protocol, Self

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from pspnet_lightning.launch import group
from pspnet_lightning.launch.app import user_errors
from pspnet_lightning.launch.exchange import Exchange
from pspnet_lightning.launch.group import Meeting
from pspnet_lightning.launch.outside import Gathering, OutsideJob
from pspnet_lightning.launch.rank_processes import RankProcesses

# What Lightning, torch and W&B leave behind in the environment.
_VARIABLES = (
    "MASTER_ADDR",
    "MASTER_PORT",
    "NODE_RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "OMP_NUM_THREADS",
    "GLOO_SOCKET_IFNAME",
    "WANDB_MODE",
)
# In seconds: how long a rank may need to notice that another has failed before it is ended; to build its network and
# open its data; to end after the job.
GRACE = 15.0
BUILD = 1800.0
END = 120.0


class RankFailure(ValueError):
    """Another rank failed; the message names it and says why."""


class Leader(Protocol):
    """Whom a process that was handed a job tells how it goes."""

    def add_ready(self, count: int) -> None: ...

    def fail(self, text: str) -> bool: ...


@dataclass(frozen=True)
class Handed:
    """The job that this process was handed: whom it tells how it goes, and where its process group meets."""

    leader: Leader
    meeting: Meeting


@dataclass
class _Standing:
    """Where this process stands; one that runs alone has neither."""

    gathering: Gathering | None = None  # in rank 0 of processes that were started from outside
    handed: Handed | None = None  # in every process but rank 0


standing = _Standing()


class JobRanks:
    """The ranks of one job, as a context: afterwards this process is as it was before.

    ``adopt`` the trainer once it is built: the other ranks start. ``join`` before its first use: they are waited for.
    On leaving, ranks that were started here are waited for, or ended if something was raised. Raises RankFailure where
    another rank failed first. ``on_failure`` is told why before this process is ended because it did not notice.
    ``task`` is the dotted name of the function that the other ranks call with the config.
    """

    def __init__(self, task: str) -> None:
        self._task = task
        self._meeting: Meeting | None = None
        self._outside: OutsideJob | None = None  # in rank 0
        self._exchange: Exchange | None = None  # with the ranks that were started here
        self._ranks = RankProcesses()
        self._over = threading.Event()
        self.on_failure: Callable[[str], None] | None = None

    @property
    def leads(self) -> bool:
        """Whether this process hands out the job, rather than having been handed it."""
        return standing.handed is None

    def __enter__(self) -> Self:
        self._before = {name: os.environ.get(name) for name in _VARIABLES}
        self._threads = torch.get_num_threads()
        return self

    def adopt(self, trainer: L.Trainer, config: dict[str, Any]) -> None:
        """``config`` (plain, resolved) is what the other ranks are handed. No effect on a trainer of one process."""
        strategy: Any = trainer.strategy
        if strategy.launcher is None:
            return
        chosen = str(config["trainer"].get("strategy"))
        if any(word in chosen for word in ("spawn", "fork", "notebook")):
            raise ValueError(f"trainer.strategy={chosen}: the ranks are started by this command itself; take ddp")
        environment = strategy.cluster_environment
        starts = not environment.creates_processes_externally
        environment.validate_settings(num_devices=trainer.num_devices, num_nodes=trainer.num_nodes)
        # Resolved: the Hydra node's interpolations lead into the job's config, and what a rank made of ${now:...} or
        # of ${run_name:...} would be another folder.
        orders = {"task": self._task, "config": config, "hydra": _resolved(HydraConfig.get())}
        if standing.handed is not None:
            self._meeting = standing.handed.meeting
        elif standing.gathering is not None:
            self._outside = standing.gathering.hand_out(orders)
            self._meeting = self._outside.meeting
        elif not starts:
            return  # a kind of cluster whose processes compose for themselves, as Lightning has it
        elif trainer.num_nodes > 1:
            raise ValueError(
                f"trainer.num_nodes={trainer.num_nodes}: the other nodes' processes must be started as well, by "
                f"torchrun, by srun, or by this command on every node with MASTER_ADDR, MASTER_PORT and NODE_RANK set"
            )
        if starts:
            self._start_ranks(trainer, environment.node_rank(), orders)

    def _start_ranks(self, trainer: L.Trainer, node: int, orders: dict[str, Any]) -> None:
        self._exchange = Exchange.new()
        if self._meeting is None:
            self._meeting = Meeting(file=str(self._exchange.store))
            group.keep_to_this_machine()
        self._exchange.hand_out({**orders, "meeting": vars(self._meeting)})
        os.environ.update(
            NODE_RANK=str(node),
            LOCAL_RANK="0",  # by which Lightning sees that all processes exist
            WORLD_SIZE=str(trainer.world_size),
            LOCAL_WORLD_SIZE=str(trainer.num_devices),
        )
        for local in range(1, trainer.num_devices):
            self._ranks.start(node * trainer.num_devices + local, local, self._exchange.folder)
        if self._ranks:
            threading.Thread(target=self._watch, name="ranks", daemon=True).start()

    def join(self, trainer: L.Trainer) -> None:
        """Waits until all have built what rank 0 has, then joins their process group.

        Who fails before cannot be waited for in a collective. Raises RankFailure where one does.
        """
        if self._meeting is None:
            return
        own = 1 if self._exchange is None else trainer.num_devices
        if self._exchange is not None:
            self._wait_until_ready(self._exchange.ready, own - 1)
        if standing.handed is not None:
            standing.handed.leader.add_ready(own)
        elif self._outside is not None:
            self._wait_until_ready(self._outside.ready, trainer.world_size - own)
            assert standing.gathering is not None
            standing.gathering.taken()
        group.join(trainer, self._meeting)

    def _wait_until_ready(self, ready: Callable[[], int], wanted: int) -> None:
        deadline = time.monotonic() + BUILD
        while ready() < wanted:
            failure = self._failure() or self._reported()
            if failure is not None:
                raise RankFailure(failure)
            if time.monotonic() > deadline:
                missing = wanted - ready()
                raise RankFailure(f"{missing} of {wanted} other ranks are not ready after {BUILD / 60:.0f} minutes")
            time.sleep(0.05)

    def _watch(self) -> None:
        """Ends the job where a rank ends with an error and rank 0 does not notice by itself."""
        while not self._over.wait(0.2):
            failure = self._failure()
            if failure is None:
                continue
            self._ranks.kill()
            # Gloo notices that a peer has gone; NCCL, a lock or a long computation does not.
            if not self._over.wait(GRACE):
                print(f"error: {failure}", file=sys.stderr, flush=True)
                if self.on_failure is not None:
                    self.on_failure(failure)
                os._exit(1)
            return

    def _failure(self) -> str | None:
        """Why a rank has ended: a signal, or else what the first to fail has reported, or its exit code."""
        ended = self._ranks.failed()
        return None if ended is None else self._ranks.killed() or self._reported() or ended

    def _reported(self) -> str | None:
        failure = None if self._exchange is None else self._exchange.failure()
        if failure is None and self._outside is not None:
            failure = self._outside.failure()
        return failure

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._wait()
            elif isinstance(error, Exception) and not isinstance(error, user_errors()):
                self._raise_first_failure(error)
        finally:
            self._over.set()
            if self._outside is not None:
                self._outside.finish()
                assert standing.gathering is not None
                standing.gathering.taken()
            self._ranks.end()
            group.leave()
            if self._exchange is not None:
                self._exchange.remove()
            for name, value in self._before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            torch.set_num_threads(self._threads)

    def _wait(self) -> None:
        self._ranks.wait(END)
        failure = self._failure()
        if failure is not None:
            raise RankFailure(failure)

    def _raise_first_failure(self, error: Exception) -> None:
        deadline = time.monotonic() + 2
        while self._ranks and time.monotonic() < deadline and not self._failure():
            time.sleep(0.05)  # its connections close before the process has ended
        failure = self._failure() or self._reported()
        if failure is not None:
            raise RankFailure(failure) from error


def _resolved(node: Any) -> Any:
    """Plain values; what cannot be resolved is left out: a single run has no number among the jobs of a sweep."""
    if isinstance(node, DictConfig):
        found = {}
        for key in node:
            with suppress(OmegaConfBaseException):
                found[key] = _resolved(node[key])
        return found
    if isinstance(node, ListConfig):
        return [_resolved(value) for value in node]
    return node.name if isinstance(node, Enum) else node
