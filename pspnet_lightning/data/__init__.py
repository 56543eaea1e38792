"""Data sets, their classes, and the input pipeline. Nothing here knows of networks or of Lightning."""

from pspnet_lightning.data.collate import collate, collate_by_size
from pspnet_lightning.data.datasets import (
    PairDataset,
    Progress,
    Sample,
    SegmentationDataset,
    Subset,
    Transform,
    TransformedDataset,
    UnlabelledDataset,
    check_labels,
    count_classes,
    first_images,
    sample_indices,
    silent,
)
from pspnet_lightning.data.fingerprint import fingerprint
from pspnet_lightning.data.folds import FoldSource, Source
from pspnet_lightning.data.own import folder, list_file
from pspnet_lightning.data.sampling import EpochSampler, shard_indices
from pspnet_lightning.data.specs import DataSpec, default_palette
from pspnet_lightning.data.transforms import EvalTransform, TrainTransform

__all__ = [
    "DataSpec",
    "EpochSampler",
    "EvalTransform",
    "FoldSource",
    "PairDataset",
    "Progress",
    "Sample",
    "SegmentationDataset",
    "Source",
    "Subset",
    "TrainTransform",
    "Transform",
    "TransformedDataset",
    "UnlabelledDataset",
    "check_labels",
    "collate",
    "collate_by_size",
    "count_classes",
    "default_palette",
    "fingerprint",
    "first_images",
    "folder",
    "list_file",
    "sample_indices",
    "shard_indices",
    "silent",
]
