"""The jobs of a sweep, read from what they wrote.

A job is a folder that a training run wrote: ``.hydra/overrides.yaml``, ``config.yaml``, ``run.json``, ``results.json``
and ``metrics.csv``, each of which may be missing while, or because, the job has not finished.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pspnet_lightning.runs import plain_files
from pspnet_lightning.runs.fields import finite, node, printable, record_of, results_of, texts, whole

_LARGEST_CSV = 64 * 2**20  # some 300,000 rows
_LAST_EPOCH = 1_000_000
_DEEPEST_FOLDER = 12  # of a run below its sweep


@dataclass(frozen=True)
class Job:
    """One training run of a sweep, as far as its folder tells.

    ``status`` is run.json's ("finished", "failed", ...), "finished" where only results.json is there, and
    "unfinished" otherwise. ``overrides`` maps a key of the command line to its text ("model.bins" -> "[1,2]"), without
    Hydra's own. ``config`` is the resolved config, or what the job was composed from where it did not come that far.
    ``objective`` is None where the job has none, or none that is finite. ``record`` is what else is read of run.json.
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
        deep = len(here.relative_to(folder).parts) >= _DEEPEST_FOLDER
        folders[:] = [] if deep else [name for name in folders if not name.startswith(".")]


def read_job(folder: str | Path, *, name: str | None = None) -> Job:
    """One run's folder. Files that are missing, torn or too large, and fields of another type, count as not there."""
    folder = Path(folder)
    written = read_json(folder / "run.json")
    run = record_of(written)
    found = read_json(folder / "results.json")
    results = results_of(found) if found else {}
    objective = run["objective"]["value"]
    status = run["status"] or ("finished" if results else "unfinished")
    if not written and results.get("split") == "val":
        objective = results.get("miou")
    # Hydra rewrites its own file before a job that is continued can object.
    lines = run["overrides"] or texts(_read_yaml(folder / ".hydra" / "overrides.yaml"))
    config = node(_read_yaml(folder / "config.yaml")) or node(_read_yaml(folder / ".hydra" / "config.yaml"))
    return Job(
        folder=folder,
        name=printable(name or folder.name),
        status=status,
        overrides=parse_overrides(lines),
        config=config,
        objective=objective,
        objective_name=run["objective"]["name"] or "val/miou",
        results=results,
        error=run["error"],
        seconds=run["seconds"],
        pruned=(folder / "pruned.json").is_file(),
        record=run if written else {},
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
            for row in csv.DictReader(io.StringIO(plain_files.read_text(path, _LARGEST_CSV))):
                value, epoch = finite(row.get(metric)), whole(row.get("epoch"))
                if value is not None and epoch is not None and epoch <= _LAST_EPOCH:
                    found[epoch] = value
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
        return "{" + ",".join(f"{as_text(key)}:{as_text(item)}" for key, item in value.items()) + "}"
    if value is None:
        return "null"
    if isinstance(value, str) and "${" in value:
        return "(not resolved)"
    return str(value).lower() if isinstance(value, bool) else printable(str(value))


def natural(name: str) -> list[tuple[int, int | str]]:
    """A sorting key by which "2" stands before "10"."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where the file is missing, torn or too large."""
    try:
        content = plain_files.read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_yaml(path: Path) -> Any:
    try:
        return plain_files.read_yaml(path)
    except (OSError, ValueError):
        return None
