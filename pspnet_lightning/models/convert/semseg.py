"""hszhao/semseg, model/pspnet.py."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pspnet_lightning.models.convert.architecture import IMAGENET_MEAN, IMAGENET_STD


class Table:
    """A code base whose modules have one name each: ``modules``, ours to theirs, {i} counting the bins.

    ``stages``: what their names of ``backbone.layer`` begin with.
    """

    modules: dict[str, str]
    stages: str
    conventions: dict[str, Any]
    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __init__(self, tensors: Mapping[str, Tensor], bins: Sequence[int] | None) -> None:
        self.bins = (1, 2, 3, 6) if bins is None else tuple(bins)
        pattern = re.escape(self.modules["head.pyramid.branches.{i}.0"]).replace(r"\{i\}", r"(\d+)")
        self.branches = len({match[1] for key in tensors if (match := re.match(pattern + r"\.", key))})

    def their_name(self, name: str) -> str | None:
        """The file's key of one of our names."""
        return _renamed(name, self.modules, ("backbone.layer", self.stages))

    def own_name(self, key: str) -> str | None:
        """Our name of one of the file's keys, None if it has none."""
        return _renamed(key, {theirs: own for own, theirs in self.modules.items()}, (self.stages, "backbone.layer"))

    def adapted(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors as this project's network takes them."""
        return dict(tensors)


class SemSeg(Table):
    """The official PyTorch code: three 3x3 in the stem, every 3x3 of stages 3 and 4 dilated, corners aligned."""

    conventions = {"dilation": "every", "stride_on": "3x3", "align_corners": True}  # noqa: RUF012
    stages = "layer"
    modules = {  # noqa: RUF012
        "backbone.conv1": "layer0.0",
        "backbone.bn1": "layer0.1",
        "backbone.conv2": "layer0.3",
        "backbone.bn2": "layer0.4",
        "backbone.conv3": "layer0.6",
        "backbone.bn3": "layer0.7",
        "head.pyramid.branches.{i}.0": "ppm.features.{i}.1",
        "head.pyramid.branches.{i}.1": "ppm.features.{i}.2",
        "head.conv": "cls.0",
        "head.bn": "cls.1",
        "head.classifier": "cls.4",
        "aux_head.conv": "aux.0",
        "aux_head.bn": "aux.1",
        "aux_head.classifier": "aux.4",
    }


def _renamed(name: str, modules: Mapping[str, str], stages: tuple[str, str]) -> str | None:
    module, _, parameter = name.rpartition(".")
    if re.match(re.escape(stages[0]) + r"[1-4]\.", name):
        return stages[1] + name.removeprefix(stages[0])
    if module in modules:
        return f"{modules[module]}.{parameter}"
    for number in re.findall(r"\.(\d+)(?=\.)", name):
        pattern = module.replace(f".{number}.", ".{i}.", 1)
        if pattern in modules:
            return f"{modules[pattern].format(i=number)}.{parameter}"
    return None
