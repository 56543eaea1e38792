"""The luck of the images in a sweep: how its runs' scores, and their differences, vary with the validation images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from pspnet_lightning.metrics.intervals import MEANS, iou, resampling_weights
from pspnet_lightning.runs.groups import Group
from pspnet_lightning.runs.image_counts import read_image_counts
from pspnet_lightning.runs.jobs import Job

DRAWS = 1000


class SweepImages:
    """Every run's score under the same resamples of the images (or groups) of all runs.

    ``metric`` is as in ``Job.value``; for one that is not made of a confusion matrix nothing is known. ``unread``
    names the files that are damaged; their runs count as without.
    """

    def __init__(self, groups: Sequence[Group], metric: str, *, draws: int = DRAWS, seed: int = 0) -> None:
        self.unread: list[str] = []
        self._draws: dict[Path, np.ndarray] = {}
        self._classes: dict[Path, np.ndarray] = {}
        self._units: dict[Path, frozenset[str]] = {}
        score = MEANS.get(metric.rpartition("/")[2])
        jobs = [job for group in groups for jobs in group.jobs_by_repetition().values() for job in jobs]
        if score is None or not jobs:
            return
        kept = {}
        for job in jobs:
            try:
                counts = read_image_counts(job.folder)
            except ValueError as error:
                self.unread.append(str(error))
                continue
            if counts is not None and len(counts) > 1:
                kept[job.folder] = counts.units()
        names = sorted({name for units, _ in kept.values() for name in units})
        place = {name: index for index, name in enumerate(names)}
        weights = resampling_weights(len(names), draws, seed) if len(names) > 1 else np.empty((draws, 0))
        for folder, (units, parts) in kept.items():
            resampled = parts.resampled(weights[:, [place[name] for name in units]])
            self._draws[folder] = score(resampled)
            self._classes[folder] = iou(resampled)
            self._units[folder] = frozenset(units)

    def __bool__(self) -> bool:
        return bool(self._draws)

    def luck(self, group: Group, baseline: Group, pairs: Sequence[tuple[str, ...]]) -> tuple[float, int] | None:
        """What the choice of images adds to the variance of the mean difference over ``pairs``, and of how many.

        None where a run has kept nothing, or where no two pairs share an image: then the spread among the pairs, folds
        of a cross-validation, holds it already. See ``common_variance``.
        """
        own, other = group.jobs_by_repetition(), baseline.jobs_by_repetition()
        if not pairs or not all(self._known(own[key]) and self._known(other[key]) for key in pairs):
            return None
        units = [frozenset().union(*(self._units[job.folder] for job in own[key])) for key in pairs]
        if len(pairs) > 1 and not any(one & two for one, two in combinations(units, 2)):
            return None
        differences = np.array([self._mean(own[key]) - self._mean(other[key]) for key in pairs])
        count = len(frozenset().union(*units))
        return (common_variance(differences, count), count) if count > 1 else None

    def luck_of_classes(
        self, group: Group, baseline: Group, pairs: Sequence[tuple[str, ...]]
    ) -> tuple[np.ndarray, int] | None:
        """``luck`` of each class's IoU, (K,); not-a-number for a class that is absent."""
        found = self.luck(group, baseline, pairs)
        if found is None:
            return None
        own, other = group.jobs_by_repetition(), baseline.jobs_by_repetition()
        differences = [
            np.mean([self._classes[job.folder] for job in own[key]], axis=0)
            - np.mean([self._classes[job.folder] for job in other[key]], axis=0)
            for key in pairs
        ]
        return np.array([common_variance(one, found[1]) for one in np.moveaxis(np.array(differences), 2, 0)]), found[1]

    def _known(self, jobs: Sequence[Job]) -> bool:
        return all(job.folder in self._draws for job in jobs)

    def _mean(self, jobs: Sequence[Job]) -> np.ndarray:
        return np.asarray(np.mean([self._draws[job.folder] for job in jobs], axis=0))


def common_variance(differences: np.ndarray, units: int) -> float:
    """The variance of the pairs' mean by the choice of images that their own spread does not show.

    ``differences`` (pairs, draws) under the same resamples. The variance of a mean of n is s^2 / n, s^2 being that
    among them, plus the mean covariance of two of them; how single runs differ on single images is in s^2. For one
    pair it is all of its variance by the images. Not-a-number where fewer than two resamples are known.
    """
    known = differences[:, np.isfinite(differences).all(0)]
    if known.shape[1] < 2:
        return math.nan
    n = len(known)
    covariance = np.atleast_2d(np.cov(known)) * units / (units - 1)
    if n == 1:
        return float(covariance[0, 0])
    return max(0.0, float((covariance.sum() - covariance.trace()) / (n * (n - 1))))
