"""Scores of a segmentation, all from one confusion matrix over the whole data set, by a rule that is named.

mIoU is a mean over classes, and code bases differ in what they do with a class that occurs neither in the labels nor
in the predictions. Ours, "present": it is left out. The same matrix under the others' rules is in
``all_conventions``, because otherwise users compare what cannot be compared:

>>> confusion = torch.tensor([[8, 1, 0], [1, 8, 0], [0, 0, 0]])  # the third class occurs nowhere
>>> round(scores(confusion).miou, 3), round(all_conventions(confusion)["semseg"]["miou"], 3)
(0.8, 0.533)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

RULES = ("present", "zero", "nan")


class ConfusionMatrix(Metric):
    """Counts int64 (K, K) over data set and ranks: rows are the truth, columns the prediction.

    ``update(prediction, target)``: label maps (N, H, W), or logits (N, K, H, W) for the prediction; pixels whose target
    is ``ignore_index`` do not count. ``compute()`` answers the matrix; see ``scores``.
    """

    full_state_update = False
    matrix: Tensor

    def __init__(self, num_classes: int, *, ignore_index: int = 255) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.add_state("matrix", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        if prediction.ndim == target.ndim + 1:
            prediction = prediction.argmax(dim=1)
        self.matrix += count_pairs(prediction, target, self.num_classes, self.ignore_index)

    def compute(self) -> Tensor:
        return self.matrix


def count_pairs(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """The confusion matrix int64 (K, K) of label maps of one shape; see ``ConfusionMatrix``."""
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
    valid = target != ignore_index
    pairs = target[valid].long() * num_classes + prediction[valid].long()
    counts = torch.bincount(pairs, minlength=num_classes**2)
    if len(counts) != num_classes**2:
        raise ValueError(f"a prediction or target lies outside the {num_classes} classes (ignore_index={ignore_index})")
    return counts.view(num_classes, num_classes)


@dataclass(frozen=True)
class SegmentationScores:
    """What a confusion matrix says. Fractions in 0..1; a class without any pixel has not-a-number."""

    miou: float  # mean IoU over classes
    macc: float  # mean over classes of the share of a class's pixels that are right (recall)
    aacc: float  # share of all pixels that are right
    iou: list[float]
    accuracy: list[float]
    pixels: list[int]  # labelled pixels of each class
    rule: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def scores(confusion: Tensor, rule: str = "present") -> SegmentationScores:
    """mIoU, mAcc, aAcc and per-class values of a matrix (K, K), rows being the truth.

    ``rule`` says how classes without any pixel enter the means. "present": a class that occurs neither in labels
    nor predictions is left out of mIoU, one without labels out of mAcc. "zero": they count as 0. "nan": any such
    class makes the mean not-a-number.
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} must be one of {', '.join(RULES)}")
    matrix = confusion.double()
    right, labelled, predicted = matrix.diag(), matrix.sum(1), matrix.sum(0)
    # 0 / 0 is not-a-number, which is what an absent class has.
    iou = right / (labelled + predicted - right)
    accuracy = right / labelled
    return SegmentationScores(
        miou=_mean(iou, rule),
        macc=_mean(accuracy, rule),
        aacc=float(right.sum() / matrix.sum()),
        iou=iou.tolist(),
        accuracy=accuracy.tolist(),
        pixels=labelled.long().tolist(),
        rule=rule,
    )


def class_statistics(confusion: Tensor) -> dict[str, Any]:
    """Dice (F1), precision, recall and specificity of each class, in 0..1, and the mean of each (``mdice``, ...).

    Not-a-number where there is nothing to divide by: Dice of a class that occurs nowhere, precision of one that is
    never predicted, recall of one without labels, specificity of one that all pixels have. Means leave these out.
    """
    matrix = confusion.double()
    right, labelled, predicted = matrix.diag(), matrix.sum(1), matrix.sum(0)
    others = matrix.sum() - labelled
    found = {
        "dice": 2 * right / (labelled + predicted),
        "precision": right / predicted,
        "recall": right / labelled,
        "specificity": (others - (predicted - right)) / others,
    }
    means = {f"m{name}": float(values.nanmean()) for name, values in found.items()}
    return {**{name: values.tolist() for name, values in found.items()}, **means}


def all_conventions(confusion: Tensor) -> dict[str, dict[str, float]]:
    """mIoU and mAcc of one matrix under the rules of other code bases, by their names.

    "semseg" (hszhao): intersection / (union + 1e-10), an absent class counts 0. "mmseg": mean over the classes that
    occur in labels or predictions. "torchmetrics": JaccardIndex with its defaults, which leaves out classes
    that never occur. "nan": a plain mean, not-a-number if a class is absent.
    """
    matrix = confusion.double()
    right, labelled, predicted = matrix.diag(), matrix.sum(1), matrix.sum(0)
    present, zero, nan = scores(confusion, "present"), scores(confusion, "zero"), scores(confusion, "nan")
    return {
        "semseg": {
            "miou": float((right / (labelled + predicted - right + 1e-10)).mean()),
            "macc": float((right / (labelled + 1e-10)).mean()),
        },
        "mmseg": {"miou": present.miou, "macc": present.macc},
        "torchmetrics": {"miou": present.miou, "macc": present.macc},
        "absent_is_zero": {"miou": zero.miou, "macc": zero.macc},
        "absent_is_nan": {"miou": nan.miou, "macc": nan.macc},
    }


def _mean(values: Tensor, rule: str) -> float:
    if rule == "present":
        return float(values.nanmean())
    return float(values.nan_to_num(0.0).mean() if rule == "zero" else values.mean())
