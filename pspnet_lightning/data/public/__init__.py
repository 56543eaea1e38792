"""The benchmarks in the layouts that users have on disk: ``source(split, root=..., ...)`` functions."""

from pspnet_lightning.data.public.aerial import loveda, potsdam, vaihingen
from pspnet_lightning.data.public.medical import drive, kvasir_seg
from pspnet_lightning.data.public.pets import oxford_pet
from pspnet_lightning.data.public.scene_parsing import ade20k, cityscapes, coco_stuff164k
from pspnet_lightning.data.public.voc import pascal_context, voc2012, voc2012_aug

__all__ = [
    "ade20k",
    "cityscapes",
    "coco_stuff164k",
    "drive",
    "kvasir_seg",
    "loveda",
    "oxford_pet",
    "pascal_context",
    "potsdam",
    "vaihingen",
    "voc2012",
    "voc2012_aug",
]
