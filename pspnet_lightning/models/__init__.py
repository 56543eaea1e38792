"""The networks: backbones, heads, the fusion of scales, PSPNet that composes them, and weights from elsewhere."""

from pspnet_lightning.models.aspp import ASPPHead
from pspnet_lightning.models.backbone import Backbone
from pspnet_lightning.models.build import build_pspnet
from pspnet_lightning.models.convert import from_state_dict
from pspnet_lightning.models.fast import exchange_convolutions, fold_batchnorm, prepare_for_inference
from pspnet_lightning.models.fcn import FCNHead
from pspnet_lightning.models.head import Head
from pspnet_lightning.models.pretrained import load_imagenet_weights
from pspnet_lightning.models.pspnet import PSPNet, PSPNetOutput
from pspnet_lightning.models.pyramid import PyramidHead
from pspnet_lightning.models.resnet import ResNet
from pspnet_lightning.models.timm_backbone import TimmBackbone
from pspnet_lightning.models.uper import UPerHead

__all__ = [
    "ASPPHead",
    "Backbone",
    "FCNHead",
    "Head",
    "PSPNet",
    "PSPNetOutput",
    "PyramidHead",
    "ResNet",
    "TimmBackbone",
    "UPerHead",
    "build_pspnet",
    "exchange_convolutions",
    "fold_batchnorm",
    "from_state_dict",
    "load_imagenet_weights",
    "prepare_for_inference",
]
