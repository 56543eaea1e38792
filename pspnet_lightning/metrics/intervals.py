"""Intervals of scores and of their differences, by resampling the images of a split.

The standard error is that of a bootstrap over images, or over whole groups of them (sequences, patients) where those
are known; the interval is Student's t with one degree of freedom less than there are images or groups. In simulations
this covers better for few images than percentiles do, plain or bias-corrected. It speaks of these trained networks
on other images of the same kind, not of other seeds; see ``runs.differences`` for both together.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from pspnet_lightning.metrics.image_counts import ImageCounts, Parts, aligned

LEVEL = 0.05
DRAWS = 2000
# A class in fewer images (or groups) has an interval that covers less than it says; see tests/test_coverage.py.
FEW = 20

Score = Callable[[Parts], np.ndarray]


def iou(parts: Parts) -> np.ndarray:
    """IoU (..., K); not-a-number for a class that occurs neither in labels nor predictions."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(parts.right / (parts.labelled + parts.predicted - parts.right))


def accuracy(parts: Parts) -> np.ndarray:
    """The share of each class's pixels that are right (..., K); not-a-number for one without labels."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(parts.right / parts.labelled)


def miou(parts: Parts) -> np.ndarray:
    """The mean IoU of the classes that occur (...,): rule "present"."""
    return _mean(iou(parts))


def macc(parts: Parts) -> np.ndarray:
    """The mean accuracy of the classes that are labelled (...,)."""
    return _mean(accuracy(parts))


def aacc(parts: Parts) -> np.ndarray:
    """The share of all pixels that are right (...,)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(parts.right.sum(-1) / parts.labelled.sum(-1))


MEANS: dict[str, Score] = {"miou": miou, "macc": macc, "aacc": aacc}


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval, standard error and two-sided p value against 0.

    ``low``, ``high`` and ``p`` are not-a-number for fewer than two images or groups, or a class that is absent.
    """

    value: float
    low: float
    high: float
    error: float
    p: float = math.nan

    def to_dict(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high, "error": self.error}


@dataclass(frozen=True)
class ScoreIntervals:
    """Intervals of the means and of each class's IoU. ``units`` were resampled: images, or ``grouped`` ones.

    ``holding`` counts the units that hold each class, in labels or predictions.
    """

    means: dict[str, Interval]
    iou: tuple[Interval, ...]
    units: int
    grouped: bool
    holding: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain types for results.json."""
        return {
            "level": 1 - LEVEL,
            "method": "bootstrap over images, Student's t",
            "units": self.units,
            "unit": "group" if self.grouped else "image",
            **{name: [item.low, item.high] for name, item in self.means.items()},
            "iou": [[item.low, item.high] for item in self.iou],
            "units_with_class": list(self.holding),
        }


def score_intervals(counts: ImageCounts, *, draws: int = DRAWS, seed: int = 0) -> ScoreIntervals:
    """The intervals of one network's scores."""
    names, parts = counts.units()
    weights = resampling_weights(len(names), draws, seed)
    total, resampled = parts.total(), parts.resampled(weights)
    means = {name: interval(score(total), score(resampled), len(names)) for name, score in MEANS.items()}
    return ScoreIntervals(
        {name: _clipped(item) for name, item in means.items()},
        tuple(_clipped(item) for item in _each(iou(total), iou(resampled), len(names))),
        len(names),
        bool(counts.groups),
        _holding(parts),
    )


def paired_intervals(first: ImageCounts, second: ImageCounts, *, draws: int = DRAWS, seed: int = 0) -> ScoreIntervals:
    """The intervals of ``first`` minus ``second`` over the same images. Raises ValueError as ``aligned`` does."""
    second = aligned(first, second)
    if first.groups:
        second = ImageCounts(second.names, second.classes, second.offsets, second.pairs, second.counts, first.groups)
    (names, own), (_, other) = first.units(), second.units()
    weights = resampling_weights(len(names), draws, seed)
    totals, resampled = [one.total() for one in (own, other)], [one.resampled(weights) for one in (own, other)]

    def difference(score: Score, pair: list[Parts]) -> np.ndarray:
        return np.asarray(score(pair[0]) - score(pair[1]))

    return ScoreIntervals(
        {
            name: interval(difference(score, totals), difference(score, resampled), len(names))
            for name, score in MEANS.items()
        },
        _each(difference(iou, totals), difference(iou, resampled), len(names)),
        len(names),
        bool(first.groups),
        _holding(own),
    )


def resampling_weights(units: int, draws: int, seed: int = 0) -> np.ndarray:
    """How often each unit is in each resample, float64 (draws, units); the same for the same arguments."""
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), draws).astype(np.float64)


def interval(value: np.ndarray | float, resampled: np.ndarray, units: int) -> Interval:
    """The interval of one value from its resamples (draws,); those in which a class is absent are left out."""
    value, known = float(value), resampled[np.isfinite(resampled)]
    if units < 2 or len(known) < 2 or not math.isfinite(value):
        return Interval(value, math.nan, math.nan, math.nan)
    return student(value, float(known.std(ddof=1)) * math.sqrt(units / (units - 1)), units - 1)


def student(value: float, error: float, freedom: float) -> Interval:
    """Student's t: the 95 % interval of a value with its standard error, and the two-sided p value."""
    if error == 0:
        return Interval(value, value, value, 0.0, 1.0 if value == 0 else 0.0)
    half = float(special.stdtrit(freedom, 1 - LEVEL / 2)) * error
    return Interval(value, value - half, value + half, error, float(2 * special.stdtr(freedom, -abs(value) / error)))


def units_needed(found: Interval, units: int, power: float = 0.8) -> int | None:
    """How many images or groups would show this difference in four of five cases; None if not even a million."""
    if not found.error > 0 or found.value == 0:
        return None
    wanted = float(special.ndtri(1 - LEVEL / 2) + special.ndtri(power))
    needed = units * (wanted * found.error / found.value) ** 2
    return math.ceil(needed) if needed <= 1e6 else None


def _each(values: np.ndarray, resampled: np.ndarray, units: int) -> tuple[Interval, ...]:
    return tuple(interval(value, resampled[:, index], units) for index, value in enumerate(values))


def _clipped(item: Interval) -> Interval:
    """A score lies in 0..1."""
    return Interval(item.value, float(np.maximum(item.low, 0)), float(np.minimum(item.high, 1)), item.error, item.p)


def _holding(parts: Parts) -> tuple[int, ...]:
    return tuple(((parts.labelled + parts.predicted) > 0).sum(0).tolist())


def _mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(known, values, 0).sum(-1) / known.sum(-1))
