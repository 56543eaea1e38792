"""The networks: dilated ResNets, the pyramid head, PSPNet, and weights from elsewhere."""

from pspnet_lightning.models.convert import from_state_dict
from pspnet_lightning.models.fast import exchange_convolutions, fold_batchnorm, prepare_for_inference
from pspnet_lightning.models.pretrained import load_imagenet_weights
from pspnet_lightning.models.pspnet import PSPNet, PSPNetOutput
from pspnet_lightning.models.resnet import ResNet

__all__ = [
    "PSPNet",
    "PSPNetOutput",
    "ResNet",
    "exchange_convolutions",
    "fold_batchnorm",
    "from_state_dict",
    "load_imagenet_weights",
    "prepare_for_inference",
]
