"""DeepLabV3's head: the same map seen at several rates, and as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pspnet_lightning.models.pyramid import require_several_values
from pspnet_lightning.models.resnet import conv3x3


class ASPPHead(nn.Module):
    """Atrous spatial pyramid pooling on the last map, torchvision's module, then a 3x3 convolution and the classifier.

    Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017. The rates are 12, 24 and 36 at
    stride 8 and as many pixels of the image at any other. ``head_channels``: None: a quarter of the map's, at most 256.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        strides: Sequence[int] = (8,),
        head_channels: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        from torchvision.models.segmentation.deeplabv3 import ASPP  # here, because torchvision takes long to import

        self.num_classes = num_classes
        width = head_channels or min(channels[-1] // 4, 256)
        self.aspp: Any = ASPP(channels[-1], [max(1, rate * 8 // strides[-1]) for rate in (12, 24, 36)], width)
        self.conv = conv3x3(width, width)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        require_several_values(self.aspp.convs[-1][2], features[-1].shape[0], "the pooled image of the ASPP head")
        x = self.relu(self.bn(self.conv(self.aspp(features[-1]))))
        return self.classifier(self.dropout(x))
