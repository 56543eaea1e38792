"""What each scale of context is worth: scores with each source removed, what decided each class, what flips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pspnet_lightning.explain.contributions import CONSTANT, Explanation
from pspnet_lightning.metrics import ConfusionMatrix, SegmentationScores, scores


@dataclass(frozen=True)
class ContextResult:
    """Sums over explained images. K classes, S sources; classes are those that the whole network predicts.

    ``decided`` (K, S + 1): the share of a class's pixels that each source decided, the constant last. ``margin``
    (K, S + 1): each source's mean share of the margin to the runner-up, in logits. ``turned`` (S, K, K): pixels of a
    class (row) and what they become without each source (column). ``scores`` of the network whole and ``without[j]``
    with source j removed: None without labels. A class that is never predicted has not-a-number.
    """

    sources: tuple[str, ...]
    pixels: Tensor
    decided: Tensor
    margin: Tensor
    turned: Tensor
    scores: SegmentationScores | None
    without: tuple[SegmentationScores, ...] | None

    @property
    def flips(self) -> Tensor:
        """(K, S): the share of a class's pixels that take another class without each source."""
        kept = self.turned.diagonal(dim1=1, dim2=2).T
        return 1 - kept / self.pixels[:, None].double()

    @property
    def all_flips(self) -> list[float]:
        """Of all pixels, the share that takes another class without each source."""
        kept = self.turned.diagonal(dim1=1, dim2=2).sum(dim=1)
        return (1 - kept / self.pixels.sum().double()).tolist()

    def to_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """Plain Python types, by the names of the sources and classes that are predicted."""
        everything = [*self.sources, CONSTANT]
        found = {}
        for label in self.pixels.nonzero().flatten().tolist():
            found[classes[label]] = {
                "pixels": int(self.pixels[label]),
                "decided": dict(zip(everything, self.decided[label].tolist(), strict=True)),
                "margin": dict(zip(everything, self.margin[label].tolist(), strict=True)),
                "flips": dict(zip(self.sources, self.flips[label].tolist(), strict=True)),
                "turned": {
                    source: {classes[to]: int(row[to]) for to in row.nonzero().flatten().tolist() if to != label}
                    for source, row in zip(self.sources, self.turned[:, label], strict=True)
                },
            }
        content: dict[str, Any] = {
            "sources": everything,
            "flips": dict(zip(self.sources, self.all_flips, strict=True)),
            "predicted": found,
        }
        if self.scores is not None and self.without is not None:
            content["scores"] = self.scores.to_dict()
            content["without"] = {name: item.to_dict() for name, item in zip(self.sources, self.without, strict=True)}
        return content


class ContextStudy:
    """Sums up explanations, and labels where there are any; ``compute`` answers the result."""

    def __init__(self, sources: tuple[str, ...], num_classes: int, *, ignore_index: int = 255) -> None:
        self.sources = sources
        self.num_classes = num_classes
        self._labelled = False
        # The whole network's matrix, then one without each source.
        self._confusion = [ConfusionMatrix(num_classes, ignore_index=ignore_index) for _ in (None, *sources)]
        self._decided = torch.zeros(num_classes, len(sources) + 1, dtype=torch.int64)
        self._margin = torch.zeros(num_classes, len(sources) + 1, dtype=torch.float64)
        self._turned = torch.zeros(len(sources), num_classes, num_classes, dtype=torch.int64)

    def update(self, found: Explanation, target: Tensor | None = None) -> None:
        """``target``: labels, int64 (N, H, W); None: there are none."""
        assert found.sources == self.sources
        if target is not None:
            self._labelled = True
            for number, matrix in enumerate(self._confusion):
                matrix.update((found.without[:, number - 1] if number else found.prediction).cpu(), target.cpu())
        predicted, decider = found.prediction.flatten(), found.decider.flatten()
        count = self.num_classes
        for number in range(len(self.sources) + 1):
            self._decided[:, number] += torch.bincount(predicted[decider == number], minlength=count).cpu()
            shares = found.margin[:, number].flatten().double()
            self._margin[:, number] += torch.bincount(predicted, shares, count).cpu()
        for number in range(len(self.sources)):
            pairs = predicted * count + found.without[:, number].flatten()
            self._turned[number] += torch.bincount(pairs, minlength=count**2).view(count, count).cpu()

    def compute(self) -> ContextResult:
        pixels = self._decided.sum(dim=1)
        results = [scores(matrix.compute()) for matrix in self._confusion] if self._labelled else []
        return ContextResult(
            self.sources,
            pixels,
            self._decided / pixels[:, None].double(),
            self._margin / pixels[:, None],
            self._turned,
            results[0] if self._labelled else None,
            tuple(results[1:]) if self._labelled else None,
        )
