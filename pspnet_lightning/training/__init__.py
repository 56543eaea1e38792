"""The LightningModule, the LightningDataModule, losses, optimisers, and what belongs to training itself."""

from pspnet_lightning.training.averaging import ExponentialMovingAverage
from pspnet_lightning.training.batchnorm import SyncBatchNormOnGPUs
from pspnet_lightning.training.datamodule import SegmentationDataModule
from pspnet_lightning.training.module import SegmentationModule

__all__ = ["ExponentialMovingAverage", "SegmentationDataModule", "SegmentationModule", "SyncBatchNormOnGPUs"]
