"""The jobs of a sweep, read from what they wrote.

A job is a folder that a training run wrote: ``.hydra/overrides.yaml``, ``config.yaml``, ``run.json``, ``results.json``
and ``metrics.csv``, each of which may be missing while, or because, the job has not finished.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Job:
    """One training run of a sweep, as far as its folder tells.

    ``status`` is run.json's ("finished", "failed", ...), "finished" where only results.json is there, and
    "unfinished" otherwise. ``overrides`` maps a key of the command line to its text ("model.bins" -> "[1,2]"), without
    Hydra's own. ``config`` is the resolved config, or what the job was composed from where it did not come that far.
    ``objective`` is None where the job has none, or none that is finite. ``record`` is all of run.json.
    """

    folder: Path
    name: str
    status: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    objective: float | None = None
    objective_name: str = "val/miou"
    results: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    seconds: float | None = None
    pruned: bool = False
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Ended of itself with an objective; also where it was stopped early (``pruned``)."""
        return self.status == "finished" and self.objective is not None

    def setting(self, key: str) -> str:
        """The text of one key of the command line, or, where this job's has none, of its config."""
        if key in self.overrides:
            return self.overrides[key]
        return as_text(look_up(self.config, key))

    def value(self, metric: str | None = None) -> float | None:
        """The objective, or a number of results.json ("miou", "macc", "aacc", also as "val/miou"); None if absent."""
        if metric is None or metric == self.objective_name:
            return self.objective
        return finite(self.results.get(metric.removeprefix("val/")))


def read_sweep(folder: str | Path) -> list[Job]:
    """The jobs below a sweep's folder, in the order of their names, numbers by value.

    Raises ValueError where the folder is missing or holds no job.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"sweep folder {str(folder)!r} does not exist")
    jobs = [read_job(path, name=str(path.relative_to(folder))) for path in job_folders(folder)]
    if not jobs:
        raise ValueError(f"{str(folder)!r} holds no job of a sweep: no folder below it has .hydra/ or run.json")
    return sorted(jobs, key=lambda job: natural(job.name))


def job_folders(folder: Path) -> Iterator[Path]:
    """Every folder below ``folder`` (itself left out) that a run wrote; runs are not searched for runs."""
    for root, folders, files in os.walk(folder):
        here = Path(root)
        if here != folder and (".hydra" in folders or "run.json" in files):
            folders.clear()
            yield here
        folders[:] = [name for name in folders if not name.startswith(".")]


def read_job(folder: str | Path, *, name: str | None = None) -> Job:
    """One run's folder. Files that are missing or torn count as not there: a killed run is no error."""
    folder = Path(folder)
    run = read_json(folder / "run.json")
    results = read_json(folder / "results.json")
    recorded = run.get("objective") or {}
    objective = finite(recorded.get("value"))
    status = run.get("status") or ("finished" if results else "unfinished")
    if not run and results.get("split", "val") == "val":
        objective = finite(results.get("miou"))
    # Hydra rewrites its own file before a job that is continued can object.
    lines = run.get("overrides") or _read_yaml(folder / ".hydra" / "overrides.yaml") or []
    return Job(
        folder=folder,
        name=name or folder.name,
        status=status,
        overrides=parse_overrides(lines),
        config=_read_yaml(folder / "config.yaml") or _read_yaml(folder / ".hydra" / "config.yaml") or {},
        objective=objective,
        objective_name=recorded.get("name") or "val/miou",
        results=results,
        error=run.get("error"),
        seconds=finite(run.get("seconds")),
        pruned=(folder / "pruned.json").is_file(),
        record=run,
    )


def parse_overrides(lines: Iterable[str]) -> dict[str, str]:
    """Words of a command line, ``key=value``, as a dict; of a key given twice the last counts, as Hydra has it.

    What says how to run and not what (Hydra's keys, ``sweep.resume``, ``ckpt_path``) is left out.
    """
    found = {}
    for line in lines:
        key, _, value = str(line).partition("=")
        key = key.lstrip("+~")
        if key not in ("hydra", "ckpt_path") and not key.startswith(("hydra.", "hydra/", "sweep.")):
            found[key] = value.replace(" ", "")
    return found


def history(folder: str | Path, metric: str = "val/miou") -> dict[int, float]:
    """A metric by epoch, from metrics.csv and the numbered ones that a resumed run kept; the later file counts."""
    folder = Path(folder)
    kept = sorted(folder.glob("metrics.*.csv"), key=lambda path: natural(path.name))
    found: dict[int, float] = {}
    for path in [*kept, folder / "metrics.csv"]:
        try:
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    value = finite(row.get(metric))
                    if value is not None and row.get("epoch"):
                        found[int(row["epoch"])] = value
        except (OSError, ValueError, csv.Error):
            continue  # not there, or cut off in a number
    return found


def look_up(config: Mapping[str, Any], key: str) -> Any:
    """``config["model"]["bins"]`` for "model.bins"; None where it is not there."""
    node: Any = config
    for part in key.replace("/", ".").split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node


def as_text(value: Any) -> str:
    """A config's value in the spelling of the command line: [1,2], true, null."""
    if isinstance(value, list | tuple):
        return "[" + ",".join(as_text(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_text(item)}" for key, item in value.items()) + "}"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def finite(value: Any) -> float | None:
    """``value`` as a float, None where it is no finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def natural(name: str) -> list[tuple[int, int | str]]:
    """A sorting key by which "2" stands before "10"."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is missing or torn."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None
