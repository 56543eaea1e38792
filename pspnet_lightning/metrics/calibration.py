"""Whether probabilities are what they say: expected calibration error, and the temperature that mends it.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize, special

from pspnet_lightning.metrics.image_score import Answer

BINS = 15
# Values that are kept for the fit, over the whole split: 64 MB.
_KEPT = 2**24
_PIXELS = 4096  # of one image at most


class CalibrationScores:
    """The expected calibration error over all labelled pixels, and of the pixels predicted as each class.

    The mean over 15 bins of the confidence, weighted by their pixels, of |share that is right - mean confidence|.
    ``images``, the length of the split, has so many pixels of each image kept that a temperature can be fitted; 0:
    none are.
    """

    needs_probabilities = True

    def __init__(self, classes: int, ignore_index: int, images: int = 0) -> None:
        self.classes = classes
        self.ignore_index = ignore_index
        # Of each predicted class and bin: pixels, the sum of their confidences, and how many are right.
        self.counts = np.zeros((classes, BINS, 3))
        self._each = min(_PIXELS, max(16, _KEPT // (classes * images))) if images else 0
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def add(self, index: int, answer: Answer) -> None:
        assert answer.probabilities is not None
        valid = answer.label != self.ignore_index
        probabilities, label = answer.probabilities[:, valid].T, answer.label[valid]
        self.counts += reliability(probabilities, label)
        if self._each:
            chosen = np.arange(len(label))
            if len(label) > self._each:
                chosen = np.random.default_rng(index).choice(len(label), self._each, replace=False)
            self._kept[index] = probabilities[chosen], label[chosen].astype(np.int64)

    def arrays(self) -> dict[str, np.ndarray]:
        kept = list(self._kept.values())
        return {
            "counts": self.counts,
            "index": np.array(list(self._kept), np.int64),
            "ends": np.cumsum([len(label) for _, label in kept], dtype=np.int64),
            "probabilities": np.concatenate([np.empty((0, self.classes), np.float32), *(each for each, _ in kept)]),
            "labels": np.concatenate([np.empty(0, np.int64), *(label for _, label in kept)]),
        }

    def gather(self, parts: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.counts = np.sum([part["counts"] for part in parts], axis=0)
        for part in parts:
            pieces = (np.split(part[key], part["ends"][:-1]) for key in ("probabilities", "labels"))
            for index, *kept in zip(part["index"].tolist(), *pieces, strict=False):
                self._kept[index] = kept[0], kept[1]

    def results(self) -> dict[str, Any]:
        return {
            "calibration": {
                "ece": calibration_error(self.counts.sum(0)),
                "ece_of_classes": [calibration_error(of_class) for of_class in self.counts],
                "bins": _bins(self.counts.sum(0)),
                "bins_of_classes": [_bins(of_class) for of_class in self.counts],
            }
        }

    def fit(self) -> dict[str, float]:
        """The temperature that makes the kept pixels' labels most likely; ECE and mean log loss before and after it.

        What is said of "after" is of images that did not fit it: each half of them is scored with the other half's
        temperature. Raises ValueError where no pixel was kept.
        """
        order = sorted(self._kept)
        if not sum(len(self._kept[index][1]) for index in order):
            raise ValueError("a temperature needs labelled pixels, and there are none")
        halves = [self._of(order[0::2]), self._of(order[1::2] or order)]
        own = [fit_temperature(*half) for half in halves]
        both = self._of(order)
        crossed = [tempered(half[0], other) for half, other in zip(halves, own[::-1], strict=True)]
        labels = np.concatenate([half[1] for half in halves])
        after = np.concatenate(crossed)
        return {
            "temperature": fit_temperature(*both),
            "ece_before": calibration_error(reliability(*both).sum(0)),
            "ece_after": calibration_error(reliability(after, labels).sum(0)),
            "log_loss_before": log_loss(*both),
            "log_loss_after": log_loss(after, labels),
            "pixels": len(both[1]),
        }

    def _of(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        kept = [self._kept[index] for index in indices]
        return np.concatenate([each for each, _ in kept]), np.concatenate([label for _, label in kept])


def _bins(counts: np.ndarray) -> dict[str, list[Any]]:
    """For a diagram; mean confidence and accuracy of an empty bin are not-a-number."""
    pixels, confidence, right = counts.T
    with np.errstate(invalid="ignore", divide="ignore"):
        means = {"confidence": (confidence / pixels).tolist(), "accuracy": (right / pixels).tolist()}
    return {"pixels": pixels.astype(int).tolist(), **means}


def reliability(probabilities: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Pixels, their confidences and how many are right, (K, bins, 3), of (n, K) and (n,)."""
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(1)
    confidence = probabilities[np.arange(len(label)), predicted].astype(np.float64)
    place = predicted * BINS + np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    sums = [np.bincount(place, values, minlength=classes * BINS) for values in (None, confidence, predicted == label)]
    return np.stack(sums, -1).reshape(classes, BINS, 3).astype(np.float64)


def calibration_error(counts: np.ndarray) -> float:
    """The ECE of bins (bins, 3); not-a-number where there is no pixel."""
    pixels, confidence, right = counts.T
    with np.errstate(invalid="ignore"):
        return float(np.abs(right - confidence).sum() / pixels.sum()) if pixels.sum() else float("nan")


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (n, K) to the power of 1 / temperature, made to sum to 1: of a softmax, its logits' division."""
    return np.asarray(special.softmax(_log(probabilities) / temperature, axis=1))


def log_loss(probabilities: np.ndarray, label: np.ndarray) -> float:
    """The mean of -log p of the true class."""
    return float(-_log(probabilities)[np.arange(len(label)), label].mean())


def fit_temperature(probabilities: np.ndarray, label: np.ndarray) -> float:
    """The temperature from 1/20 to 20 with the smallest log loss, which is convex in its inverse."""
    logs = _log(probabilities)
    true = logs[np.arange(len(label)), label].mean()

    def loss(power: float) -> float:
        return float(special.logsumexp(logs * power, axis=1).mean() - true * power)

    found = optimize.minimize_scalar(loss, bounds=(0.05, 20.0), method="bounded", options={"xatol": 1e-4})
    return float(1 / found.x)


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).tiny))
