"""A network of one's own, put together in Python: DeepLabV3 on the paper's ResNet. model=own_network"""

from pspnet_lightning.models import ASPPHead, FCNHead, PSPNet, ResNet


class DeepLab(PSPNet):
    """ASPP on stage 4 and an auxiliary head on stage 3."""

    def __init__(self, num_classes: int, in_channels: int = 3, depth: int = 18, width: int = 64) -> None:
        backbone = ResNet(depth, width=width, in_channels=in_channels)
        head = ASPPHead(backbone.channels, num_classes, strides=backbone.strides)
        super().__init__(backbone, head, FCNHead(backbone.channels, num_classes, stage=-2))
