"""Scores of two classes without a threshold: the area under the ROC curve, and average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pspnet_lightning.metrics.image_score import Answer

# Bins of the log odds from -20 to 20: between two of them probabilities differ by 1 % of the smaller one.
_BINS, _LIMIT = 4096, 20.0


class RankingScores:
    """AUC and average precision of class 1 over all labelled pixels, from a histogram: the same memory for any split.

    AUC is the chance that a pixel of class 1 has a higher probability than one of class 0, ties by half. Average
    precision sums precision over the steps of recall, as scikit-learn does. Raises ValueError for other than two
    classes.
    """

    needs_probabilities = True

    def __init__(self, classes: int, ignore_index: int) -> None:
        if classes != 2:
            raise ValueError(f"evaluation.metrics=[auc] is of two classes, this data set has {classes}")
        self.ignore_index = ignore_index
        self.counts = np.zeros((2, _BINS), np.int64)  # by truth, by log odds of class 1

    def add(self, index: int, answer: Answer) -> None:
        assert answer.probabilities is not None
        valid = answer.label != self.ignore_index
        other, own = answer.probabilities[:, valid].astype(np.float64)
        with np.errstate(divide="ignore"):
            odds = np.clip(np.log(own) - np.log(other), -_LIMIT, _LIMIT)
        place = np.minimum((odds + _LIMIT) * (_BINS / (2 * _LIMIT)), _BINS - 1).astype(np.int64)
        place += answer.label[valid].astype(np.int64) * _BINS
        self.counts += np.bincount(place, minlength=2 * _BINS).reshape(2, _BINS)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"counts": self.counts}

    def gather(self, parts: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.counts = np.sum([part["counts"] for part in parts], axis=0)

    def results(self) -> dict[str, Any]:
        negative, positive = self.counts[:, ::-1].astype(np.float64)  # the most likely first
        false, true = negative.cumsum(), positive.cumsum()
        with np.errstate(invalid="ignore", divide="ignore"):
            auc = (negative * (true - positive / 2)).sum() / (true[-1] * false[-1])
            precision = np.where(true > 0, true / np.maximum(true + false, 1), 0)
            average = (positive * precision).sum() / true[-1]
        # The area counts, for each negative, the positives that are ranked higher.
        return {"auc": {"auc": float(auc), "average_precision": float(average), "positives": int(true[-1])}}
