"""Any network of timm that answers feature maps, as a backbone for images of any size."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pspnet_lightning.models.efficientnet_lite import installed_weights
from pspnet_lightning.models.same_padding import SAME

_log = logging.getLogger(__name__)
# How networks of a fixed size are asked to take any: what one does not know it refuses.
_ANY_SIZE: tuple[dict[str, bool], ...] = ({"strict_img_size": False}, {"dynamic_img_size": True}, {})


class TimmBackbone(nn.Module):
    """A ``Backbone`` made by timm (https://github.com/huggingface/pytorch-image-models), of random weights.

    ``name``: as in ``timm.list_models()``, with or without the tag of its weights. Its last stages are dilated to
    ``output_stride`` (8 or 16) where timm can do that, otherwise it keeps its own, and a warning says so. It answers
    the last four maps of stride 4 or more, with ``finest_stride=2`` that of stride 2 before them; transformers'
    channels-last maps are permuted. Images whose sides are no multiple of the largest stride, or twice it, are padded
    with zeros, the mean, below and on the right, if the network needs that.

    ``mean``, ``std``: what its weights want, of R, G, B in 0..255. Raises ValueError for a name that timm does not
    have, for a network that answers no maps, and for one that takes images of one size only.
    """

    def __init__(self, name: str, *, in_channels: int = 3, output_stride: int = 8, finest_stride: int = 4) -> None:
        super().__init__()
        import timm  # here, because it takes a second or two that nobody else needs

        if ":" in name or "/" in name or not timm.is_model(name):
            close = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
            raise ValueError(f"model.backbone={name!r} is no network of timm; near are: {', '.join(close) or 'none'}")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride={output_stride!r} must be one of 8, 16, 32")
        self.name, self.in_channels = name, in_channels
        net: Any = _create(timm, name, in_channels, output_stride)
        for module in net.modules():
            if (same := SAME.get(type(module).__name__)) is not None:
                module.__class__ = same
        self.net = net
        strides, channels = net.feature_info.reduction(), net.feature_info.channels()
        if finest_stride < 4 and finest_stride not in strides:
            raise ValueError(f"model.finest_stride={finest_stride}: the finest map of {name} has stride {min(strides)}")
        self.taken = [number for number, stride in enumerate(strides) if stride >= 4][-4:]
        if finest_stride < 4:
            self.taken.insert(0, strides.index(finest_stride))
        self.strides = tuple(strides[number] for number in self.taken)
        self.channels = tuple(channels[number] for number in self.taken)
        if self.strides[-1] > output_stride:
            _log.warning(
                "%s cannot be dilated to output stride %d: it keeps its own, %d", name, output_stride, self.strides[-1]
            )
        self.mean, self.std = (tuple(round(255 * v, 6) for v in net.pretrained_cfg[key]) for key in ("mean", "std"))
        self.channels_last_maps = self._channels_last()
        # Sides of images to which it answers maps of the announced sizes; MobileViTv2's last map must be even.
        largest = max(self.strides)
        self.multiple = next((each for each in (1, largest) if self._answers_as_announced(each)), 2 * largest)

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        height, width = x.shape[-2:]
        if self.multiple > 1:
            x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))
        maps = self.net(x)
        chosen = [maps[number] for number in self.taken]
        if self.channels_last_maps:
            chosen = [each.permute(0, 3, 1, 2).contiguous() for each in chosen]
        if self.multiple == 1:
            return chosen
        return [
            _cut(_cut(each, 2, -(-height // stride)), 3, -(-width // stride))
            for each, stride in zip(chosen, self.strides, strict=True)
        ]

    def imagenet_weights(self) -> Mapping[str, Tensor]:
        """An installed package's (EfficientNet-Lite), or timm's own through the Hugging Face hub and its cache."""
        if (installed := installed_weights(self.name)) is not None:
            return installed
        import timm

        try:
            classifier: nn.Module = timm.create_model(self.name, pretrained=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"model.pretrained=true: the weights of {self.name} cannot be fetched "
                f"({str(error).splitlines()[0]}). Fetch them where there is a network and give the file: "
                f"model.pretrained=PATH"
            ) from error
        return classifier.state_dict()

    def of_classifier(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        found, used = {}, set()
        for own in self.state_dict():
            plain = own.removeprefix("net.").removeprefix("model.")
            # timm joins the names of a sequence and of its parts: stages.0 is stages_0 where it answers maps.
            for key in (plain, re.sub(r"^(\w+)_(\d+)\.", r"\1.\2.", plain)):
                if key in tensors:
                    found[own] = tensors[key]
                    used.add(key)
                    break
        return found, [key for key in tensors if key not in used]

    def _channels_last(self) -> bool:
        """Whether the channels of the maps come last, from what it answers to one small image."""
        sides = 2 * max(self.strides), 4 * max(self.strides)
        self.channels_last_maps, self.multiple = False, 1
        shapes, announced = self._shapes(*sides), self._announced(*sides)
        if shapes == announced:
            return False
        if shapes == [(height, width, c) for c, height, width in announced]:
            return True
        raise ValueError(
            f"model.backbone={self.name!r} does not take an image of {sides[0]} x {sides[1]}, or answers no maps of it "
            f"({shapes}): a network for segmentation takes any size. Take another one"
        )

    def _answers_as_announced(self, multiple: int) -> bool:
        self.multiple = multiple
        return self._shapes(65, 97) == self._announced(65, 97)

    def _announced(self, height: int, width: int) -> list[tuple[int, ...]]:
        return [(c, -(-height // s), -(-width // s)) for c, s in zip(self.channels, self.strides, strict=True)]

    @torch.no_grad()
    def _shapes(self, height: int, width: int) -> list[tuple[int, ...]] | str:
        """Of its maps of one image, or what it says of that size."""
        was_training = self.training
        try:
            return [tuple(each.shape[1:]) for each in self.eval()(torch.zeros(1, self.in_channels, height, width))]
        except (RuntimeError, AssertionError, ValueError) as error:
            return str(error).splitlines()[0] if str(error) else type(error).__name__
        finally:
            self.train(was_training)


def _cut(x: Tensor, axis: int, length: int) -> Tensor:
    """The first values along an axis; for exporters a new tensor, of whose layout they need not assume anything."""
    if torch.compiler.is_exporting():
        return x.index_select(axis, x.new_ones(length, dtype=torch.long).cumsum(0) - 1)
    return x.narrow(axis, 0, length)


def _create(timm: Any, name: str, in_channels: int, output_stride: int) -> nn.Module:
    refused: Exception | None = None
    for dilated in ({"output_stride": output_stride}, {}):
        for any_size in _ANY_SIZE:
            try:
                return timm.create_model(name, features_only=True, in_chans=in_channels, **dilated, **any_size)
            except (TypeError, AssertionError, NotImplementedError, RuntimeError, AttributeError) as error:
                refused = error
    raise ValueError(f"model.backbone={name!r} answers no feature maps: {refused}") from refused
