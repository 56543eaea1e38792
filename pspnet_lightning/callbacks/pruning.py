"""Ending the hopeless runs of a sweep."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated, Literal

import lightning as L
from annotated_types import Ge
from lightning.pytorch.callbacks import Callback

from pspnet_lightning.runs import Job, history, read_sweep
from pspnet_lightning.runs.jobs import look_up
from pspnet_lightning.runs.json_files import write_json


class MedianPruning(Callback):
    """Stops a run whose best ``monitor`` so far is worse than the median of its sweep's finished runs at that epoch.

    The rule of Optuna's MedianPruner, on the runs' metrics.csv. Runs of another fold, and those that were stopped
    themselves, are left out. The sweep is the nearest folder above ``dirpath`` with a multirun.yaml; without one
    nothing is ever stopped. A stopped run is validated as usual and has a ``pruned.json``, by which tables know it.

    Raises ValueError for a ``mode`` other than maximize and minimize.
    """

    def __init__(
        self,
        dirpath: str,
        monitor: str = "val/miou",
        mode: Literal["maximize", "minimize"] = "maximize",
        fold: Annotated[int, Ge(0)] = 0,
        first_epoch: Annotated[int, Ge(0)] = 3,
        min_finished: Annotated[int, Ge(1)] = 3,
    ) -> None:
        if mode not in ("maximize", "minimize"):
            raise ValueError(f"mode={mode!r} must be maximize or minimize")
        self.folder = Path(dirpath)
        self.monitor = monitor
        self.sign = 1.0 if mode == "maximize" else -1.0
        self.fold = fold
        self.first_epoch = first_epoch
        self.min_finished = min_finished
        self._best: float | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            (self.folder / "pruned.json").unlink(missing_ok=True)
            # A resumed run has had epochs before.
            reached = [self.sign * value for value in history(self.folder, self.monitor).values()]
            self._best = max(reached, default=None)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        stop = trainer.is_global_zero and self._hopeless(trainer)
        # Files are read by one rank, so that all decide alike.
        if trainer.strategy.reduce_boolean_decision(stop, all=False):
            trainer.should_stop = True

    def _hopeless(self, trainer: L.Trainer) -> bool:
        value = trainer.callback_metrics.get(self.monitor)
        epoch = trainer.current_epoch
        if value is None:
            return False
        reached = self.sign * float(value)
        self._best = reached if self._best is None else max(self._best, reached)
        # The last epoch's validation is the run's result.
        if epoch < self.first_epoch or epoch + 1 == trainer.max_epochs:
            return False
        others = [history(job.folder, self.monitor).get(epoch) for job in self._siblings()]
        known = [self.sign * other for other in others if other is not None]
        if len(known) < self.min_finished or self._best >= statistics.median(known):
            return False
        best, median = self.sign * self._best, self.sign * statistics.median(known)
        print(
            f"stopped after epoch {epoch + 1}: {self.monitor} {best:.4f} at best, the median of {len(known)} finished "
            f"runs of this sweep is {median:.4f} here (callbacks.pruning)",
            flush=True,
        )
        content = {"epoch": epoch, "monitor": self.monitor, "best": best, "median": median, "finished": len(known)}
        write_json(content, self.folder / "pruned.json")
        return True

    def _siblings(self) -> list[Job]:
        sweep = next((above for above in self.folder.parents if (above / "multirun.yaml").is_file()), None)
        if sweep is None:
            return []
        return [
            job
            for job in read_sweep(sweep)
            if job.folder != self.folder
            and job.finished
            and not job.pruned
            and (look_up(job.config, "data.fold") or 0) == self.fold
        ]
