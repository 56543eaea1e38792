"""Several losses added up, each with its weight."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pspnet_lightning.models.upsampling import LowLogits
from pspnet_lightning.training.losses.boundary import BoundaryCrossEntropy
from pspnet_lightning.training.losses.criterion import LossOfSums, Sums, as_sums
from pspnet_lightning.training.losses.cross_entropy import CrossEntropy
from pspnet_lightning.training.losses.dice import Dice
from pspnet_lightning.training.losses.focal import Focal
from pspnet_lightning.training.losses.lovasz import LovaszSoftmax
from pspnet_lightning.training.losses.ohem import OHEM
from pspnet_lightning.training.losses.ranks import ALONE, Ranks
from pspnet_lightning.training.losses.tversky import Tversky

# What ``loss.terms`` may name: a table, since a config names no class inside another node.
TERMS: dict[str, type[LossOfSums]] = {
    "boundary": BoundaryCrossEntropy,
    "cross_entropy": CrossEntropy,
    "dice": Dice,
    "focal": Focal,
    "lovasz": LovaszSoftmax,
    "ohem": OHEM,
    "tversky": Tversky,
}


class WeightedSum(LossOfSums):
    """``sum_i weight_i * criterion_i``; a criterion may be any, also one of your own. Weights are above 0."""

    def __init__(self, terms: Sequence[tuple[float, nn.Module]], *, ignore_index: int = 255) -> None:
        super().__init__(ignore_index)
        if not terms:
            raise ValueError("a sum of losses needs a term with a weight above 0")
        for weight, criterion in terms:
            if not weight > 0:
                raise ValueError(f"weight={weight} of {type(criterion).__name__} must be above 0")
        self.weights = [float(weight) for weight, _ in terms]
        self.criteria = nn.ModuleList(criterion for _, criterion in terms)
        self._terms = [as_sums(criterion, ignore_index) for _, criterion in terms]

    def sums(self, logits: Tensor | LowLogits, target: Tensor, ranks: Ranks = ALONE) -> Sums:
        return {
            f"{number}/{name}": value
            for number, term in enumerate(self._terms)
            for name, value in term.sums(logits, target, ranks).items()
        }

    def value(self, sums: Sums) -> Tensor:
        values = []
        for number, term in enumerate(self._terms):
            mark = f"{number}/"
            values.append(term.value({name[len(mark) :]: v for name, v in sums.items() if name.startswith(mark)}))
        return torch.stack([weight * value for weight, value in zip(self.weights, values, strict=True)]).sum()


def weighted_sum(
    terms: Mapping[str, Mapping[str, Any]],
    *,
    ignore_index: int = 255,
    class_weights: Sequence[float] | None = None,
) -> WeightedSum:
    """The sum of this package's losses by name: ``{"cross_entropy": {"weight": 1}, "dice": {"weight": 1, ...}}``.

    Beside ``weight`` (default 1; 0 leaves the term out) a term takes its loss's own arguments. ``class_weights`` go to
    every term that takes them. Raises ValueError for an unknown name or key, and where no term is left.
    """
    made: list[tuple[float, nn.Module]] = []
    for name, node in terms.items():
        if name not in TERMS:
            raise ValueError(f"loss.terms.{name}: no loss of this name; {_nearest(name, TERMS)}")
        options = dict(node or {})
        weight = options.pop("weight", 1.0)
        taken = set(inspect.signature(TERMS[name]).parameters) - {"ignore_index"}
        for key in options:
            if key not in taken:
                raise ValueError(f"loss.terms.{name}.{key}: unknown key; {_nearest(key, taken | {'weight'})}")
        if class_weights is not None and "class_weights" in taken:
            options.setdefault("class_weights", class_weights)
        if weight != 0:
            made.append((weight, TERMS[name](ignore_index=ignore_index, **options)))
    return WeightedSum(made, ignore_index=ignore_index)


def _nearest(key: str, known: Any) -> str:
    close = difflib.get_close_matches(key, sorted(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are: {', '.join(sorted(known))}"
