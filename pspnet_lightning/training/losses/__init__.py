"""Losses over label maps. The model knows none of them; ``criterion.py`` says what one is, here or of your own."""

from pspnet_lightning.training.losses.boundary import BoundaryCrossEntropy
from pspnet_lightning.training.losses.class_weights import class_weights_from_counts
from pspnet_lightning.training.losses.criterion import Criterion, Sums, SumsOverPixels, as_sums
from pspnet_lightning.training.losses.cross_entropy import CrossEntropy
from pspnet_lightning.training.losses.dice import Dice
from pspnet_lightning.training.losses.focal import Focal
from pspnet_lightning.training.losses.heads import REDUCTIONS, SegmentationLoss, segmentation_loss
from pspnet_lightning.training.losses.lovasz import LovaszSoftmax
from pspnet_lightning.training.losses.ohem import OHEM
from pspnet_lightning.training.losses.ranks import ALONE, Ranks
from pspnet_lightning.training.losses.terms import WeightedSum, weighted_sum
from pspnet_lightning.training.losses.tversky import Tversky
from pspnet_lightning.training.losses.validation import ValidationLoss

__all__ = [
    "ALONE",
    "OHEM",
    "REDUCTIONS",
    "BoundaryCrossEntropy",
    "Criterion",
    "CrossEntropy",
    "Dice",
    "Focal",
    "LovaszSoftmax",
    "Ranks",
    "SegmentationLoss",
    "Sums",
    "SumsOverPixels",
    "Tversky",
    "ValidationLoss",
    "WeightedSum",
    "as_sums",
    "class_weights_from_counts",
    "segmentation_loss",
    "weighted_sum",
]
