"""Groups of jobs over seeds and folds: mean and standard deviation; see ``differences`` for how they compare."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pspnet_lightning.runs.jobs import Job

PAPER_BINS = "[1,2,3,6]"
# Repetitions of one setting: they are averaged over, never compared with each other.
REPETITIONS = ("seed", "data.fold")


@dataclass(frozen=True)
class Group:
    """The jobs that differ in seed and fold only. ``settings`` holds the swept keys but those two."""

    settings: Mapping[str, str]
    jobs: tuple[Job, ...]
    metric: str | None = None

    @property
    def values(self) -> list[float]:
        """The metric of the jobs that finished and were not stopped early."""
        found = (job.value(self.metric) for job in self.jobs if job.finished and not job.pruned)
        return [value for value in found if value is not None]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation (n - 1); None for fewer than two jobs."""
        return statistics.stdev(self.values) if self.n > 1 else None

    @property
    def label(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.settings.items()) or "all jobs"

    def jobs_by_repetition(self) -> dict[tuple[str, ...], list[Job]]:
        """The jobs with a score of each (seed, fold)."""
        found: dict[tuple[str, ...], list[Job]] = {}
        for job in self.jobs:
            if job.finished and not job.pruned and job.value(self.metric) is not None:
                found.setdefault(tuple(job.setting(key) for key in REPETITIONS), []).append(job)
        return found

    def by_repetition(self) -> dict[tuple[str, ...], float]:
        """The metric of each (seed, fold); jobs that repeat both are averaged."""
        found = {}
        for key, jobs in self.jobs_by_repetition().items():
            values = [job.value(self.metric) for job in jobs]
            found[key] = statistics.fmean(value for value in values if value is not None)
        return found


def swept_keys(jobs: Sequence[Job]) -> list[str]:
    """The keys of the command line in which the jobs differ, seed and fold included, in their order there."""
    keys = dict.fromkeys(key for job in jobs for key in job.overrides)
    return [key for key in keys if len({job.setting(key) for job in jobs}) > 1]


def group_jobs(jobs: Sequence[Job], metric: str | None = None) -> list[Group]:
    """The jobs by their swept keys without seed and fold; ``metric`` as in ``Job.value``."""
    keys = [key for key in swept_keys(jobs) if key not in REPETITIONS]
    found: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        found.setdefault(tuple(job.setting(key) for key in keys), []).append(job)
    return [Group(dict(zip(keys, values, strict=True)), tuple(members), metric) for values, members in found.items()]


def best_group(groups: Sequence[Group], mode: str = "max") -> Group | None:
    """The group of the best mean among those with as many finished jobs as any; None where no job has finished.

    A group that lost some of its folds may have lost the hard ones: it is not a candidate.
    """
    most = max((group.n for group in groups), default=0)
    candidates = [group for group in groups if group.n == most and group.mean is not None]
    sign = -1 if mode == "min" else 1
    return max(candidates, key=lambda group: sign * (group.mean or 0.0), default=None)
