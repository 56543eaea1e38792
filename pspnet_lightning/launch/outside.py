"""Processes that torchrun, SLURM or a user has started: how they find each other and come to their jobs.

A store at a known address tells them *numbers* only: when the command began, how many jobs there have been, whether it
is over. The jobs themselves are files that rank 0 writes into the folder in which the command was started; the numbers
choose the name. A process reads such a file only if it belongs to its own user and is closed to others, so whoever
writes into the store, which listens on the network, can stop a run and cannot tell it what to do.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
import yaml
from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from pspnet_lightning.launch.group import CONNECT, Meeting

# Seconds: for a file to be seen on another machine, and for the others to end after rank 0.
SEEN = 60.0
LEFT = 60.0


@dataclass(frozen=True)
class Place:
    """Where this process stands among processes that were started from outside."""

    rank: int
    address: str
    port: int
    hosted: bool  # torchrun's agent keeps a store at address and port
    attempt: str = "0"


def place() -> Place | None:
    """None for a process that starts its other ranks itself."""
    variables = os.environ
    if TorchElasticEnvironment.detect():
        return Place(
            rank=int(variables["RANK"]),
            address=variables["MASTER_ADDR"],
            port=int(variables["MASTER_PORT"]),
            hosted=variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            attempt=variables.get("TORCHELASTIC_RESTART_COUNT", "0"),
        )
    if SLURMEnvironment.detect() and int(variables["SLURM_NTASKS"]) > 1:
        slurm = SLURMEnvironment()
        here = variables.get("SLURM_NNODES") == "1" and "MASTER_ADDR" not in variables
        return Place(slurm.global_rank(), "127.0.0.1" if here else slurm.main_address, slurm.main_port, hosted=False)
    if "MASTER_ADDR" in variables and "MASTER_PORT" in variables and ("NODE_RANK" in variables or "RANK" in variables):
        # One process a node, or each rank, started by hand.
        rank = int(variables.get("RANK", variables.get("NODE_RANK", 0)))
        return Place(rank, variables["MASTER_ADDR"], int(variables["MASTER_PORT"]), hosted=False)
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


def ranks_of(cfg: DictConfig) -> int | None:
    """How many ranks ``cfg`` asks for, where it says so in a number."""
    devices, nodes = cfg.trainer.devices, cfg.trainer.get("num_nodes", 1)
    return devices * nodes if isinstance(devices, int) and isinstance(nodes, int) and devices > 0 < nodes else None


class Gathering:
    """The processes of one command. Rank 0 hands out the jobs, the others ask for them in order.

    Raises OSError or RuntimeError where rank 0 cannot be reached.
    """

    def __init__(self, place: Place, folder: Path | None = None) -> None:
        self.place = place
        self.folder = Path.cwd() if folder is None else folder
        hosting = place.rank == 0 and not place.hosted
        listening = _loopback_socket(place) if hosting else None
        base = dist.TCPStore(
            place.address,
            place.port,
            is_master=hosting,
            wait_for_workers=False,
            timeout=CONNECT,
            multi_tenant=True,
            master_listen_fd=None if listening is None else listening.detach(),
        )
        self._prefix = f"pspnet/{place.attempt}"
        self._control = dist.PrefixStore(self._prefix, base)
        self._handed_out = 0
        self._file: Path | None = None
        if place.rank == 0:
            # No two commands in one folder have the same number.
            self._control.add("began", time.time_ns())
        else:
            self._control.add("joined", 1)

    def hand_out(self, orders: Mapping[str, Any]) -> OutsideJob:
        """Rank 0: one more job."""
        number, self._handed_out = self._handed_out, self._handed_out + 1
        self._file = self._path(self._control.add("began", 0), number)
        handle = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "w") as file:
            yaml.safe_dump(dict(orders), file, sort_keys=False)  # callbacks act in their order
        self._control.add("jobs", 1)
        return self.job(number)

    def taken(self) -> None:
        """Rank 0: all have read the job."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)
            self._file = None

    def next_job(self, number: int) -> dict[str, Any] | None:
        """Waits for job ``number`` for as long as the store is there; None where the command has ended before it.

        Rank 0 may take its time: it counts classes, and runs what of a sweep needs no other rank. Raises RuntimeError
        when rank 0 is gone, ValueError where the job's file is not there or not this user's.
        """
        while self._control.add("jobs", 0) <= number:
            if self._control.add("ended", 0):
                self._control.add("left", 1)
                return None
            time.sleep(0.05)
        path = self._path(self._control.add("began", 0), number)
        deadline = time.monotonic() + SEEN
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.1)  # another machine's file may take a moment to be seen
        return _own_yaml(path)

    def job(self, number: int) -> OutsideJob:
        prefix = f"job/{number}"
        meeting = Meeting(host=self.place.address, port=self.place.port, prefix=f"{self._prefix}/{prefix}/group")
        return OutsideJob(dist.PrefixStore(prefix, self._control), meeting)

    def end(self) -> None:
        """Rank 0: there is no further job. Waits until the others know, for the store may end with this process."""
        self.taken()
        with suppress(RuntimeError):
            self._control.add("ended", 1)
            deadline = time.monotonic() + LEFT
            while (missing := self._control.add("joined", 0) - self._control.add("left", 0)) > 0:
                if time.monotonic() > deadline:
                    print(
                        f"warning: {missing} of the other processes have not ended {LEFT:.0f} s after the last job",
                        file=sys.stderr,
                        flush=True,
                    )
                    break
                time.sleep(0.02)

    def _path(self, began: int, number: int) -> Path:
        return self.folder / f".pspnet-job-{began}-{number}.yaml"


class OutsideJob:
    """How one job of a ``Gathering`` goes: counts, and a text that is printed and no more."""

    def __init__(self, store: dist.Store, meeting: Meeting) -> None:
        self._store = store
        self.meeting = meeting

    def add_ready(self, count: int) -> None:
        self._store.add("ready", count)

    def ready(self) -> int:
        return self._store.add("ready", 0)

    def fail(self, text: str) -> bool:
        """Whether this is the first failure; only that one is kept."""
        return self._store.compare_set("failure", "", text).decode(errors="replace") == text

    def failure(self) -> str | None:
        try:
            if not self._store.check(["failure"]):
                return None
            text = self._store.get("failure").decode(errors="replace")
        except RuntimeError:
            return None
        return "".join(character if character.isprintable() else " " for character in text[:2000])

    def finish(self) -> None:
        """Rank 0: whoever fails from now on fails because of this."""
        with suppress(RuntimeError):
            self.fail("rank 0")
            self._store.add("over", 1)

    def over(self) -> bool:
        return self._store.add("over", 0) > 0


def _loopback_socket(place: Place) -> socket.socket | None:
    """torch's store listens on every interface, whatever its address; so, for the loopback, a socket of our own."""
    try:
        address = ipaddress.ip_address(socket.gethostbyname(place.address))
    except (OSError, ValueError):
        return None
    if not address.is_loopback:
        return None
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((str(address), place.port))
    listening.listen()
    return listening


def _own_yaml(path: Path) -> dict[str, Any]:
    """A file that this user alone has written."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise ValueError(
            f"{path}, in which rank 0 describes the job, cannot be read ({error.strerror}): all processes must be "
            f"started in one folder that every node sees"
        ) from None
    with open(handle) as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise ValueError(f"{path} is not a file of this user alone: it is not taken for rank 0's job")
        content: dict[str, Any] = yaml.safe_load(file)
    return content
