"""Is one setting of a sweep better than another? Paired differences, tested and adjusted by one rule.

A difference is *shown* where its p value is at most 0.05 after Holm's adjustment for all comparisons that were made.
The p value takes in how runs differ by seed and fold, and, where the runs kept ``images.npz``, the choice of images.
Every place that speaks of a sweep (table, sentence, terminal, sweep.json) takes it from ``compare``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from pspnet_lightning.metrics.intervals import LEVEL, Interval, student
from pspnet_lightning.runs.fields import finite
from pspnet_lightning.runs.groups import PAPER_BINS, REPETITIONS, Group, best_group
from pspnet_lightning.runs.jobs import Job, look_up
from pspnet_lightning.runs.sweep_images import SweepImages

POWER = 0.8  # how often the number of pairs that is asked for would show the difference
MOST_PAIRS = 1000


@dataclass(frozen=True)
class Difference:
    """One group minus another over the seeds and folds that both have finished.

    ``values`` are the pairs' differences. ``low`` and ``high`` bound their mean at 95 % and ``p`` is its two-sided p
    value (Student's t). ``overlap`` x the pairs' variance is what the folds' common training images add to the
    variance of the mean, ``images`` what the choice of the ``units`` validation images (or groups of them) adds; 0
    where they are not known. One pair has an interval over its images alone, and no p value.
    """

    group: Group
    baseline: Group
    values: tuple[float, ...]
    low: float | None = None
    high: float | None = None
    p: float | None = None
    overlap: float = 0.0
    images: float = 0.0
    units: int = 0

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        return statistics.stdev(self.values) if self.n > 1 else None

    def wins(self, mode: str = "max") -> int:
        """Pairs in which the group is the better one."""
        return sum(value < 0 if mode == "min" else value > 0 for value in self.values)

    def pairs_needed(self, comparisons: int = 1) -> int | None:
        """How many pairs would show this difference in four of five cases, if mean and spread stay as they are.

        None for fewer than two pairs, no difference at all, and where ``MOST_PAIRS`` would not.
        """
        n = np.arange(2, MOST_PAIRS + 1)
        enough = np.flatnonzero(self._power(n, np.ones(len(n)), comparisons) >= POWER)
        return int(n[enough[0]]) if len(enough) else None

    def images_needed(self, comparisons: int = 1) -> int | None:
        """The same for images (or groups), with the pairs that there are; None where 100 times as many would not."""
        if self.images == 0:
            return None
        factor = np.geomspace(1, 100, 200)
        enough = np.flatnonzero(self._power(np.full(len(factor), self.n), factor, comparisons) >= POWER)
        return math.ceil(self.units * factor[enough[0]]) if len(enough) else None

    def _power(self, n: np.ndarray, factor: np.ndarray, comparisons: int) -> np.ndarray:
        """How often ``n`` pairs over ``factor`` times the images would show the difference."""
        if self.std is None or self.mean == 0:
            return np.zeros(len(n))
        pairs, images = self.std**2 * (1 / n + self.overlap), self.images / factor
        image_freedom = np.maximum(self.units * factor - 1, 1)
        half = joint_half(pairs, n - 1, images, image_freedom, LEVEL / comparisons)
        error = np.sqrt(pairs + images)
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = error**4 / (pairs**2 / (n - 1) + images**2 / image_freedom)
            power = 1 - special.nctdtr(freedom, np.minimum(abs(self.mean) / error, 100.0), half / error)
        return np.nan_to_num(power, nan=1.0)  # no variance at all


@dataclass(frozen=True)
class Comparison:
    """A difference to the reference, as it may be spoken of.

    ``adjusted`` is p after Holm's adjustment for ``comparisons``; None for one pair. ``better`` says the direction of
    the mean, whatever its size.
    """

    difference: Difference
    adjusted: float | None
    comparisons: int
    better: bool

    @property
    def shown(self) -> bool:
        return self.adjusted is not None and self.adjusted <= LEVEL

    @property
    def pairs_needed(self) -> int | None:
        return self.difference.pairs_needed(self.comparisons)

    @property
    def images_needed(self) -> int | None:
        return self.difference.images_needed(self.comparisons)


def compare(groups: Sequence[Group], mode: str = "max", images: SweepImages | None = None) -> list[Comparison]:
    """Each group against its reference: the paper's bins where they were swept, otherwise the best group.

    The paper's bins were chosen before anything ran: Holm's adjustment is for as many comparisons as there are. The
    best group is chosen by what is compared, which flatters it: there the adjustment is for every pair of groups, of
    which those with the best are some.
    """
    asked = against_paper(groups, images=images)
    family = asked
    best = best_group(groups, mode)
    if not asked and best is not None:
        asked = paired_differences(groups, best, images)
        others = [group for group in groups if group is not best]
        family = [
            *asked,
            *(item for i, one in enumerate(others) for item in paired_differences(others[:i], one, images)),
        ]
    tested = [item for item in family if item.p is not None]
    adjusted = dict(zip(map(id, tested), holm([item.p or 0.0 for item in tested]), strict=True))
    sign = -1 if mode == "min" else 1
    return [Comparison(item, adjusted.get(id(item)), len(tested), sign * item.mean > 0) for item in asked]


def paired_differences(groups: Sequence[Group], baseline: Group, images: SweepImages | None = None) -> list[Difference]:
    """Each other group minus ``baseline``, over the (seed, fold) that both have finished; groups without one left out.

    Runs of the same seed and fold share their images and their order, so that their difference varies less than they
    do. Between the folds of a cross-validation, whose training sets overlap, the variance of the mean is corrected by
    Nadeau & Bengio (2003): s^2 (1/n + 1/(folds - 1)) in place of s^2 / n. Runs that validate on the same images share
    the luck of these images, which their spread does not show: ``images`` adds its variance.
    """
    reference = baseline.by_repetition()
    found = []
    for group in groups:
        own = group.by_repetition()
        pairs = [key for key in own if key in reference]
        if group is baseline or not pairs:
            continue
        values = tuple(own[key] - reference[key] for key in pairs)
        luck = None if images is None else images.luck(group, baseline, pairs)
        found.append(_difference(group, baseline, values, _overlap(group, pairs), luck))
    return found


def _difference(
    group: Group, baseline: Group, values: tuple[float, ...], overlap: float, luck: tuple[float, int] | None
) -> Difference:
    images, units = luck or (0.0, 0)
    n, mean = len(values), statistics.fmean(values)
    if n > 1:
        pairs = statistics.variance(values) * (1 / n + overlap)
        half = float(joint_half(pairs, n - 1, images, units - 1, LEVEL))
        p = _joint_p(mean, pairs, n - 1, images, units - 1)
        return Difference(group, baseline, values, mean - half, mean + half, p, overlap, images, units)
    if luck is None:
        return Difference(group, baseline, values)
    alone = student(mean, math.sqrt(images), units - 1)
    return Difference(group, baseline, values, alone.low, alone.high, None, overlap, images, units)


def joint_half(pairs: Any, freedom: Any, images: Any, image_freedom: Any, level: float) -> np.ndarray:
    """Half the interval of a mean whose variance is the sum of ``pairs`` and ``images``, arrays or numbers.

    Each part is widened by Student's t of its own degrees of freedom (Howe, 1974): with one part alone it is the
    t interval, in between it covers a little more than it says. Satterthwaite's degrees of freedom, which are
    estimated themselves, would cover 87 % with two pairs.
    """
    own = special.stdtrit(freedom, 1 - level / 2) ** 2 * pairs
    other = special.stdtrit(np.maximum(image_freedom, 1), 1 - level / 2) ** 2 * images
    return np.asarray(np.sqrt(own + other))


def _joint_p(mean: float, pairs: float, freedom: float, images: float, image_freedom: float) -> float:
    """The level at which ``joint_half`` just reaches 0."""
    if mean == 0:
        return 1.0
    if images == 0:
        return student(mean, math.sqrt(pairs), freedom).p
    low, high = -12.0, 0.0  # powers of ten
    for _ in range(50):
        middle = (low + high) / 2
        reaches = joint_half(pairs, freedom, images, image_freedom, 10.0**middle) >= abs(mean)
        low, high = (middle, high) if reaches else (low, middle)
    return float(10.0**high)


def against_paper(
    groups: Sequence[Group], bins: str = PAPER_BINS, images: SweepImages | None = None
) -> list[Difference]:
    """Each group minus the one of the paper's bins whose other settings are the same; groups without one left out."""
    found = []
    for group in groups:
        if "model.bins" not in group.settings or group.settings["model.bins"] == bins:
            continue
        partner: Mapping[str, str] = {**group.settings, "model.bins": bins}
        for other in groups:
            if other.settings == partner:
                found += paired_differences([group], other, images)
    return found


def class_differences(item: Difference, images: SweepImages | None = None) -> list[Interval]:
    """The difference of each class's IoU, by the rule of ``paired_differences``; empty where runs have no IoUs.

    Not-a-number without an interval for a class that a run lacks; for one pair the interval is over its images alone.
    """
    own, other = item.group.jobs_by_repetition(), item.baseline.jobs_by_repetition()
    pairs = [key for key in own if key in other]
    values = [[_class_ious(jobs[key]) for key in pairs] for jobs in (own, other)]
    if len({len(iou) for side in values for iou in side}) != 1:
        return []
    differences = np.array(values[0]) - np.array(values[1])
    luck = None if images is None else images.luck_of_classes(item.group, item.baseline, pairs)
    found = []
    for index, column in enumerate(differences.T):
        own_luck = None if luck is None or not math.isfinite(luck[0][index]) else (float(luck[0][index]), luck[1])
        if not np.isfinite(column).all():
            found.append(Interval(math.nan, math.nan, math.nan, math.nan))
            continue
        one = _difference(item.group, item.baseline, tuple(map(float, column)), item.overlap, own_luck)
        low, high, p = (math.nan if value is None else value for value in (one.low, one.high, one.p))
        found.append(Interval(one.mean, low, high, math.nan, p))
    return found


def _class_ious(jobs: Sequence[Job]) -> np.ndarray:
    rows = [[math.nan if value is None else value for value in job.results.get("iou") or ()] for job in jobs]
    return np.mean(rows, axis=0) if len({len(row) for row in rows}) == 1 else np.empty(0)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values of several comparisons, adjusted so that any false one among them has the chance said (Holm, 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _overlap(group: Group, pairs: Sequence[tuple[str, ...]]) -> float:
    folds = finite(look_up(group.jobs[0].config, "data.folds"))
    fold = REPETITIONS.index("data.fold")
    return 1 / (folds - 1) if folds and folds > 1 and len({pair[fold] for pair in pairs}) > 1 else 0.0
