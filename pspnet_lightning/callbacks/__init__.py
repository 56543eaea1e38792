"""What happens around training: progress on the screen, checkpoints, pictures, tables."""

from pspnet_lightning.callbacks.checkpoints import RunCheckpoint, StepCheckpoint
from pspnet_lightning.callbacks.evaluation import EvaluationResults, SavePredictions
from pspnet_lightning.callbacks.pictures import ValidationPictures
from pspnet_lightning.callbacks.progress import EpochLines, Throughput, progress_bar
from pspnet_lightning.callbacks.pruning import MedianPruning
from pspnet_lightning.callbacks.results import RunResults

__all__ = [
    "EpochLines",
    "EvaluationResults",
    "MedianPruning",
    "RunCheckpoint",
    "RunResults",
    "SavePredictions",
    "StepCheckpoint",
    "Throughput",
    "ValidationPictures",
    "progress_bar",
]
