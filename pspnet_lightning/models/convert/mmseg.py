"""mmsegmentation: ResNet or ResNetV1c with PSPHead, and FCNHead of one convolution as the auxiliary head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from pspnet_lightning.models.convert.semseg import Table

_HEADS = {
    "head.pyramid.branches.{i}.0": "decode_head.psp_modules.{i}.1.conv",
    "head.pyramid.branches.{i}.1": "decode_head.psp_modules.{i}.1.bn",
    "head.conv": "decode_head.bottleneck.conv",
    "head.bn": "decode_head.bottleneck.bn",
    "head.classifier": "decode_head.conv_seg",
    "aux_head.conv": "auxiliary_head.convs.0.conv",
    "aux_head.bn": "auxiliary_head.convs.0.bn",
    "aux_head.classifier": "auxiliary_head.conv_seg",
}
_PLAIN_STEM = {"backbone.conv1": "backbone.conv1", "backbone.bn1": "backbone.bn1"}
_DEEP_STEM = {
    "backbone.conv1": "backbone.stem.0",
    "backbone.bn1": "backbone.stem.1",
    "backbone.conv2": "backbone.stem.3",
    "backbone.bn2": "backbone.stem.4",
    "backbone.conv3": "backbone.stem.6",
    "backbone.bn3": "backbone.stem.7",
}


class MMSeg(Table):
    """The d8 models: output stride 8, the first block of a dilated stage at the rate before, corners not aligned."""

    conventions = {"dilation": "first_previous", "stride_on": "3x3", "align_corners": False}  # noqa: RUF012
    stages = "backbone.layer"

    def __init__(self, tensors: Mapping[str, Tensor], bins: Sequence[int] | None) -> None:
        deep = any(key.startswith("backbone.stem.") for key in tensors)
        self.modules = {**(_DEEP_STEM if deep else _PLAIN_STEM), **_HEADS}
        super().__init__(tensors, bins)
