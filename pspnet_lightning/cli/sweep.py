"""What surrounds the jobs of a sweep, whichever engine starts them.

One failed job does not lose the others, a finished one is not run twice, two sweeps do not share a folder, and the
sweep ends with a table. Hydra's launchers and sweepers know none of this: they see a task that returns a number.
"""

from __future__ import annotations

import fcntl
import gc
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from pspnet_lightning.callbacks.report import write_json
from pspnet_lightning.cli.app import USER_ERRORS, explain, fail, quiet
from pspnet_lightning.config import as_plain
from pspnet_lightning.sweeps import Job, job_folders, read_job, read_sweep, swept_keys
from pspnet_lightning.sweeps.jobs import read_json
from pspnet_lightning.sweeps.table import outcome, recommendation, sweep_table

Task = Callable[[DictConfig], float]

# Keys in which a continued job may differ from itself.
_OWN = ("ckpt_path", "sweep")
# Launchers whose jobs run side by side on this terminal.
_SIDE_BY_SIDE = ("hydra_joblib_launcher", "hydra_ray_launcher")
_BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
STOPPED = "stopped.txt"  # written by a failed job under sweep.stop_on_error; jobs that see it do not start
_LOCK_SECONDS = 15.0  # a killed process's loaders outlive it for a few seconds


@dataclass(frozen=True)
class _Sweep:
    folder: Path
    mode: str  # "max" or "min"
    created: tuple[Path, ...]  # of the folder and those above it, what was not there before
    lock: int  # ends with the process, however it ends


_open: _Sweep | None = None  # what this process runs


# ------------------------------------------------------------------ one job


def run_job(cfg: DictConfig, task: Task) -> float:
    """``task(cfg)``; in a sweep, with what a job of a sweep needs around it.

    A failed job is reported, recorded in its run.json, and answers NaN, so that every sweeper goes on. With
    ``sweep.resume`` a job that finished earlier answers its recorded objective, and one that did not goes on from its
    last checkpoint.
    """
    composed = HydraConfig.get()
    if composed.mode != RunMode.MULTIRUN:
        return task(cfg)
    quiet()  # a worker of joblib or SLURM has not passed through app.run
    job = f"job {composed.job.num}"
    folder, sweep = Path(composed.runtime.output_dir), Path(composed.sweep.dir)
    if (sweep / STOPPED).is_file():
        _restore(folder)
        return float("nan")
    side_by_side = composed.launcher._target_.split(".")[1] in _SIDE_BY_SIDE
    began = time.monotonic()
    try:
        with _locked(folder, f"{job} is still being trained by another process"):
            if _continues(cfg):
                known = _resume(cfg, folder)
                if known is not None:
                    print(f"{job}: finished earlier, {known.objective_name} {known.objective:.4f}", flush=True)
                    return float(known.objective or 0.0)
            if not side_by_side:
                return task(cfg)
            print(f"{job}: started, its output is in {shown(folder / 'output.log')}", flush=True)
            with _output_to(folder / "output.log"):
                value = task(cfg)
            print(f"{job}: {cfg.objective} {value:.4f} after {time.monotonic() - began:.0f} s", flush=True)
            return value
    except ConfigChanged as error:
        _restore(folder)
        _stop(sweep, f"{job}: {error}")
    except Exception as error:
        _tell(job, error, folder if side_by_side else None)
        if cfg.sweep.stop_on_error:
            _stop(sweep, f"{job} failed and sweep.stop_on_error=true")
    # What the job held on the device is the next one's.
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return float("nan")


class ConfigChanged(ValueError):
    """A job that is to be continued has another config than the run in its folder."""


def _resume(cfg: DictConfig, folder: Path) -> Job | None:
    """The job as it finished earlier, or None; then ``cfg`` continues from its checkpoint, if it has one."""
    earlier = folder / "config.yaml"
    if not earlier.is_file():
        return None  # it never came to training
    changed = differences(as_plain(OmegaConf.load(earlier)), as_plain(cfg), folder)
    if changed:
        raise ConfigChanged(
            f"{shown(folder)} was trained with another config; sweep.resume=true continues a sweep with the same "
            f"settings only. Different are: {'; '.join(changed)}. Take another hydra.sweep.dir for the new settings"
        )
    job = read_job(folder)
    if job.finished:
        return job
    cfg.ckpt_path = "auto"
    return None


def _continues(cfg: DictConfig) -> bool:
    """By name, as ``ckpt_path=auto``, or requeued by SLURM: a job runs in the folder of its first attempt."""
    return bool(cfg.sweep.resume) or cfg.ckpt_path == "auto" or os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def _restore(folder: Path) -> None:
    """Puts back what Hydra has written over in the folder of an earlier run: what it was composed from."""
    config, words = folder / "config.yaml", read_json(folder / "run.json").get("overrides")
    if config.is_file() and words is not None:
        text = config.read_text().replace(str(folder), "${hydra:runtime.output_dir}")
        (folder / ".hydra" / "config.yaml").write_text(text)
        OmegaConf.save(OmegaConf.create(words), folder / ".hydra" / "overrides.yaml")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> list[str]:
    """Each key of two resolved configs whose values differ, as "key: old -> new".

    Paths below the run's own folder may differ in where it lies: the sweep may have been moved.
    """
    before, after = (dict(_flat({key: part[key] for key in part if key not in _OWN})) for part in (old, new))
    found = []
    for key in sorted({*before, *after}):
        was, now = before.get(key, "(absent)"), after.get(key, "(absent)")
        moved = isinstance(now, str) and now.startswith(str(folder)) and str(was).endswith(now[len(str(folder)) :])
        if was != now and not moved:
            found.append(f"{key}: {was} -> {now}")
    return found


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _tell(job: str, error: Exception, folder: Path | None) -> None:
    text = explain(error) if isinstance(error, USER_ERRORS) else repr(error)
    if not isinstance(error, USER_ERRORS) or os.environ.get("PSPNET_FULL_ERROR") == "1":
        # A defect of ours, or asked for.
        trace = "".join(traceback.format_exception(error))
        if folder is None:
            print(trace, file=sys.stderr, flush=True)
        else:
            with (folder / "output.log").open("a") as file:
                file.write(trace)
    print(f"{job} failed: {text}", file=sys.stderr, flush=True)


def _stop(sweep: Path, reason: str) -> None:
    (sweep / STOPPED).write_text(f"{reason}\n")
    print(f"the sweep stops: {reason}", file=sys.stderr, flush=True)


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Whatever is written to the screen meanwhile, by this process or by those that it starts, goes to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    screen = [(number, os.dup(number)) for number in (1, 2)]
    for number, _ in screen:
        os.dup2(file, number)
    os.close(file)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in screen:
            os.dup2(copy, number)
            os.close(copy)


# ------------------------------------------------------------------ the sweep


class SweepFolder(Callback):
    """Hydra's callback at the beginning of a sweep: the folder becomes this sweep's, or the sweep ends here."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        global _open
        folder = Path(config.hydra.sweep.dir)
        created = tuple(path for path in (folder, *folder.parents) if not path.exists())
        directions = {"maximize": "max", "minimize": "min"}
        try:
            if config.sweep.direction not in directions:
                raise ValueError(f"sweep.direction={config.sweep.direction!r} must be maximize or minimize")
            folder.mkdir(parents=True, exist_ok=True)
            lock = _lock(folder, f"another sweep is running in {shown(folder)}")
            taken = (folder / ".hydra").exists() or (folder / "multirun.yaml").exists()
            if not _continues(config) and (taken or any(job_folders(folder))):
                raise ValueError(
                    f"{shown(folder)} holds an earlier sweep or a run: sweep.resume=true continues it, another "
                    f"hydra.sweep.dir begins anew"
                )
        except (OSError, ValueError) as error:
            # Hydra makes a warning of any exception here.
            fail(explain(error))
        (folder / STOPPED).unlink(missing_ok=True)
        _open = _Sweep(folder, directions[config.sweep.direction], created, lock)
        print(f"sweep folder {shown(folder)}; {how_to_continue(folder)}", flush=True)


@contextmanager
def reported() -> Iterator[None]:
    """Ends a sweep that ran within: prints the table, names the jobs that failed, and exits with 1 if there are any."""
    global _open
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
    except SystemExit:
        if _open is not None and not _discard(_open):
            print(how_to_continue(_open.folder), file=sys.stderr)
        raise
    if _open is not None:
        sweep, _open = _open, None
        if not _summarise(sweep):
            raise SystemExit(1)


def _summarise(sweep: _Sweep) -> bool:
    """Prints how the sweep went and writes sweep.json; false if a job failed or is missing."""
    folder = sweep.folder
    try:
        jobs = read_sweep(folder)
    except ValueError:
        return False  # not even one job began
    write_json(outcome(jobs, mode=sweep.mode), folder / "sweep.json")
    if any(job.finished for job in jobs) and len(jobs) > 1:
        console = Console(width=None if sys.stdout.isatty() else 140)
        console.print(sweep_table(jobs, mode=sweep.mode))
        print(recommendation(jobs, mode=sweep.mode) or "", flush=True)
    keys = swept_keys(jobs)
    lost = [job for job in jobs if not job.finished]
    for job in lost:
        settings = ", ".join(f"{key}={job.setting(key)}" for key in keys)
        print(f"job {job.name} {job.status}: {settings}: {job.error or shown(job.folder)}", file=sys.stderr)
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
    with suppress(OSError):
        for path in sweep.created:
            path.rmdir()
    return True


def how_to_continue(folder: Path) -> str:
    return f"to continue it: the same command with hydra.sweep.dir={shown(folder)} sweep.resume=true"


# ------------------------------------------------------------------ locks


@contextmanager
def _locked(folder: Path, message: str) -> Iterator[None]:
    handle = _lock(folder, message)
    try:
        yield
    finally:
        if handle >= 0:
            os.close(handle)


def _lock(folder: Path, message: str) -> int:
    """Locks a folder for as long as this process lives; no file is left. -1 where the file system has no locks."""
    handle = os.open(folder, os.O_RDONLY)
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(handle)
                raise ValueError(f"{message}; wait for it, or end it") from None
            time.sleep(0.2)
        except OSError:  # NFS locks no folders
            os.close(handle)
            return -1


def shown(path: Path) -> str:
    """A path relative to where the user stands, if it lies below."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
