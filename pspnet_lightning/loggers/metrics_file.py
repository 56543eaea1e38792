"""metrics.csv over the whole run: a resumed run goes on in it, no row lost and none twice."""

from __future__ import annotations

import csv
import os
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from pspnet_lightning.disk import replacing

# Rows reach the file at every checkpoint and when so many seconds have passed.
_FLUSH_SECONDS = 5.0


class MetricsFile(Logger):
    """Writes ``<save_dir>/metrics.csv``, one row for each call, the columns sorted by name.

    An earlier file there is kept under a number (``metrics.1.csv``) unless the run is resumed from a checkpoint:
    ``RowsInCheckpoints`` then says how many of its rows belong to the checkpoint, and the rest is dropped.
    Where the disk is full the rows are kept until there is room, with a warning.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.count = 0
        self._columns: list[str] = []
        self._pending: list[dict[str, Any]] = []
        self._begun = False
        self._written = time.monotonic()
        self._warned = False

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._pending.append({**metrics, "step": self.count if step is None else step})
        self.count += 1

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None) -> None:
        """The run's folder holds the config."""

    @rank_zero_only
    def save(self) -> None:
        if time.monotonic() - self._written >= _FLUSH_SECONDS:
            self.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.flush()

    @rank_zero_only
    def flush(self) -> None:
        """Brings all rows to the file."""
        self._written = time.monotonic()
        if not self._pending:
            return
        try:
            self._begin()
            self._append()
        except OSError as error:
            if not self._warned:
                print(f"warning: {error.strerror}: {self.path}: kept in memory", file=sys.stderr, flush=True)
            self._warned = True

    @rank_zero_only
    def resume(self, rows: int, source: Path) -> None:
        """Begins with the first ``rows`` rows of ``source``, which may be this file."""
        earlier = _read(source)
        if len(earlier) < rows:
            print(
                f"warning: {source} has {len(earlier)} of the {rows} rows that the checkpoint knows of",
                file=sys.stderr,
                flush=True,
            )
        earlier = earlier[:rows]
        self.count, self._begun = len(earlier), True
        self._rewrite(earlier, sorted({name for row in earlier for name in row}))

    def _begin(self) -> None:
        if self._begun:
            return
        if self.path.is_file():
            number = 1
            while (kept := self.path.with_name(f"metrics.{number}.csv")).exists():
                number += 1
            self.path.rename(kept)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._begun = True

    def _append(self) -> None:
        columns = sorted({*self._columns, *(name for row in self._pending for name in row)})
        if columns != self._columns:
            self._rewrite([*_read(self.path), *self._pending], columns)
            self._pending = []
            return
        before = self.path.stat().st_size
        try:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerows(self._pending)
        except OSError:
            os.truncate(self.path, before)  # half a row
            raise
        self._pending = []

    def _rewrite(self, rows: list[dict[str, Any]], columns: list[str]) -> None:
        with replacing(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        self._columns = columns


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class RowsInCheckpoints(Callback):
    """Keeps in every checkpoint how many rows ``metrics.csv`` has, and sets the file back to them on resuming."""

    def __init__(self, logger: MetricsFile) -> None:
        self.logger = logger
        self._rows: int | None = None

    def state_dict(self) -> dict[str, Any]:
        self.logger.flush()
        return {"rows": self.logger.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rows = int(state_dict["rows"])

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._rows is None or trainer.ckpt_path is None:
            return
        own = self.logger.path
        # Resumed in another folder: the rows lie beside that run's checkpoints.
        source = own if own.is_file() else Path(trainer.ckpt_path).resolve().parent.parent / own.name
        self.logger.resume(self._rows, source)
        self._rows = None
