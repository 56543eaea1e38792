"""One job of one or several processes: rank 0 hands its composed config to the others through a store of the job's own.

See ``ranks`` for how the other processes come to it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from types import TracebackType
from typing import Any, Self

import lightning as L
import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pspnet_lightning.launch.app import USER_ERRORS
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
    "TORCHELASTIC_USE_AGENT_STORE",
    "TORCHELASTIC_RESTART_COUNT",
    "WANDB_MODE",
)
# How long a rank may need to notice that another has failed before it is ended, in seconds.
GRACE = 15.0
CONNECT = timedelta(minutes=10)


class RankFailure(ValueError):
    """Another rank failed; the message names it and says why."""


@dataclass
class Leader:
    """Rank 0 of processes that were started from outside: where it tells the others of its jobs."""

    control: dist.Store
    address: str
    jobs: int = 0


@dataclass
class _Standing:
    """Where this process stands; one that runs alone has neither."""

    leader: Leader | None = None
    orders: dist.Store | None = None  # in every process but rank 0: the store of the current job


standing = _Standing()


def meeting(address: str, port: int) -> dict[str, str]:
    """The variables by which torch makes the job's process group meet in a store that exists already."""
    return {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


class Job:
    """The ranks of one job, as a context: afterwards this process is as it was before.

    ``adopt`` the trainer once it is built: the other ranks start, and are waited for when it first needs them. On
    leaving, ranks that were started here are waited for, or ended if something was raised. Raises RankFailure where
    another rank failed first. ``on_failure`` is told why before this process is ended because it did not notice.
    """

    def __init__(self, task: str) -> None:
        self._task = task
        self._orders = ""
        self._store: dist.Store | None = standing.orders
        self._ranks = RankProcesses()
        self._over = threading.Event()
        self.on_failure: Callable[[str], None] | None = None

    @property
    def leads(self) -> bool:
        """Whether this process hands out the job, rather than having been handed it."""
        return standing.orders is None

    def __enter__(self) -> Self:
        self._before = {name: os.environ.get(name) for name in _VARIABLES}
        self._threads = torch.get_num_threads()
        return self

    def adopt(self, trainer: L.Trainer, config: dict[str, Any]) -> None:
        """``config`` (plain, resolved) is what the other ranks are handed. No effect on a trainer of one process."""
        launcher = trainer.strategy.launcher
        if not isinstance(launcher, _SubprocessScriptLauncher):
            return
        environment = launcher.cluster_environment
        alone = isinstance(environment, LightningEnvironment) and standing.leader is None and standing.orders is None
        if alone and launcher.num_nodes > 1 and not environment.creates_processes_externally:
            raise ValueError(
                f"trainer.num_nodes={launcher.num_nodes}: the other nodes' processes must be started as well, by "
                f"torchrun, by srun, or by this command on every node with MASTER_ADDR, MASTER_PORT and NODE_RANK set"
            )
        orders = {
            "task": self._task,
            "config": config,
            # Resolved here: its interpolations lead into the job's config, and what a rank made of ${now:...} or of
            # ${run_name:...} would be another folder.
            "hydra": _resolved(HydraConfig.get()),
            "full": os.environ.get("PSPNET_FULL_ERROR") == "1",
        }
        self._orders = OmegaConf.to_yaml(OmegaConf.create(orders))
        trainer.strategy._launcher = _Launcher(launcher, self)
        self._begin(launcher)

    def _begin(self, launcher: _SubprocessScriptLauncher) -> None:
        """Opens the store, tells ranks started from outside, and starts those that belong to this process."""
        environment = launcher.cluster_environment
        environment.validate_settings(num_devices=launcher.num_processes, num_nodes=launcher.num_nodes)
        own = not environment.creates_processes_externally
        if standing.orders is None:
            if standing.leader is None and not own:
                return  # a kind of cluster whose processes compose for themselves, as Lightning has it
            address = "127.0.0.1" if standing.leader is None else standing.leader.address
            self._store = dist.TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=CONNECT)
            self._store.set("orders", self._orders)
            os.environ.update(meeting(address, self._store.port))
            if standing.leader is not None:
                standing.leader.control.set(f"job/{standing.leader.jobs}", f"{address}:{self._store.port}")
                standing.leader.jobs += 1
        if own:
            self._start_ranks(launcher)

    def _start_ranks(self, launcher: _SubprocessScriptLauncher) -> None:
        node = launcher.cluster_environment.node_rank()
        os.environ.update(
            NODE_RANK=str(node),
            LOCAL_RANK="0",
            WORLD_SIZE=str(launcher.num_processes * launcher.num_nodes),
            LOCAL_WORLD_SIZE=str(launcher.num_processes),
        )
        for local in range(1, launcher.num_processes):
            self._ranks.start(node * launcher.num_processes + local, local)
        if self._ranks:
            threading.Thread(target=self._watch, name="ranks", daemon=True).start()

    def wait_until_ready(self, ranks: int) -> None:
        """Waits until all have built what rank 0 has: who fails before cannot be waited for in a collective."""
        if self._store is None:
            return
        if standing.orders is not None:
            self._store.add("ready", 1)
            return
        while self._store.add("ready", 0) < ranks - 1:
            failure = self._failure() or self._reported()
            if failure is not None:
                raise RankFailure(failure)
            time.sleep(0.05)

    def end_ranks(self) -> None:
        """Ends the ranks that were started here."""
        self._ranks.end()

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
        try:
            if self._store is not None and self._store.check(["failure"]):
                return self._store.get("failure").decode()
        except RuntimeError:
            pass
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._wait()
            elif isinstance(error, Exception) and not isinstance(error, USER_ERRORS):
                self._raise_first_failure(error)
        finally:
            self._over.set()
            if self._store is not None and self._store is not standing.orders:
                # Whoever fails from now on fails because of this.
                self._store.compare_set("failure", "", "rank 0")
                self._store.set("over", "1")
            self._ranks.end()
            if dist.is_initialized():
                dist.destroy_process_group()
            for name, value in self._before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            torch.set_num_threads(self._threads)

    def _wait(self) -> None:
        self._ranks.wait(120)
        failure = self._failure()
        if failure is not None:
            raise RankFailure(failure)

    def _raise_first_failure(self, error: Exception) -> None:
        deadline = time.monotonic() + 2
        while self._ranks and time.monotonic() < deadline and not self._failure():
            time.sleep(0.05)  # its connections close before the process has ended
        failure = self._failure() or self._reported()
        if failure is not None and standing.orders is None:
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


class _Launcher(_SubprocessScriptLauncher):
    """Lightning's launcher with our way of starting processes."""

    def __init__(self, replaced: _SubprocessScriptLauncher, job: Job) -> None:
        super().__init__(replaced.cluster_environment, replaced.num_processes, replaced.num_nodes)
        self._job = job
        self._ready = False

    def launch(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._ready:
            self._ready = True
            self._job.wait_until_ready(self.num_processes * self.num_nodes)
        # The environment says by now that all processes exist, so that Lightning starts none.
        return super().launch(function, *args, **kwargs)

    def kill(self, signum: Any) -> None:
        self._job.end_ranks()
