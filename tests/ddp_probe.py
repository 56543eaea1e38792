"""What tests of several ranks share: a callback that writes down what a step computes, and a look at processes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

REPOSITORY = Path(__file__).resolve().parent.parent
# The environment in which a run finds the package and this callback.
PATHS = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])}


class Probe(Callback):
    """Writes ``<dirpath>/rank<r>.pt``: losses, the first optimiser step's gradients, names of images, validation sums.

    ``blank`` ranks (a list) get labels that are all ignored. With ``freeze`` neither BatchNorm nor dropout train.
    """

    def __init__(self, dirpath: str, blank: list[int] | None = None, *, freeze: bool = True) -> None:
        self.folder = Path(dirpath)
        self.freeze = freeze
        self.blank = blank or []
        self.seen: dict[str, Any] = {"losses": [], "train": [], "val": [], "pid": os.getpid()}
        # What a peer sends is never unpickled: torch's object collectives fail from here on.
        torch.distributed.distributed_c10d._tensor_to_object = None  # type: ignore[assignment]

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        for module in pl_module.modules():
            if self.freeze and isinstance(module, nn.modules.batchnorm._BatchNorm | nn.Dropout2d | nn.Dropout):
                module.eval()
        self.seen["train"].append(list(batch["name"]))
        if trainer.global_rank in self.blank:
            batch["label"].fill_(pl_module.ignore_index)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen["losses"].append(float(trainer.callback_metrics["train/loss"]))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        if "gradients" not in self.seen:
            self.seen["gradients"] = {name: value.grad.clone() for name, value in pl_module.model.named_parameters()}

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.state.fn == "fit":
            self.seen["val"] += [name for group in batch for name in group["name"]]

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.state.fn == "fit":
            self.seen["confusion"] = pl_module.confusion.compute().clone()
            self.seen["val_loss"] = float(pl_module.val_loss.compute())

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.seen["listening"] = listening()

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save(self.seen, self.folder / f"rank{trainer.global_rank}.pt")


def listening(port: int | None = None) -> set[str]:
    """The addresses, in hexadecimal, on which this process listens; or on which any process does, at ``port``."""
    own = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            own.add(os.readlink(descriptor))
        except OSError:
            continue
    found = set()
    for kind in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            fields = line.split()
            address, number = fields[1].split(":")
            ours = f"socket:[{fields[9]}]" in own if port is None else int(number, 16) == port
            if fields[3] == "0A" and ours:
                found.add(address)
    return found


def processes_with(variable: str) -> list[int]:
    """Ids of the processes whose environment holds ``NAME=value``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if variable.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def left_over(variable: str, seconds: float = 15) -> list[int]:
    """Processes whose environment holds ``NAME=value`` and that do not end by themselves: W&B's takes a moment."""
    deadline = time.monotonic() + seconds
    while (found := processes_with(variable)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found
