"""Groups of jobs over seeds and folds: mean, standard deviation, and paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pspnet_lightning.runs import student
from pspnet_lightning.runs.jobs import Job, finite, look_up

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

    ``values`` are the pairs' differences. ``low`` and ``high`` bound their mean at 95 % and ``p`` is its two-sided p
    value (Student's t); None for fewer than two pairs.
    """

    group: Group
    baseline: Group
    values: tuple[float, ...]
    low: float | None
    high: float | None
    p: float | None

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        return statistics.stdev(self.values) if self.n > 1 else None

    @property
    def wins(self) -> int:
        """Pairs in which the group's value is the larger."""
        return sum(value > 0 for value in self.values)

    @property
    def within_noise(self) -> bool:
        """There is an interval, and it holds 0."""
        return self.low is not None and self.high is not None and self.low <= 0 <= self.high


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
        values = tuple(own[key] - reference[key] for key in pairs)
        n, mean = len(values), statistics.fmean(values)
        low = high = p = None
        if n > 1:
            error = statistics.stdev(values) * math.sqrt(1 / n + _overlap(group, pairs))
            half = student.quantile(n - 1) * error
            low, high = mean - half, mean + half
            p = 1.0 if mean == 0 else student.p_value(mean / error if error else math.inf, n - 1)
        found.append(Difference(group, baseline, values, low, high, p))
    return found


def against_paper(groups: Sequence[Group], bins: str = PAPER_BINS) -> list[Difference]:
    """Each group minus the one of the paper's bins whose other settings are the same; groups without one left out."""
    found = []
    for group in groups:
        if "model.bins" not in group.settings or group.settings["model.bins"] == bins:
            continue
        partner = {**group.settings, "model.bins": bins}
        found += [item for other in groups if other.settings == partner for item in paired_differences([group], other)]
    return found


def _overlap(group: Group, pairs: Sequence[tuple[str, ...]]) -> float:
    folds = finite(look_up(group.jobs[0].config, "data.folds"))
    fold = REPETITIONS.index("data.fold")
    return 1 / (folds - 1) if folds and folds > 1 and len({pair[fold] for pair in pairs}) > 1 else 0.0
