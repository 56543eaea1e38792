"""The process group of a job: where its members meet, how it is joined, and how it is left within a limit."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import lightning as L
import torch
import torch.distributed as dist

# How long a store is waited for, and a collective; the second is Lightning's.
CONNECT = timedelta(minutes=10)
COLLECTIVE = timedelta(minutes=30)
# Seconds in which a group must have closed its connections.
LEAVE = 30.0


@dataclass(frozen=True)
class Meeting:
    """Where the members of a process group find each other.

    ``file``: all are on this machine, and the file lies in a folder that only this user can open. Otherwise below
    ``prefix`` in the TCP store at ``host`` and ``port``. torch alone reads what stands there: addresses and ids.
    """

    file: str = ""
    host: str = ""
    port: int = 0
    prefix: str = ""

    def store(self, world: int) -> dist.Store:
        if self.file:
            store: dist.Store = dist.FileStore(self.file, world)
            store.set_timeout(CONNECT)
            return store
        return dist.PrefixStore(self.prefix, dist.TCPStore(self.host, self.port, is_master=False, timeout=CONNECT))


def join(trainer: L.Trainer, meeting: Meeting) -> None:
    """Makes this process a member of the job's group; Lightning takes a group that is there already."""
    device = trainer.strategy.root_device
    chosen = getattr(trainer.strategy, "process_group_backend", None)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        chosen or dist.get_default_backend_for_device(device),
        store=meeting.store(trainer.world_size),
        rank=trainer.global_rank,
        world_size=trainer.world_size,
        timeout=COLLECTIVE,
        device_id=None if device.type == "cpu" else device,
    )
    # Lightning's own unpickles what rank 0 sends: where checkpoints lie, whether time is up.
    strategy: Any = trainer.strategy
    strategy.broadcast = partial(broadcast, device=device)


def broadcast(value: Any, src: int = 0, *, device: torch.device) -> Any:
    """``value`` of rank ``src``, on every rank: what JSON can say. Raises TypeError there for anything else."""
    content = json.dumps(value, default=os.fspath).encode() if dist.get_rank() == src else b""
    length = torch.tensor(len(content), device=device)
    dist.broadcast(length, src)
    tensor = torch.tensor(list(content or bytes(int(length))), dtype=torch.uint8, device=device)
    dist.broadcast(tensor, src)
    return json.loads(bytes(tensor.tolist()))


def leave() -> None:
    """Leaves the group, if there is one. NCCL may wait for a peer that has gone: only so long."""
    if dist.is_initialized():
        within(LEAVE, dist.destroy_process_group, "the process group has not closed its connections")


def within(seconds: float, action: Callable[[], object], otherwise: str) -> bool:
    """Calls ``action``, and goes on without its end if that takes longer; then says so."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        print(f"warning: {otherwise} within {seconds:.0f} s; not waited for any longer", file=sys.stderr, flush=True)
    return not thread.is_alive()


def keep_to_this_machine() -> None:
    """Gloo's connections on the loopback, where a user has not chosen an interface."""
    names = [name for _, name in socket.if_nameindex()]
    for name in ("lo", "lo0"):
        if name in names:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
