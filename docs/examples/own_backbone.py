"""A backbone of one's own: four strided 3x3 convolutions. model=own_backbone"""

from torch import Tensor, nn


class StridedBackbone(nn.Module):
    """Answers maps of ``channels`` at ``strides``, the finest first: pspnet_lightning/models/backbone.py."""

    strides = (2, 4, 8, 16)

    def __init__(self, in_channels: int, width: int = 16) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.channels = (width, 2 * width, 4 * width, 8 * width)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in zip((in_channels, *self.channels), self.channels, strict=False)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
