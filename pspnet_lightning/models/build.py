"""A PSPNet from plain arguments: the paper's, or one with another backbone, head or fusion of the scales."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from annotated_types import Interval

from pspnet_lightning.models.aspp import ASPPHead
from pspnet_lightning.models.fcn import FCNHead
from pspnet_lightning.models.pspnet import PSPNet
from pspnet_lightning.models.pyramid import PyramidHead
from pspnet_lightning.models.resnet import ResNet
from pspnet_lightning.models.seams import make, names_taken
from pspnet_lightning.models.timm_backbone import TimmBackbone
from pspnet_lightning.models.uper import UPerHead
from pspnet_lightning.sizes import Bins

Channels = Annotated[int, Interval(ge=1, le=8192)]
HEADS: dict[str, Callable[..., Any]] = {
    "pyramid": PyramidHead,
    "fcn": FCNHead,
    "aspp": ASPPHead,
    "uper": UPerHead,
}
# What says something to the paper's ResNet alone, and to heads with a pyramid.
_OF_RESNET = ("depth", "stem", "stem_widths", "width", "dilation", "stride_on")
_OF_PYRAMID = ("bins", "pooling", "reduction", "fusion", "execution")
# Heads of this package that look at more than the last map.
_OF_ALL_MAPS = ("uper",)


def build_pspnet(
    num_classes: int,
    *,
    backbone: str | Callable[..., Any] | None = None,
    head: str | Callable[..., Any] = "pyramid",
    fusion: str | Callable[..., Any] = "concat",
    auxiliary: bool | Callable[..., Any] = True,
    depth: Literal[18, 34, 50, 101, 152, 269] = 50,
    stem: Literal["plain", "deep"] = "deep",
    stem_widths: tuple[Channels, Channels, Channels] = (64, 64, 128),
    width: Channels = 64,
    in_channels: Channels = 3,
    output_stride: Literal[8, 16, 32] = 8,
    finest_stride: Literal[2, 4] = 4,
    dilation: Literal["every", "first_previous"] = "every",
    stride_on: Literal["3x3", "1x1"] = "3x3",
    bins: Bins = (1, 2, 3, 6),
    pooling: Literal["average", "max"] = "average",
    reduction: bool = True,
    head_channels: Channels | None = None,
    align_corners: bool = True,
    dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.1,
    aux_channels: Channels | None = None,
    execution: Literal["exact", "concat"] = "exact",
) -> PSPNet:
    """The network for num_classes classes; the defaults are the official code's PSPNet-50.

    Args:
        backbone: None: the paper's ResNet; a name of timm's (``TimmBackbone``); a callable that makes a ``Backbone``.
        head: "pyramid", "fcn", "aspp", "uper", or a callable that makes a ``Head``.
        fusion: of the pyramid's scales, "concat", "sum", "gate", "attention", or a callable that makes a ``Fusion``.
        auxiliary: the head on the map before the last, for training; True: the paper's; or a callable.
        depth, stem, stem_widths, width, in_channels, output_stride, dilation, stride_on: see ``ResNet``.
        finest_stride: of the first map; 2, with a head that uses it ("uper"): for things a few pixels thin.
        bins, pooling, reduction, execution: see ``PyramidPooling`` and ``PyramidConvolution``.
        head_channels, aux_channels: of the heads' 3x3 convolutions; None: a quarter of what they see.
        align_corners: of every up-sampling: True in the official code, False in mmseg.
        dropout: probability of Dropout2d in the heads.

    A callable is called with those of these arguments that its signature names: a backbone with in_channels,
    output_stride and finest_stride; a head with channels, strides and num_classes and with all that is said above of
    heads; a fusion with in_channels, level_channels, levels and align_corners.

    Raises ValueError for arguments outside these, and for those that say nothing to the parts that were chosen.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes} must be at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} must be a probability below 1")
    given = dict(locals())
    options = {name: given[name] for name in (*_OF_RESNET, "in_channels", "output_stride", "finest_stride")}
    if backbone is None:
        made: Any = ResNet(**options)
    else:
        if isinstance(backbone, str):
            backbone = partial(TimmBackbone, backbone)
        unread = {"output_stride", "finest_stride"} - names_taken(backbone)
        _require_defaults(given, (*_OF_RESNET, *unread), f"backbone={_name(backbone)}")
        sizes = {name: given[name] for name in ("in_channels", "output_stride", "finest_stride")}
        made = make(backbone, {}, "model.backbone", **sizes)
    offered = {name: given[name] for name in (*_OF_PYRAMID, "align_corners", "dropout")}
    offered |= {"channels": made.channels, "strides": made.strides, "num_classes": num_classes}
    main_head = make(head, HEADS, "model.head", head_channels=head_channels, **offered)
    taken = names_taken(HEADS[head] if isinstance(head, str) else head)
    beside = f"head={head!r}" if isinstance(head, str) else f"head={_name(head)}"
    unread = {*_OF_PYRAMID, "head_channels"} - taken
    if isinstance(head, str) and head not in _OF_ALL_MAPS:
        unread.add("finest_stride")
    _require_defaults(given, sorted(unread), beside)
    auxiliary_head = None
    if auxiliary is not False:
        chosen = FCNHead if auxiliary is True else auxiliary
        auxiliary_head = make(chosen, HEADS, "model.auxiliary", stage=-2, head_channels=aux_channels, **offered)
    return PSPNet(made, main_head, auxiliary_head, align_corners=align_corners)


def _require_defaults(given: dict[str, Any], names: Sequence[str], beside: str) -> None:
    """Raises ValueError where an argument was given that nobody would look at."""
    for name in names:
        default = inspect.signature(build_pspnet).parameters[name].default
        value = given[name]
        if (tuple(value) if isinstance(value, list) else value) != default:
            raise ValueError(f"model.{name}={value!r} says nothing to {beside}; leave it out")


def _name(factory: Any) -> str:
    if isinstance(factory, partial):
        return factory.args[0] if factory.args else _name(factory.func)
    return getattr(factory, "__name__", repr(factory))
