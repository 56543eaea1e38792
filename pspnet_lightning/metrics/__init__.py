"""Scores by a named rule, all from one confusion matrix; intervals from those of the images."""

from pspnet_lightning.metrics.calibration import CalibrationScores
from pspnet_lightning.metrics.further import Further, further_scores
from pspnet_lightning.metrics.image_counts import ImageCounts
from pspnet_lightning.metrics.image_score import Answer, ImageScore
from pspnet_lightning.metrics.intervals import Interval, ScoreIntervals, paired_intervals, score_intervals, units_needed
from pspnet_lightning.metrics.scores import (
    RULES,
    ConfusionMatrix,
    SegmentationScores,
    all_conventions,
    class_statistics,
    count_pairs,
    scores,
)

__all__ = [
    "RULES",
    "Answer",
    "CalibrationScores",
    "ConfusionMatrix",
    "Further",
    "ImageCounts",
    "ImageScore",
    "Interval",
    "ScoreIntervals",
    "SegmentationScores",
    "all_conventions",
    "class_statistics",
    "count_pairs",
    "further_scores",
    "paired_intervals",
    "score_intervals",
    "scores",
    "units_needed",
]
