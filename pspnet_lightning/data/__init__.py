"""Data sets, their classes, and the input pipeline. Nothing here knows of networks or of Lightning."""

from pspnet_lightning.data.collate import collate, collate_by_size
from pspnet_lightning.data.datasets import (
    FirstImages,
    PairDataset,
    Sample,
    SegmentationDataset,
    TransformedDataset,
    check_labels,
    count_classes,
    list_file,
    sample_indices,
)
from pspnet_lightning.data.sampling import EpochSampler, shard_indices
from pspnet_lightning.data.specs import DataSpec, default_palette
from pspnet_lightning.data.transforms import EvalTransform, TrainTransform

__all__ = [
    "DataSpec",
    "EpochSampler",
    "EvalTransform",
    "FirstImages",
    "PairDataset",
    "Sample",
    "SegmentationDataset",
    "TrainTransform",
    "TransformedDataset",
    "check_labels",
    "collate",
    "collate_by_size",
    "count_classes",
    "default_palette",
    "list_file",
    "sample_indices",
    "shard_indices",
]
