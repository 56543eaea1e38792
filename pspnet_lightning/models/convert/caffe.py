"""hszhao/PSPNet, the Caffe networks of the paper (evaluation/prototxt). Names as ``read_caffemodel`` makes them.

What is not as in this project: B, G, R less the mean goes in; the stride of a stage sits on its first 1x1; the pyramid
is concatenated from the finest grid to the coarsest; BatchNorms count no batches. Max pooling rounds up in Caffe
and down here: equal for sides of 8 n + 1, as 473 and 713 are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_LAYERS = {
    "backbone.conv1": "conv1_1_3x3_s2",
    "backbone.conv2": "conv1_2_3x3",
    "backbone.conv3": "conv1_3_3x3",
    "head.conv": "conv5_4",
    "head.classifier": "conv6",
}
_IN_BLOCK = {"conv1": "1x1_reduce", "conv2": "3x3", "conv3": "1x1_increase", "downsample.0": "1x1_proj"}
_CONV = {"weight": "blobs.0", "bias": "blobs.1"}
_NORM = {"weight": "slope", "bias": "bias", "running_mean": "running_mean", "running_var": "running_var"}
# Our BatchNorm -> our convolution before it: in Caffe's names a BN is its convolution's name and "/bn".
_BEFORE = {"downsample.1": "downsample.0", "bn1": "conv1", "bn2": "conv2", "bn3": "conv3", "bn": "conv", "1": "0"}


class Caffe:
    """All convolutions of stages 3 and 4 dilated (2, then 4), corners aligned."""

    conventions: dict[str, Any] = {"dilation": "every", "stride_on": "1x1", "align_corners": True}  # noqa: RUF012
    mean = (123.68, 116.779, 103.939)  # evaluation/eval_all.m
    std = (1.0, 1.0, 1.0)

    def __init__(self, tensors: Mapping[str, Tensor], bins: Sequence[int] | None) -> None:
        found = {int(match[1]) for key in tensors if (match := re.match(r"conv5_3_pool(\d+)_conv\.", key))}
        self.bins = tuple(sorted(found)) if bins is None else tuple(bins)
        if bins is not None and set(bins) != found:
            raise ValueError(
                f"bins={self.bins}: the state dict has pyramid branches of the bins {tuple(sorted(found))}"
            )
        self.branches = len(found)

    def their_name(self, name: str) -> str | None:
        """The file's key of one of our names; None for a BatchNorm's counter."""
        module, _, parameter = name.rpartition(".")
        for norm, conv in _BEFORE.items():
            if module.endswith(f".{norm}"):
                layer = self._layer(module.removesuffix(norm) + conv)
                return f"{layer}/bn.{_NORM[parameter]}" if parameter in _NORM else None
        return f"{self._layer(module)}.{_CONV[parameter]}"

    def own_name(self, key: str) -> str | None:
        """Our name of one of the file's keys, None if it has none."""
        layer, _, parameter = key.partition("/bn.") if "/bn." in key else key.partition(".")
        module = self._module(layer)
        if module is None:
            return None
        if "/bn." in key:
            names = {theirs: own for own, theirs in _NORM.items()}
            norm = next(norm for norm, conv in _BEFORE.items() if module.endswith(f".{conv}"))
            module = module.removesuffix(_BEFORE[norm]) + norm
        else:
            names = {theirs: own for own, theirs in _CONV.items()}
        return f"{module}.{names[parameter]}" if parameter in names else None

    def adapted(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The first convolution takes R, G, B; the head's takes the pyramid in the order of ``bins``."""
        head = tensors["head.conv.weight"]
        reduced = tensors["head.pyramid.branches.0.0.weight"].shape[0] if self.bins else 0
        start = head.shape[1] - len(self.bins) * reduced
        finest_first = sorted(self.bins, reverse=True)
        groups = [start + finest_first.index(size) * reduced for size in self.bins]
        return {
            **tensors,
            "backbone.conv1.weight": tensors["backbone.conv1.weight"].flip(1),
            "head.conv.weight": torch.cat([head[:, :start], *(head[:, at : at + reduced] for at in groups)], dim=1),
        }

    def _layer(self, module: str) -> str:
        if match := re.fullmatch(r"backbone\.layer(\d)\.(\d+)\.(.+)", module):
            return f"conv{int(match[1]) + 1}_{int(match[2]) + 1}_{_IN_BLOCK[match[3]]}"
        if match := re.fullmatch(r"head\.pyramid\.branches\.(\d+)\.0", module):
            return f"conv5_3_pool{self.bins[int(match[1])]}_conv"
        return _LAYERS[module]

    def _module(self, layer: str) -> str | None:
        if match := re.fullmatch(r"conv([2-5])_(\d+)_(1x1_reduce|3x3|1x1_increase|1x1_proj)", layer):
            inner = {theirs: own for own, theirs in _IN_BLOCK.items()}[match[3]]
            return f"backbone.layer{int(match[1]) - 1}.{int(match[2]) - 1}.{inner}"
        if (match := re.fullmatch(r"conv5_3_pool(\d+)_conv", layer)) and int(match[1]) in self.bins:
            return f"head.pyramid.branches.{self.bins.index(int(match[1]))}.0"
        return {theirs: own for own, theirs in _LAYERS.items()}.get(layer)
