"""Groups of jobs over seeds and folds: mean, standard deviation, and paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pspnet_lightning.sweeps.jobs import Job, finite, look_up

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

    def by_repetition(self) -> dict[tuple[str, ...], float]:
        """The metric of each (seed, fold); jobs that repeat both are averaged."""
        found: dict[tuple[str, ...], list[float]] = {}
        for job in self.jobs:
            value = job.value(self.metric)
            if job.finished and not job.pruned and value is not None:
                found.setdefault(tuple(job.setting(key) for key in REPETITIONS), []).append(value)
        return {key: statistics.fmean(values) for key, values in found.items()}


@dataclass(frozen=True)
class Difference:
    """One group minus another over the seeds and folds that both have finished.

    ``low`` and ``high`` bound the mean difference at 95 % (Student's t), None for fewer than two pairs.
    """

    group: Group
    baseline: Group
    n: int
    mean: float
    std: float | None
    wins: int
    low: float | None
    high: float | None


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


def paired_differences(groups: Sequence[Group], baseline: Group) -> list[Difference]:
    """Each other group minus ``baseline``, over the (seed, fold) that both have finished; groups without one left out.

    Runs of the same seed and fold share their images and their order, so that their difference varies less than they
    do. Between the folds of a cross-validation, whose training sets overlap, the variance of the mean is corrected by
    Nadeau & Bengio (2003): s^2 (1/n + 1/(folds - 1)) in place of s^2 / n.
    """
    reference = baseline.by_repetition()
    found = []
    for group in groups:
        own = group.by_repetition()
        pairs = [key for key in own if key in reference]
        if group is baseline or not pairs:
            continue
        values = [own[key] - reference[key] for key in pairs]
        n, mean = len(values), statistics.fmean(values)
        std = low = high = None
        if n > 1:
            std = statistics.stdev(values)
            half = t_quantile(n - 1) * std * math.sqrt(1 / n + _overlap(group, pairs))
            low, high = mean - half, mean + half
        wins = sum(value > 0 for value in values)
        found.append(Difference(group, baseline, n, mean, std, wins, low, high))
    return found


def _overlap(group: Group, pairs: Sequence[tuple[str, ...]]) -> float:
    folds = finite(look_up(group.jobs[0].config, "data.folds"))
    fold = REPETITIONS.index("data.fold")
    return 1 / (folds - 1) if folds and folds > 1 and len({pair[fold] for pair in pairs}) > 1 else 0.0


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to within 0.001; ``freedom`` at least 1."""
    exact = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
    if freedom <= len(exact):
        return exact[freedom - 1]
    z = 1.959964  # Fisher's expansion about the normal distribution
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
