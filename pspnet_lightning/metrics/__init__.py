"""Scores by a named rule, all from one confusion matrix."""

from pspnet_lightning.metrics.scores import (
    RULES,
    ConfusionMatrix,
    SegmentationScores,
    all_conventions,
    count_pairs,
    scores,
)

__all__ = ["RULES", "ConfusionMatrix", "SegmentationScores", "all_conventions", "count_pairs", "scores"]
