"""One job of a sweep: its failure is reported and loses no other, and what finished earlier is not run again."""

from __future__ import annotations

import gc
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from pspnet_lightning.config import as_plain
from pspnet_lightning.launch.app import message_of, quiet, relative, user_errors
from pspnet_lightning.launch.locks import locked
from pspnet_lightning.runs import Job, read_job
from pspnet_lightning.runs.jobs import read_json
from pspnet_lightning.runs.plain_files import read_yaml

Task = Callable[[DictConfig], float]

# Keys in which a continued job may differ from itself.
_OWN = ("ckpt_path", "sweep")
# Launchers whose jobs run side by side on this terminal.
_SIDE_BY_SIDE = ("hydra_joblib_launcher", "hydra_ray_launcher")
_PATIENCE = 15.0  # seconds: a killed launcher's workers outlive it for a few
STOPPED = "stopped.txt"  # written by a failed job under sweep.stop_on_error; jobs that see it do not start


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
        with locked(folder, f"folder {relative(folder)} of {job}", patience=_PATIENCE):
            if continues(cfg):
                known = _resume(cfg, folder)
                if known is not None:
                    print(f"{job}: finished earlier, {known.objective_name} {known.objective:.4f}", flush=True)
                    return float(known.objective or 0.0)
            if not side_by_side:
                return task(cfg)
            print(f"{job}: started, its output is in {relative(folder / 'output.log')}", flush=True)
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
    trained = read_yaml(earlier)
    if not isinstance(trained, dict):
        raise ValueError(f"{relative(earlier)} is no config of a run")
    changed = changed_keys(trained, as_plain(cfg), folder)
    if changed:
        raise ConfigChanged(
            f"{relative(folder)} was trained with another config; sweep.resume=true continues a sweep with the same "
            f"settings only. Different are: {'; '.join(changed)}. Take another hydra.sweep.dir for the new settings"
        )
    job = read_job(folder)
    if job.finished:
        return job
    cfg.ckpt_path = "auto"
    return None


def continues(cfg: DictConfig) -> bool:
    """By name, as ``ckpt_path=auto``, or requeued by SLURM: a job runs in the folder of its first attempt."""
    return bool(cfg.sweep.resume) or cfg.ckpt_path == "auto" or os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def _restore(folder: Path) -> None:
    """Puts back what Hydra has written over in the folder of an earlier run: what it was composed from."""
    config, words = folder / "config.yaml", read_json(folder / "run.json").get("overrides")
    if config.is_file() and words is not None:
        text = config.read_text().replace(str(folder), "${hydra:runtime.output_dir}")
        (folder / ".hydra" / "config.yaml").write_text(text)
        (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(words, allow_unicode=True))


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> list[str]:
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
    text = message_of(error) if isinstance(error, user_errors()) else repr(error)
    if not isinstance(error, user_errors()) or os.environ.get("PSPNET_FULL_ERROR") == "1":
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
