"""Scores that a confusion matrix does not hold, each off unless it is asked for: what they have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np


class Answer(NamedTuple):
    """What was said of one image, and the truth."""

    prediction: np.ndarray  # (H, W), classes
    label: np.ndarray  # (H, W), classes or the ignored value
    probabilities: np.ndarray | None = None  # float32 (K, H, W), for scores that need them


class ImageScore(Protocol):
    """A score over a split, image by image, each on the process that predicts it."""

    needs_probabilities: bool

    def add(self, index: int, answer: Answer) -> None:
        """One image by its number in the split."""

    def arrays(self) -> dict[str, np.ndarray]:
        """What this process holds, for the others."""

    def gather(self, parts: Sequence[Mapping[str, np.ndarray]]) -> None:
        """The ``arrays`` of all processes, this one's among them, in place of its own."""

    def results(self) -> dict[str, Any]:
        """For results.json, plain types."""
