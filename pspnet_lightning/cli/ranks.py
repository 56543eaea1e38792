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
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, cast

import hydra.utils
import lightning as L
import torch
import torch.distributed as dist
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from pspnet_lightning.callbacks.preemption import Preempted
from pspnet_lightning.cli.app import USER_ERRORS, explain, fail, quiet, run

Task = Callable[[DictConfig], Any]

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
_GRACE = 15.0
_CONNECT = timedelta(minutes=10)


class RankFailure(ValueError):
    """Another rank failed; the message names it and says why."""


# ---------------------------------------------------------------------- ranks that were started from outside


@dataclass(frozen=True)
class _Place:
    """Where this process stands among processes that torchrun, SLURM or a user has started."""

    rank: int
    address: str
    port: int
    hosted: bool  # torchrun's agent keeps a store at address and port
    attempt: str = "0"


@dataclass
class _Leader:
    """Rank 0 of such processes: where it tells the others of its jobs."""

    control: dist.Store
    address: str
    jobs: int = 0


_leader: _Leader | None = None
_store_of_orders: dist.Store | None = None  # in every process but rank 0: the store of the current job


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
    global _leader
    place = _place()
    if place is None:
        run(config_name, task)
        return
    hosting = place.rank == 0 and not place.hosted
    try:
        base = dist.TCPStore(
            place.address, place.port, is_master=hosting, wait_for_workers=False, timeout=_CONNECT, multi_tenant=True
        )
    except (RuntimeError, OSError) as error:
        fail(f"rank {place.rank} cannot reach rank 0 at {place.address}:{place.port}: {str(error).splitlines()[0]}")
    control = dist.PrefixStore(f"pspnet/{place.attempt}", base)
    if place.rank > 0:
        control.add("joined", 1)
        _follow(control, place.rank)
        return
    _leader = _Leader(control, place.address)
    try:
        run(config_name, task)
    finally:
        control.set(f"job/{_leader.jobs}", "end")
        # The store ends with this process: the others read the end first.
        deadline = time.monotonic() + 10
        while control.add("left", 0) < control.add("joined", 0) and time.monotonic() < deadline:
            time.sleep(0.02)
        _leader = None


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
    global _store_of_orders
    _store_of_orders = store = dist.TCPStore(address, port, is_master=False, timeout=_CONNECT)
    orders = OmegaConf.create(_read(store, "orders"))
    os.environ.update(_meeting(address, port))
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
        _store_of_orders = None
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
        if first and (full or not isinstance(error, USER_ERRORS)):
            traceback.print_exc()
        if not patient:
            return False  # rank 0 sees this process end, and says why
        deadline = time.monotonic() + _GRACE
        while not store.check(["over"]) and time.monotonic() < deadline:
            time.sleep(0.1)
        if not store.check(["over"]):
            print(f"error: {text}", file=sys.stderr, flush=True)
            os._exit(1)
    except RuntimeError:
        pass  # rank 0 is gone: this was a consequence
    return False


def _meeting(address: str, port: int) -> dict[str, str]:
    """The variables by which torch makes the job's process group meet in a store that exists already."""
    return {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


# ---------------------------------------------------------------------- one job


class Job:
    """The ranks of one job, as a context: afterwards this process is as it was before.

    ``adopt`` the trainer once it is built: the other ranks start, and are waited for when it first needs them. On
    leaving, ranks that were started here are waited for, or ended if something was raised. Raises RankFailure where
    another rank failed first. ``on_failure`` is told why before this process is ended because it did not notice.
    """

    def __init__(self, task: str) -> None:
        self._task = task
        self._orders = ""
        self._store: dist.Store | None = _store_of_orders
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._over = threading.Event()
        self.on_failure: Callable[[str], None] | None = None

    @property
    def leads(self) -> bool:
        """Whether this process hands out the job, rather than having been handed it."""
        return _store_of_orders is None

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
        alone = isinstance(environment, LightningEnvironment) and _leader is None and _store_of_orders is None
        if alone and launcher.num_nodes > 1 and not environment.creates_processes_externally:
            raise ValueError(
                f"trainer.num_nodes={launcher.num_nodes}: the other nodes' processes must be started as well, by "
                f"torchrun, by srun, or by this command on every node with MASTER_ADDR, MASTER_PORT and NODE_RANK set"
            )
        orders = {
            "task": self._task,
            "config": config,
            "hydra": OmegaConf.to_container(cast(DictConfig, HydraConfig.get()), resolve=False),
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
        if _store_of_orders is None:
            if _leader is None and not own:
                return  # a kind of cluster whose processes compose for themselves, as Lightning has it
            address = "127.0.0.1" if _leader is None else _leader.address
            self._store = dist.TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=_CONNECT)
            self._store.set("orders", self._orders)
            os.environ.update(_meeting(address, self._store.port))
            if _leader is not None:
                _leader.control.set(f"job/{_leader.jobs}", f"{address}:{self._store.port}")
                _leader.jobs += 1
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
            rank = node * launcher.num_processes + local
            self._processes[rank] = subprocess.Popen(
                # -P: nothing of the current folder is imported by accident; the path is this process's own.
                [sys.executable, "-P", "-c", "from pspnet_lightning.cli.ranks import rank_process; rank_process()"],
                env={
                    **os.environ,
                    "LOCAL_RANK": str(local),
                    "PSPNET_RANK": str(rank),
                    "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
                },
                stdin=subprocess.PIPE,
            )
        if self._processes:
            threading.Thread(target=self._watch, name="ranks", daemon=True).start()

    def wait_until_ready(self, ranks: int) -> None:
        """Waits until all have built what rank 0 has: who fails before cannot be waited for in a collective."""
        if self._store is None:
            return
        if _store_of_orders is not None:
            self._store.add("ready", 1)
            return
        while self._store.add("ready", 0) < ranks - 1:
            failure = self._reported() or self._failure()
            if failure is not None:
                raise RankFailure(failure)
            time.sleep(0.05)

    def end_ranks(self) -> None:
        """Ends the ranks that were started here, and waits until they are gone."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def _watch(self) -> None:
        """Ends the job where a rank ends with an error and rank 0 does not notice by itself."""
        while not self._over.wait(0.2):
            failure = self._failure()
            if failure is None:
                continue
            for process in self._processes.values():
                process.kill()
            # Gloo notices that a peer has gone; NCCL, a lock or a long computation does not.
            if not self._over.wait(_GRACE):
                print(f"error: {failure}", file=sys.stderr, flush=True)
                if self.on_failure is not None:
                    self.on_failure(failure)
                os._exit(1)
            return

    def _failure(self) -> str | None:
        """What another rank has reported, or how a rank ended that could not."""
        for rank, process in self._processes.items():
            code = process.poll()
            if code:
                return self._reported() or (
                    f"rank {rank} (process {process.pid}) was killed by {signal.Signals(-code).name}"
                    if code < 0
                    else f"rank {rank} (process {process.pid}) ended with exit code {code}"
                )
        return None

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
            if self._store is not None and self._store is not _store_of_orders:
                # Whoever fails from now on fails because of this.
                self._store.compare_set("failure", "", "rank 0")
                self._store.set("over", "1")
            self.end_ranks()
            if dist.is_initialized():
                dist.destroy_process_group()
            for name, value in self._before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            torch.set_num_threads(self._threads)

    def _wait(self) -> None:
        for process in self._processes.values():
            try:
                process.wait(timeout=120)
            except subprocess.TimeoutExpired:
                break
        failure = self._failure()
        if failure is not None:
            raise RankFailure(failure)

    def _raise_first_failure(self, error: Exception) -> None:
        deadline = time.monotonic() + 2
        while self._processes and time.monotonic() < deadline and not (self._reported() or self._failure()):
            time.sleep(0.05)  # its connections close before the process has ended
        failure = self._reported() or self._failure()
        if failure is not None and _store_of_orders is None:
            raise RankFailure(failure) from error


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
