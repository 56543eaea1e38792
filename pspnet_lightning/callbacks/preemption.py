"""Making way: SIGTERM and SIGUSR1 end a run at its next step, with a checkpoint and an exit code to requeue on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn

from pspnet_lightning.callbacks.checkpoints import StepBoundary, as_between_batches, as_mid_epoch, epoch_is_cut
from pspnet_lightning.runs.preempted import Preempted

# Ranks compare notes every so many validation batches; on a single process each is looked at.
_EVERY = 8


class Preemption(Checkpoint):
    """``with Preemption(dirpath) as callback``: SIGTERM and SIGUSR1 write ``<dirpath>/last.ckpt`` and raise Preempted.

    In training at the next optimiser step, in validation at its next batch (it is run again on resuming); at once
    where nothing is being trained. All ranks stop at the same step, whichever of them was signalled. With EMA weights
    a validation is finished first: its weights are swapped meanwhile.

    Lightning's own handling is switched off: on several ranks it ends the others or hangs, and on SLURM it
    writes a checkpoint in the middle of a step. What it does there is done here: a job that SIGUSR1 warned of its
    time limit is put back into the queue (``scontrol requeue``). A handler that was installed before, such as
    submitit's, is called instead once the checkpoint is written; submitit's SIGUSR2 is heeded like SIGUSR1.

    A Checkpoint to Lightning, so that at an epoch's end it comes after those that keep the best and the last.
    ``leads`` is False on ranks that were handed the job: they stop when all agree, and requeue nothing.
    """

    def __init__(self, dirpath: Path, *, leads: bool = True) -> None:
        self.path = dirpath / "last.ckpt"
        self.leads = leads
        self.received: int | None = None
        self._previous: dict[int, Any] = {}
        self._boundary = StepBoundary()
        self._training = False
        self._validating = False
        self._shared_batches = 0
        self._group: Any = None

    # ------------------------------------------------------------------ signals

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            wanted = [signal.SIGTERM, signal.SIGUSR1]
            if callable(signal.getsignal(signal.SIGUSR2)):
                wanted.append(signal.SIGUSR2)
            self._previous = {number: signal.signal(number, self._note) for number in wanted}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if isinstance(error, Preempted) and self.leads:
            previous = self._previous.get(error.signal)
            if callable(previous):
                previous(error.signal, None)
            elif error.signal == signal.SIGUSR1 and SLURMEnvironment.detect():
                _requeue()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signum
            if self.leads:
                # Not print: the signal may have come while something is being printed.
                os.write(2, f"{signal.Signals(signum).name}: stopping at the next step\n".encode())
        if not self._training:
            self.stop_if_asked()

    def stop_if_asked(self) -> None:
        """Raises Preempted where a signal has come; for times at which nothing needs to be saved."""
        if self.received is not None and self.leads:
            raise Preempted(self.received)

    # ------------------------------------------------------------------ where to stop

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._training = True
        if trainer.world_size > 1 and dist.is_initialized():
            # Instead of Lightning's broadcast of rank 0's signal before every step; on the CPU, which waits for no GPU.
            trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]
            self._group = dist.new_group(backend="gloo")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._training = False

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._boundary.reached(trainer, batch_idx) and self._all_asked():
            self._stop(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._boundary.batch_done()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._all_asked():
            self._stop(trainer)
        if epoch_is_cut(trainer) and not vars(trainer)["fast_dev_run"]:
            # The run ends here, perhaps for now only: whatever the other callbacks keep, it can go on.
            trainer.save_checkpoint(self.path)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validating = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not self._validating:
            return
        total = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
        if vars(total)["processed"] != vars(total)["started"]:
            total.reset()  # resumed in mid-validation: Lightning would take every later checkpoint for such a one
        batches = trainer.num_val_batches
        self._shared_batches = int(min(sum(batches) if isinstance(batches, list) else batches, 2**62))
        if self._group is not None:
            shared = torch.tensor(self._shared_batches)
            dist.all_reduce(shared, dist.ReduceOp.MIN, group=self._group)
            self._shared_batches = int(shared)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not self._validating or any(
            isinstance(callback, WeightAveraging) for callback in vars(trainer)["callbacks"]
        ):
            return
        alone = self._group is None
        if (alone or ((batch_idx + 1) % _EVERY == 0 and batch_idx < self._shared_batches)) and self._all_asked():
            self._stop(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validating = False
        self._boundary.validated()

    def _all_asked(self) -> bool:
        if self._group is not None:
            asked = torch.tensor(self.received or 0)
            dist.all_reduce(asked, dist.ReduceOp.MAX, group=self._group)
            self.received = int(asked) or None
        return self.received is not None

    def _stop(self, trainer: L.Trainer) -> None:
        assert self.received is not None
        if not vars(trainer)["fast_dev_run"]:
            trainer.save_checkpoint(self.path)
            if trainer.is_global_zero and not getattr(trainer.strategy.checkpoint_io, "failed", False):
                print(
                    f"{signal.Signals(self.received).name}: stopped at step {trainer.global_step}, kept in "
                    f"{os.path.relpath(self.path)}; ckpt_path=auto goes on from there",
                    file=sys.stderr,
                    flush=True,
                )
        self._training = False
        raise Preempted(self.received)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        as_between_batches(checkpoint)
        if self._training and epoch_is_cut(trainer):
            as_mid_epoch(checkpoint)
        if self._validating:
            # As Lightning knows a run that stopped in the first batch of its validation.
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            for counts in (progress["total"], progress["current"]):
                counts.update(ready=1, started=1, processed=0, completed=0)
            progress["is_last_batch"] = False


def _nothing() -> None:
    pass


def _requeue() -> None:
    """Puts this SLURM job, or this task of an array, back into the queue."""
    job = os.environ["SLURM_JOB_ID"]
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        problem = done.stderr.strip() if done.returncode else None
    except OSError as error:
        problem = str(error)
    if problem is None:
        print(f"SLURM job {job} is in the queue again", file=sys.stderr, flush=True)
    else:
        print(f"warning: SLURM job {job} could not be requeued: {problem}", file=sys.stderr, flush=True)
