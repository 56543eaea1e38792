"""What surrounds the jobs of a sweep, whichever engine starts them.

One failed job does not lose the others (``sweep_job``), two sweeps do not share a folder, and the sweep ends with a
table. Hydra's launchers and sweepers know none of this: they see a task that returns a number.
"""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console

from pspnet_lightning.launch.app import NOTHING_KEPT, fail, keeping, message_of, relative
from pspnet_lightning.launch.locks import Lock, lock
from pspnet_lightning.launch.sweep_job import STOPPED, continues
from pspnet_lightning.report import gather, verdict
from pspnet_lightning.report.outcome import outcome, sweep_table
from pspnet_lightning.runs import job_folders, swept_keys
from pspnet_lightning.runs.json_files import write_json


@dataclass(frozen=True)
class _Sweep:
    folder: Path
    mode: str  # "max" or "min"
    created: tuple[Path, ...]  # of the folder and those above it, what was not there before
    lock: Lock


_open: _Sweep | None = None  # what this process runs
_run: Lock | None = None  # of the folder of a single run


class SweepFolder(Callback):
    """Hydra's callback at the beginning: the folder becomes this sweep's, or this run's, or the command ends here.

    Before Hydra writes anything there: another process may be at work in it.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        global _run
        folder = Path(config.hydra.run.dir)
        with suppress(OSError):  # Hydra says what is wrong with it
            folder.mkdir(parents=True, exist_ok=True)
        try:
            _run = lock(folder, f"run folder {relative(folder)}", "give another hydra.run.dir=...")
        except (OSError, ValueError) as error:
            fail(message_of(error))  # Hydra makes a warning of any exception here

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        global _open
        folder = Path(config.hydra.sweep.dir)
        created = tuple(path for path in (folder, *folder.parents) if not path.exists())
        directions = {"maximize": "max", "minimize": "min"}
        try:
            if config.sweep.direction not in directions:
                raise ValueError(f"sweep.direction={config.sweep.direction!r} must be maximize or minimize")
            folder.mkdir(parents=True, exist_ok=True)
            held = lock(folder, f"sweep folder {relative(folder)}", "give another hydra.sweep.dir=...")
            taken = (folder / ".hydra").exists() or (folder / "multirun.yaml").exists()
            if not continues(config) and (taken or any(job_folders(folder))):
                raise ValueError(
                    f"{relative(folder)} holds an earlier sweep or a run: sweep.resume=true continues it, another "
                    f"hydra.sweep.dir begins anew"
                )
        except (OSError, ValueError) as error:
            # Hydra makes a warning of any exception here.
            fail(message_of(error))
        keeping(partial(_kept, folder))
        (folder / STOPPED).unlink(missing_ok=True)
        _open = _Sweep(folder, directions[config.sweep.direction], created, held)
        print(f"sweep folder {relative(folder)}; {how_to_continue(folder)}", flush=True)


@contextmanager
def reported() -> Iterator[None]:
    """Ends a sweep that ran within: prints the table, names the jobs that failed, and exits with 1 if there are any."""
    global _open, _run
    try:
        yield
    except Exception as error:
        # The launcher itself broke: a worker was killed, a job of the queue never came back.
        if _open is None:
            raise
        traceback.print_exc()
        print(f"error: the launcher failed: {error}", file=sys.stderr)
        _summarise(_open)
        fail(f"the sweep has not finished; {how_to_continue(_open.folder)}")
    except SystemExit as stop:
        # Of Ctrl-C one line is enough, and it says how to go on.
        if _open is not None and not _discard(_open) and stop.code != 130:
            print(how_to_continue(_open.folder), file=sys.stderr)
        raise
    finally:
        if _run is not None:
            _run.release()
        if _open is not None:
            _open.lock.release()
        _run = None
    if _open is not None:
        sweep, _open = _open, None
        if not _summarise(sweep):
            raise SystemExit(1)


def _summarise(sweep: _Sweep) -> bool:
    """Prints how the sweep went and writes sweep.json; false if a job failed or is missing."""
    folder = sweep.folder
    try:
        content = gather(folder, mode=sweep.mode, pictures=0)
    except ValueError:
        return False  # not even one job began
    jobs = content.jobs
    write_json(outcome(content), folder / "sweep.json")
    if any(job.finished for job in jobs) and len(jobs) > 1:
        console = Console(width=None if sys.stdout.isatty() else 140)
        console.print(sweep_table(content))
        print("\n".join(verdict(content)))
        print(f"as a page: pspnet-report {shlex.quote(relative(folder))}", flush=True)
    keys = swept_keys(jobs)
    lost = [job for job in jobs if not job.finished]
    for job in lost:
        settings = ", ".join(f"{key}={job.setting(key)}" for key in keys)
        print(f"job {job.name} {job.status}: {settings}: {job.error or relative(job.folder)}", file=sys.stderr)
    stopped = folder / STOPPED
    if stopped.is_file():
        print(f"error: {stopped.read_text().strip()}; further jobs were not started", file=sys.stderr)
    if lost:
        print(f"error: {len(lost)} of {len(jobs)} jobs have not finished; {how_to_continue(folder)}", file=sys.stderr)
    return not lost and not stopped.is_file()


def _discard(sweep: _Sweep) -> bool:
    """Removes the folder of a sweep of which no job has begun, a typo's for one; false if there are jobs."""
    folder = sweep.folder
    if any(job_folders(folder)):
        return False
    for name in ("multirun.yaml", "trials.json", STOPPED):
        (folder / name).unlink(missing_ok=True)
    sweep.lock.release()
    with suppress(OSError):
        for path in sweep.created:
            path.rmdir()
    return True


def _kept(folder: Path) -> str:
    return f"what its jobs wrote is kept; {how_to_continue(folder)}" if any(job_folders(folder)) else NOTHING_KEPT


def how_to_continue(folder: Path) -> str:
    return f"to continue it: the same command with hydra.sweep.dir={relative(folder)} sweep.resume=true"
