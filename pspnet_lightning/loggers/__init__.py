"""Where figures and pictures go: CSV, TensorBoard, Weights & Biases."""

from pspnet_lightning.loggers.dashboard import Dashboard
from pspnet_lightning.loggers.factories import csv_logger, tensorboard_logger, wandb_logger

__all__ = ["Dashboard", "csv_logger", "tensorboard_logger", "wandb_logger"]
