"""Is one setting of a sweep better than another? Paired differences, tested and adjusted by one rule.

A difference is *shown* where its p value is at most 0.05 after Holm's adjustment for all comparisons that were made.
Every place that speaks of a sweep (table, sentence, terminal, sweep.json) takes it from ``compare``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from pspnet_lightning.runs.fields import finite
from pspnet_lightning.runs.groups import PAPER_BINS, REPETITIONS, Group, best_group
from pspnet_lightning.runs.jobs import look_up

LEVEL = 0.05  # of error, of all comparisons together
POWER = 0.8  # how often the number of pairs that is asked for would show the difference
MOST_PAIRS = 1000


@dataclass(frozen=True)
class Difference:
    """One group minus another over the seeds and folds that both have finished.

    ``values`` are the pairs' differences. ``low`` and ``high`` bound their mean at 95 % and ``p`` is its two-sided p
    value (Student's t); None for fewer than two pairs. ``fixed`` is the part of the mean's variance that further
    pairs do not make smaller: the overlap of the folds' training images.
    """

    group: Group
    baseline: Group
    values: tuple[float, ...]
    low: float | None = None
    high: float | None = None
    p: float | None = None
    fixed: float = 0.0

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
        if self.std is None or self.mean == 0:
            return None
        n = np.arange(2, MOST_PAIRS + 1)
        error = np.sqrt(self.std**2 / n + self.fixed)
        if not error.all():
            return 2
        critical = special.stdtrit(n - 1, 1 - LEVEL / 2 / comparisons)
        power = 1 - np.nan_to_num(special.nctdtr(n - 1, np.minimum(abs(self.mean) / error, 100.0), critical), nan=1.0)
        enough = np.flatnonzero(power >= POWER)
        return int(n[enough[0]]) if len(enough) else None


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


def compare(groups: Sequence[Group], mode: str = "max") -> list[Comparison]:
    """Each group against its reference: the paper's bins where they were swept, otherwise the best group.

    The paper's bins were chosen before anything ran: Holm's adjustment is for as many comparisons as there are. The
    best group is chosen by what is compared, which flatters it: there the adjustment is for every pair of groups, of
    which those with the best are some.
    """
    asked = against_paper(groups)
    family = asked
    best = best_group(groups, mode)
    if not asked and best is not None:
        asked = paired_differences(groups, best)
        others = [group for group in groups if group is not best]
        family = [*asked, *(item for i, one in enumerate(others) for item in paired_differences(others[:i], one))]
    tested = [item for item in family if item.p is not None]
    adjusted = dict(zip(map(id, tested), holm([item.p or 0.0 for item in tested]), strict=True))
    sign = -1 if mode == "min" else 1
    return [Comparison(item, adjusted.get(id(item)), len(tested), sign * item.mean > 0) for item in asked]


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
        n = len(values)
        if n < 2:
            found.append(Difference(group, baseline, values))
            continue
        variance = statistics.variance(values)
        fixed = variance * _overlap(group, pairs)
        low, high, p = student(statistics.fmean(values), math.sqrt(variance / n + fixed), n - 1)
        found.append(Difference(group, baseline, values, low, high, p, fixed))
    return found


def against_paper(groups: Sequence[Group], bins: str = PAPER_BINS) -> list[Difference]:
    """Each group minus the one of the paper's bins whose other settings are the same; groups without one left out."""
    found = []
    for group in groups:
        if "model.bins" not in group.settings or group.settings["model.bins"] == bins:
            continue
        partner: Mapping[str, str] = {**group.settings, "model.bins": bins}
        found += [item for other in groups if other.settings == partner for item in paired_differences([group], other)]
    return found


def student(mean: float, error: float, freedom: float) -> tuple[float, float, float]:
    """The 95 % interval and the two-sided p value of ``mean`` with its standard error, by Student's t."""
    half = float(special.stdtrit(freedom, 1 - LEVEL / 2)) * error
    if error == 0:
        return mean, mean, 1.0 if mean == 0 else 0.0
    return mean - half, mean + half, float(2 * special.stdtr(freedom, -abs(mean) / error))


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
