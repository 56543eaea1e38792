"""PSPNet: a dilated ResNet, the pyramid head and, for training, the auxiliary head on stage 3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

from annotated_types import Interval
from torch import Tensor, nn

from pspnet_lightning.models.pyramid import Bins, PyramidHead, require_several_values
from pspnet_lightning.models.resnet import ResNet, conv3x3
from pspnet_lightning.models.upsampling import LowLogits

Channels = Annotated[int, Interval(ge=1, le=8192)]


class PSPNetOutput(NamedTuple):
    """What PSPNet answers in training mode: full-size logits (N, K, H, W) of both heads, or ``LowLogits`` if asked."""

    logits: Tensor | LowLogits
    aux_logits: Tensor | LowLogits | None


class AuxiliaryHead(nn.Module):
    """3x3 convolution, BatchNorm, ReLU, Dropout2d, 1x1 classifier: (N, C, h, w) -> (N, num_classes, h, w)."""

    def __init__(self, in_channels: int, num_classes: int, *, channels: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.conv = conv3x3(in_channels, channels)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        require_several_values(self.bn, x.shape[0] * x.shape[2] * x.shape[3], "the auxiliary head")
        return self.classifier(self.dropout(self.relu(self.bn(x))))


class PSPNet(nn.Module):
    """Pyramid Scene Parsing Network (Zhao et al., CVPR 2017).

    ``model(x)``, x (N, in_channels, H, W) float and normalised, any size: in eval mode logits
    (N, num_classes, H, W); in training mode a ``PSPNetOutput`` of both heads' logits, ``aux_logits``
    being None without auxiliary head. With ``upsample=False`` they are ``LowLogits`` instead, from which labels and
    losses follow without a full-size tensor. The defaults are the official code's PSPNet-50.

    Args:
        num_classes: K.
        depth, stem, stem_widths, width, in_channels, output_stride, dilation, stride_on: see ``ResNet``.
        bins: the pyramid's grid sizes; empty: no pyramid, the plain dilated FCN.
        pooling: "average" or "max".
        reduction: each level reduced to C // len(bins) channels by a 1x1 convolution.
        head_channels: of the 3x3 convolution; None: C // 4, 512 for ResNet-50 and deeper.
        align_corners: of every up-sampling: True in the official code, False in mmseg.
        dropout: probability of Dropout2d in both heads.
        auxiliary, aux_channels: the head on stage 3; None: a quarter of its channels, 256 for ResNet-50.
        execution: "exact" or "concat", see ``PyramidHead``.

    Raises ValueError for arguments outside these, and in ``forward`` for inputs of another shape or type.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        depth: Literal[18, 34, 50, 101, 152, 269] = 50,
        stem: Literal["plain", "deep"] = "deep",
        stem_widths: tuple[Channels, Channels, Channels] = (64, 64, 128),
        width: Channels = 64,
        in_channels: Channels = 3,
        output_stride: Literal[8, 16, 32] = 8,
        dilation: Literal["every", "first_previous"] = "every",
        stride_on: Literal["3x3", "1x1"] = "3x3",
        bins: Bins = (1, 2, 3, 6),
        pooling: Literal["average", "max"] = "average",
        reduction: bool = True,
        head_channels: Channels | None = None,
        align_corners: bool = True,
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1,
        auxiliary: bool = True,
        aux_channels: Channels | None = None,
        execution: Literal["exact", "concat"] = "exact",
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes} must be at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must be a probability below 1")
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.backbone = ResNet(
            depth,
            stem=stem,
            stem_widths=stem_widths,
            width=width,
            in_channels=in_channels,
            output_stride=output_stride,
            dilation=dilation,
            stride_on=stride_on,
        )
        self.head = PyramidHead(
            self.backbone.channels,
            num_classes,
            bins=bins,
            pooling=pooling,
            reduction=reduction,
            channels=head_channels or self.backbone.channels // 4,
            dropout=dropout,
            align_corners=align_corners,
            execution=execution,
        )
        self.aux_head = (
            AuxiliaryHead(
                self.backbone.stage3_channels,
                num_classes,
                channels=aux_channels or self.backbone.stage3_channels // 4,
                dropout=dropout,
            )
            if auxiliary
            else None
        )

    def forward(self, x: Tensor, upsample: bool = True) -> Tensor | LowLogits | PSPNetOutput:
        self._check(x)
        height, width = x.shape[-2:]

        def sized(low: Tensor) -> Tensor | LowLogits:
            logits = LowLogits(low, (height, width), self.align_corners)
            return logits.full() if upsample else logits

        stage3, stage4 = self.backbone(x)
        logits = sized(self.head(stage4))
        if not self.training:
            return logits
        return PSPNetOutput(logits, None if self.aux_head is None else sized(self.aux_head(stage3)))

    def low_logits(self, x: Tensor) -> Tensor:
        """The main head's logits at the backbone's resolution, (N, num_classes, h, w): before the up-sampling."""
        self._check(x)
        return self.head(self.backbone(x)[1])

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that ImageNet weights initialise: they learn at the base rate."""
        return self.backbone.parameters()

    def new_parameters(self) -> Iterator[nn.Parameter]:
        """The heads' parameters: they learn at ten times the base rate."""
        yield from self.head.parameters()
        if self.aux_head is not None:
            yield from self.aux_head.parameters()

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.backbone.in_channels:
            raise ValueError(
                f"input of shape {tuple(x.shape)}: expected (N, {self.backbone.in_channels}, H, W), a batch of images"
            )
        if not x.is_floating_point():
            raise ValueError(f"input of type {x.dtype}: expected normalised floating-point images")
