"""Scoring anybody's label maps by the rules of an evaluation: no network, no checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pspnet_lightning.data import Progress, SegmentationDataset, silent
from pspnet_lightning.data.folds import group_names
from pspnet_lightning.metrics import Answer, ImageScore, ScoreIntervals, SegmentationScores, count_pairs
from pspnet_lightning.runs.evaluation import Counted, ImageScores, image_counts, write_results
from pspnet_lightning.runs.predictions import Predictions


def judge(
    folder: Path,
    predictions: Predictions,
    data: SegmentationDataset,
    split: str,
    *,
    record: dict[str, Any],
    pictures: int = 4,
    group: str | None = None,
    further: Sequence[ImageScore] = (),
    progress: Progress = silent,
) -> tuple[SegmentationScores, ScoreIntervals]:
    """Scores the label maps and leaves in ``folder`` what the evaluation of a checkpoint leaves."""
    spec = data.spec
    if group is not None:
        # A pattern that does not fit is told before any time is spent.
        group_names([data.name(index) for index in range(len(data))], group)
    own = ImageScores(data, pictures)
    images: dict[int, Counted] = {}
    total = torch.zeros(spec.num_classes, spec.num_classes, dtype=torch.int64)
    for index in progress(range(len(data)), len(data)):
        label = data.label(index)
        prediction = torch.from_numpy(predictions.read(index, label))
        confusion = count_pairs(prediction, torch.from_numpy(label), spec.num_classes, spec.ignore_index)
        images[index] = Counted.of(data.name(index), confusion)
        own.add(index, confusion, prediction)
        for score in further:
            score.add(index, Answer(prediction.numpy(), label))
        total += confusion
    counts = image_counts(images, spec.classes, group)
    details = {**record, **own.details()}
    for score in further:
        details |= score.results()
    result = write_results(folder, split, spec, total, counts, details)
    own.write(folder)
    return result
