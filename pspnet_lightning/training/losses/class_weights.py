"""Class weights from the pixels that a training set has of each class."""

from __future__ import annotations

import numpy as np

_METHODS = ("balanced", "median_frequency", "enet")


def class_weights_from_counts(counts: np.ndarray, method: str) -> list[float]:
    """Class weights from the labelled pixels of each class, (K,), normalised to a mean of 1 over the classes present.

    "balanced": 1 / frequency. "median_frequency": median(frequency) / frequency (Eigen & Fergus 2015), with
    frequencies over the whole set. "enet": 1 / ln(1.02 + frequency) (Paszke et al. 2016). A class without a
    pixel has weight 0: it cannot occur in a target.
    """
    if method not in _METHODS:
        raise ValueError(f"class_weights={method!r} must be a list or one of {', '.join(_METHODS)}")
    counts = np.asarray(counts, np.float64)
    if counts.sum() <= 0:
        raise ValueError("class_weights: the training set has no labelled pixel to count")
    frequency = counts / counts.sum()
    present = counts > 0
    weights = np.zeros_like(frequency)
    if method == "balanced":
        weights[present] = 1 / frequency[present]
    elif method == "median_frequency":
        weights[present] = np.median(frequency[present]) / frequency[present]
    else:
        weights[present] = 1 / np.log(1.02 + frequency[present])
    return (weights / weights[present].mean()).tolist()
