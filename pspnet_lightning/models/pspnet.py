"""PSPNet: a backbone, a head and, for training, an auxiliary head, composed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pspnet_lightning.models.abilities import demand
from pspnet_lightning.models.backbone import Backbone
from pspnet_lightning.models.head import Head
from pspnet_lightning.models.upsampling import LowLogits


class PSPNetOutput(NamedTuple):
    """What PSPNet answers in training mode: full-size logits (N, K, H, W) of both heads, or ``LowLogits`` if asked."""

    logits: Tensor | LowLogits
    aux_logits: Tensor | LowLogits | None


@runtime_checkable
class Composed(Protocol):
    """A network that consists of a backbone and a head, whose logits are up-sampled to the images' size."""

    # Each a module with the abilities that ``backbone.py`` and ``head.py`` state.
    backbone: Any
    head: Any
    align_corners: bool


class PSPNet(nn.Module):
    """A pyramid scene parsing network (Zhao et al., CVPR 2017), or another one of the same build.

    ``model(x)``, x (N, in_channels, H, W) float and normalised, any size: in eval mode logits
    (N, num_classes, H, W); in training mode a ``PSPNetOutput`` of both heads' logits, ``aux_logits``
    being None without auxiliary head. With ``upsample=False`` they are ``LowLogits`` instead, from which labels and
    losses follow without a full-size tensor.

    ``backbone`` is a ``Backbone``, ``head`` and ``auxiliary`` are ``Head``s, made for its channels; ``build_pspnet``
    makes the paper's. ``align_corners``: of the logits' up-sampling.

    Raises ValueError where a part lacks what its protocol asks for, and in ``forward`` for inputs of another shape or
    type, and for a backbone whose maps are not those that it announces.
    """

    def __init__(
        self, backbone: Backbone, head: Head, auxiliary: Head | None = None, *, align_corners: bool = True
    ) -> None:
        super().__init__()
        demand(backbone, Backbone, "the backbone of a PSPNet")
        for each in (head, *([] if auxiliary is None else [auxiliary])):
            demand(each, Head, "a head of a PSPNet")
        if auxiliary is not None and auxiliary.num_classes != head.num_classes:
            raise ValueError(
                f"the head answers {head.num_classes} classes, the auxiliary head {auxiliary.num_classes}; give both "
                f"the same num_classes"
            )
        self.num_classes = head.num_classes
        self.align_corners = align_corners
        self.backbone = backbone
        self.head = head
        self.aux_head = auxiliary

    def forward(self, x: Tensor, upsample: bool = True) -> Tensor | LowLogits | PSPNetOutput:
        height, width = x.shape[-2:]

        def sized(low: Tensor) -> Tensor | LowLogits:
            logits = LowLogits(low, (height, width), self.align_corners)
            return logits.full() if upsample else logits

        features = self.features(x)
        logits = sized(self.head(features))
        if not self.training:
            return logits
        return PSPNetOutput(logits, None if self.aux_head is None else sized(self.aux_head(features)))

    def features(self, x: Tensor) -> Sequence[Tensor]:
        """The backbone's maps of x, the finest first: see ``Backbone``."""
        if torch.jit.is_tracing():  # comparing sizes would write them down
            return self.backbone(x)
        if x.ndim != 4 or x.shape[1] != self.backbone.in_channels:
            raise ValueError(
                f"input of shape {tuple(x.shape)}: expected (N, {self.backbone.in_channels}, H, W), a batch of images"
            )
        if not x.is_floating_point():
            raise ValueError(f"input of type {x.dtype}: expected normalised floating-point images")
        features = self.backbone(x)
        if [each.shape[1] for each in features] != list(self.backbone.channels):
            raise ValueError(
                f"{type(self.backbone).__name__} says channels={list(self.backbone.channels)} and answers maps of "
                f"shapes {[tuple(each.shape) for each in features]}; maps are (N, C, H, W)"
            )
        return features

    def low_logits(self, x: Tensor) -> Tensor:
        """The main head's logits at its own resolution, (N, num_classes, h, w): before the up-sampling."""
        return self.head(self.features(x))

    def backbone_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that ImageNet weights initialise: they learn at the base rate."""
        return self.backbone.parameters()

    def new_parameters(self) -> Iterator[nn.Parameter]:
        """The heads' parameters: they learn at ten times the base rate."""
        inside = {id(parameter) for parameter in self.backbone.parameters()}
        return (parameter for parameter in self.parameters() if id(parameter) not in inside)
