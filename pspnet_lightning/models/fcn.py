"""The fully convolutional head: one 3x3 convolution and a classifier; also the paper's auxiliary head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from pspnet_lightning.models.pyramid import require_several_values
from pspnet_lightning.models.resnet import conv3x3


class FCNHead(nn.Module):
    """3x3 convolution, BatchNorm, ReLU, Dropout2d and 1x1 classifier of one of the backbone's maps.

    Long et al., CVPR 2015, as semseg and mmseg have it. ``stage``: which map, counted from the last, -1; the paper's
    auxiliary head takes -2. ``head_channels``: None: a quarter of the map's.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        stage: int = -1,
        head_channels: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if not -len(channels) <= stage < 0:
            raise ValueError(
                f"a head on the backbone's map {stage}, but it answers {len(channels)}: give model.auxiliary=false"
            )
        self.num_classes, self.stage = num_classes, stage
        width = head_channels or channels[stage] // 4
        self.conv = conv3x3(channels[stage], width)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = self.conv(features[self.stage])
        require_several_values(self.bn, x.shape[0] * x.shape[2] * x.shape[3], "the fully convolutional head")
        return self.classifier(self.dropout(self.relu(self.bn(x))))
