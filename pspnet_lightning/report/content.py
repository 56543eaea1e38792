"""What a report says, gathered from the jobs' folders; how it looks is the business of ``html`` and ``markdown``."""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pspnet_lightning.metrics import Interval
from pspnet_lightning.report.pictures import PictureRow, picture_rows
from pspnet_lightning.runs import (
    REPETITIONS,
    Comparison,
    Group,
    Job,
    against_paper,
    best_group,
    compare,
    group_jobs,
    history,
    read_job,
    read_sweep,
    swept_keys,
)
from pspnet_lightning.runs.differences import class_differences, holm
from pspnet_lightning.runs.fields import printable
from pspnet_lightning.runs.jobs import as_text, look_up, parse_overrides, read_json
from pspnet_lightning.runs.sweep_images import SweepImages

# Scores between 0 and 1 that are shown in per cent.
_SHARES = ("miou", "macc", "aacc")
_NAMES = {"miou": "mIoU", "macc": "mAcc", "aacc": "aAcc"}
# What of a config says what was run, in this order.
_FACTS = {
    "data set": "data._target_",
    "crop": "data.crop_size",
    "batch": "data.batch_size",
    "epochs": "data.epochs",
    "learning rate": "data.lr",
    "backbone depth": "model.depth",
    "output stride": "model.output_stride",
    "bins": "model.bins",
    "loss": "loss._target_",
    "precision": "trainer.precision",
    "devices": "trainer.devices",
}


@dataclass(frozen=True)
class Series:
    """One setting's curve: the mean over its jobs by epoch, and each job's own. ``rank``: its group's place."""

    rank: int
    label: str
    mean: Mapping[int, float]
    jobs: tuple[Mapping[int, float], ...]


@dataclass(frozen=True)
class ClassRow:
    """One class: the mean IoU of each setting in per cent, None where it is in none of its jobs."""

    name: str
    iou: tuple[float | None, ...]


@dataclass(frozen=True)
class Content:
    """Everything a report says. ``groups`` are ranked, the best first; ``reference`` is what they are compared with.

    ``metric`` is as in ``Job.value``, ``mode`` "max" or "min", ``single`` whether the folder is one run's.
    """

    folder: Path
    jobs: tuple[Job, ...]
    groups: tuple[Group, ...]
    metric: str
    mode: str
    single: bool
    pictures: tuple[PictureRow, ...] = field(default=())

    # -------------------------------------------------------------- names

    @property
    def title(self) -> str:
        return printable(self.folder.resolve().name)

    @property
    def metric_name(self) -> str:
        """ "val/miou" as "mIoU, %"."""
        return f"{_NAMES[self.metric.rpartition('/')[2]]}, %" if self.in_percent else self.metric

    @property
    def in_percent(self) -> bool:
        return self.metric.rpartition("/")[2] in _SHARES

    def scaled(self, value: float | None) -> float | None:
        """A value of the metric as it is shown: shares in per cent."""
        return None if value is None else value * (100 if self.in_percent else 1)

    @cached_property
    def keys(self) -> list[str]:
        """The swept keys but seed and fold."""
        return list(self.groups[0].settings) if self.groups else []

    @cached_property
    def swept(self) -> list[tuple[str, list[str]]]:
        """Every swept key, seed and fold too, with its values in the order of the jobs."""
        return [(key, list(dict.fromkeys(job.setting(key) for job in self.jobs))) for key in swept_keys(self.jobs)]

    def name(self, group: Group) -> str:
        """A setting as it is called in tables: "[1,2]", or "bins=[1,2] lr=0.01" where several keys are swept."""
        if len(group.settings) == 1:
            return short(next(iter(group.settings.values())))
        words = (f"{key.rpartition('.')[2]}={short(value)}" for key, value in group.settings.items())
        return " ".join(words) or "this run"

    def repetition_name(self, repetition: tuple[str, ...]) -> str:
        """ "seed 0, fold 2", of which only what differs among the jobs is named."""
        varied = [key for key in REPETITIONS if len({job.setting(key) for job in self.jobs}) > 1]
        parts = [
            f"{key.rpartition('.')[2]} {value}"
            for key, value in zip(REPETITIONS, repetition, strict=True)
            if key in varied
        ]
        return ", ".join(parts) or "score"

    # ------------------------------------------------------------ results

    @cached_property
    def repetitions(self) -> list[tuple[str, ...]]:
        """The seeds and folds that any setting has finished, in the order of the jobs."""
        order = dict.fromkeys(tuple(job.setting(key) for key in REPETITIONS) for job in self.jobs)
        done = {repetition for group in self.groups for repetition in group.by_repetition()}
        return [repetition for repetition in order if repetition in done]

    @cached_property
    def best(self) -> Group | None:
        return best_group(self.groups, self.mode)

    @cached_property
    def comparisons(self) -> dict[int, Comparison]:
        """By ``id`` of the group: how it compares with the reference; see ``runs.compare``."""
        return {id(item.difference.group): item for item in compare(self.groups, self.mode, self.images)}

    @cached_property
    def images(self) -> SweepImages:
        """What the runs kept of their single images."""
        return SweepImages(self.groups, self.metric)

    @cached_property
    def to_paper(self) -> bool:
        """Whether settings are compared with the paper's bins; otherwise with the best setting."""
        return bool(against_paper(self.groups))

    @property
    def reference(self) -> str:
        return "the paper's bins [1,2,3,6]" if self.to_paper else "the best setting"

    @cached_property
    def scored(self) -> list[Group]:
        """The groups of which at least one job has finished."""
        return [group for group in self.groups if group.n]

    @cached_property
    def references(self) -> set[int]:
        """``id`` of the groups that others are compared with."""
        return {id(item.difference.baseline) for item in self.comparisons.values()}

    @cached_property
    def classes(self) -> list[ClassRow]:
        """Per-class IoU of the ``scored`` groups; empty where jobs have different classes, or none has finished."""
        names = {tuple(job.results.get("classes") or ()) for job in self.jobs if job.finished and not job.pruned}
        if len(names) != 1:
            return []
        rows = []
        for index, name in enumerate(next(iter(names))):
            means = []
            for group in self.scored:
                results = [job.results.get("iou") or [] for job in group.jobs if job.finished and not job.pruned]
                values = [iou[index] for iou in results if index < len(iou) and iou[index] is not None]
                means.append(100 * statistics.fmean(values) if values else None)
            rows.append(ClassRow(name, tuple(means)))
        return rows

    @cached_property
    def class_differences(self) -> dict[int, list[tuple[Interval, float]]]:
        """By ``id`` of the group: each class's difference to the reference, and p after Holm's adjustment over all."""
        found = {key: class_differences(item.difference, self.images) for key, item in self.comparisons.items()}
        tested = [(key, index) for key, row in found.items() for index, item in enumerate(row) if item.p == item.p]
        adjusted = dict(zip(tested, holm([found[key][index].p for key, index in tested]), strict=True))
        return {
            key: [(item, adjusted.get((key, index), math.nan)) for index, item in enumerate(row)]
            for key, row in found.items()
        }

    @cached_property
    def palette(self) -> dict[str, tuple[int, int, int]]:
        """The colour of each class, of the first job that tells."""
        for job in self.jobs:
            colours = job.results.get("palette")
            if colours:
                return {
                    name: (int(colour[0]), int(colour[1]), int(colour[2]))
                    for name, colour in zip(job.results.get("classes") or (), colours, strict=False)
                }
        return {}

    def curves(self, metric: str) -> list[Series]:
        """A metric by epoch for each group that has any."""
        found = []
        for rank, group in enumerate(self.groups):
            own = [curve for job in group.jobs if (curve := history(job.folder, metric))]
            epochs = sorted({epoch for curve in own for epoch in curve})
            mean = {epoch: statistics.fmean(curve[epoch] for curve in own if epoch in curve) for epoch in epochs}
            if mean:
                found.append(Series(rank, self.name(group), mean, tuple(own)))
        return found

    # --------------------------------------------------------------- jobs

    @cached_property
    def lost(self) -> list[Job]:
        """Jobs without a score: failed, killed, not finished yet."""
        return [job for job in self.jobs if not job.finished]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What all jobs have in common, of what matters most."""
        found = []
        swept = {key for key, _ in self.swept}
        for name, key in _FACTS.items():
            values = {as_text(look_up(job.config, key)) for job in self.jobs if look_up(job.config, key) is not None}
            if key not in swept and len(values) == 1:
                found.append((name, values.pop().rpartition(".")[2] if key.endswith("_target_") else values.pop()))
        commits = {commit[:10] for job in self.jobs if (commit := look_up(job.record, "git.commit"))}
        torch = {(job.record.get("versions") or {}).get("torch") for job in self.jobs if job.record.get("versions")}
        found += [("git commit", ", ".join(sorted(commits)))] if commits else []
        found += [("torch", ", ".join(sorted(map(str, torch))))] if torch else []
        return found

    def end(self, job: Job) -> str:
        """How a job without a score ended: its status and the last line of its error."""
        if job.error:
            return f"{job.status}: {job.error}"
        return "running: still at work, or killed" if job.status == "running" else job.status

    def settings(self, job: Job) -> str:
        """What tells this job from the others: "model.bins=[1] seed=0"."""
        return " ".join(f"{key}={short(job.setting(key))}" for key, _ in self.swept) or job.name

    def commands(self, job: Job) -> tuple[str, str]:
        """What repeats a job: from its folder, bit for bit, and from its settings alone."""
        words = [word for word in job.record.get("overrides") or [] if parse_overrides([word])]
        if not words:
            words = [f"{key}={value}" for key, value in job.overrides.items()]
        lines = ["pspnet-train", "--repeat", str(job.folder)], ["python", "train.py", *words]
        return printable(shlex.join(lines[0])), printable(shlex.join(lines[1]))


def gather(folder: str | Path, *, metric: str | None = None, mode: str | None = None, pictures: int = 6) -> Content:
    """Reads a run's or a sweep's folder. ``mode`` None: as sweep.json says, otherwise the larger is the better.

    Raises ValueError where the folder is missing or holds neither.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"run or sweep folder {str(folder)!r} does not exist")
    single = (folder / "run.json").is_file() or ((folder / ".hydra").is_dir() and (folder / "config.yaml").is_file())
    jobs = [read_job(folder)] if single else read_sweep(folder)
    mode = mode or ("min" if read_json(folder / "sweep.json").get("mode") == "min" else "max")
    groups = group_jobs(jobs, metric)
    if metric is not None and not any(group.n for group in groups) and any(job.finished for job in jobs):
        known = sorted({f"val/{key}" for job in jobs for key in _SHARES if key in job.results})
        raise ValueError(f"metric={metric!r}: no job has it; they have {', '.join([jobs[0].objective_name, *known])}")
    sign = 1 if mode == "min" else -1
    groups.sort(key=lambda group: (group.mean is None, sign * (group.mean or 0.0)))
    rows = picture_rows(groups, pictures)
    return Content(folder, tuple(jobs), tuple(groups), metric or jobs[0].objective_name, mode, single, tuple(rows))


def short(setting: str) -> str:
    """A long decimal fraction at four digits: what a sampler drew is nothing to read."""
    try:
        return f"{float(setting):.4g}" if len(setting) > 8 else setting
    except ValueError:
        return setting
