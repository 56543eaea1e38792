"""What happens around training: progress on the screen, checkpoints, pictures, tables and the loggers they go to."""

from pspnet_lightning.callbacks.averaging import ExponentialMovingAverage
from pspnet_lightning.callbacks.checkpoints import RunCheckpoint, StepCheckpoint
from pspnet_lightning.callbacks.dashboard import Dashboard
from pspnet_lightning.callbacks.evaluation import EvaluationReport, SavePredictions
from pspnet_lightning.callbacks.loggers import csv_logger, tensorboard_logger, wandb_logger
from pspnet_lightning.callbacks.pictures import ValidationPictures
from pspnet_lightning.callbacks.progress import EpochLines, Throughput, progress_bar
from pspnet_lightning.callbacks.pruning import MedianPruning
from pspnet_lightning.callbacks.report import RunReport

__all__ = [
    "Dashboard",
    "EpochLines",
    "EvaluationReport",
    "ExponentialMovingAverage",
    "MedianPruning",
    "RunCheckpoint",
    "RunReport",
    "SavePredictions",
    "StepCheckpoint",
    "Throughput",
    "ValidationPictures",
    "csv_logger",
    "progress_bar",
    "tensorboard_logger",
    "wandb_logger",
]
