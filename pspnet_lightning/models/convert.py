"""State dicts of other code bases as PSPNets of this one: names and shapes tell the architecture. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pspnet_lightning.models.pspnet import PSPNet
from pspnet_lightning.models.resnet import STAGE_BLOCKS, one_of

# Our module -> the official one (hszhao/semseg, model/pspnet.py). {i} counts the bins.
_SEMSEG_MODULES = {
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


def from_state_dict(
    state_dict: Mapping[str, Any], *, source: str = "semseg", bins: Sequence[int] = (1, 2, 3, 6)
) -> PSPNet:
    """The PSPNet that a state dict describes, with its weights, in eval mode.

    ``source="semseg"`` is hszhao/semseg. Depth, stem, widths, number of classes and the auxiliary head are read
    from names and shapes; a ``state_dict`` wrapper and ``module.`` prefixes are taken off. The bins'
    sizes are in no tensor, so they are given, in the order of the file's branches.

    Raises ValueError that lists every key that is missing, unknown or of another shape than the architecture
    has, and for an unknown ``source`` or bins whose number is not that of the file's branches.
    """
    one_of("source", source, ("semseg",))
    tensors = _unwrapped(state_dict)
    branches = {int(match[1]) for key in tensors if (match := re.match(r"ppm\.features\.(\d+)\.", key))}
    if len(branches) != len(bins):
        raise ValueError(
            f"bins={tuple(bins)} has {len(bins)} sizes, but the state dict has {len(branches)} pyramid branches"
        )
    model = PSPNet(bins=bins, **_semseg_architecture(tensors))

    own = model.state_dict()
    theirs = {name: _semseg_name(name) for name in own}
    problems = [f"missing: {key}" for key in theirs.values() if key not in tensors]
    known = set(theirs.values())
    problems += [f"unknown: {key}" for key in tensors if key not in known]
    problems += [
        f"shape of {key}: {tuple(tensors[key].shape)}, expected {tuple(own[name].shape)}"
        for name, key in theirs.items()
        if key in tensors and tensors[key].shape != own[name].shape
    ]
    if problems:
        raise ValueError(
            f"the state dict is not that of a {source} PSPNet with bins {tuple(bins)} "
            f"({len(problems)} differences):\n  " + "\n  ".join(problems)
        )
    model.load_state_dict({name: tensors[key] for name, key in theirs.items()})
    return model.eval()


def _unwrapped(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    inner = state_dict.get("state_dict", state_dict)
    if not isinstance(inner, Mapping) or not inner:
        raise ValueError("state_dict: expected a mapping of names to tensors, or one under the key 'state_dict'")
    strange = [key for key, value in inner.items() if not isinstance(value, Tensor)]
    if strange:
        raise ValueError(f"state_dict: these entries are no tensors: {', '.join(map(str, strange))}")
    return {key.removeprefix("module."): value for key, value in inner.items()}


def _semseg_name(name: str) -> str:
    module, _, parameter = name.rpartition(".")
    if re.match(r"backbone\.layer\d", module):
        return f"{module.removeprefix('backbone.')}.{parameter}"
    if match := re.search(r"branches\.(\d+)", module):
        pattern = module.replace(f"branches.{match[1]}", "branches.{i}")
        return f"{_SEMSEG_MODULES[pattern].format(i=match[1])}.{parameter}"
    return f"{_SEMSEG_MODULES[module]}.{parameter}"


def _semseg_architecture(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """PSPNet's arguments, read from the official names. What a missing tensor hides is the official network's."""
    blocks = tuple(
        len({match[1] for key in tensors if (match := re.match(rf"layer{stage}\.(\d+)\.", key))})
        for stage in (1, 2, 3, 4)
    )
    # ResNet-34 has the same numbers of blocks as 50; a bottleneck is told by its third convolution.
    bottleneck = any(re.match(r"layer\d\.\d+\.conv3\.", key) for key in tensors)
    depths = [depth for depth, known in STAGE_BLOCKS.items() if known == blocks and (depth >= 50) == bottleneck]
    if not depths:
        raise ValueError(
            f"the state dict has {blocks} blocks in its four stages, which is none of the known "
            f"depths {', '.join(map(str, STAGE_BLOCKS))}; its keys begin with {', '.join(sorted(tensors)[:3])}"
        )

    def channels(key: str, default: int) -> int:
        return tensors[key].shape[0] if key in tensors and tensors[key].ndim else default

    outputs = [key for key in ("cls.4.weight", "cls.4.bias", "aux.4.weight", "aux.4.bias") if key in tensors]
    if not outputs:
        raise ValueError("the state dict has no classifier: missing: cls.4.weight, missing: cls.4.bias")
    first = tensors.get("layer0.0.weight")
    return {
        "num_classes": channels(outputs[0], 1),
        "depth": depths[0],
        "stem": "deep",
        "stem_widths": (
            channels("layer0.0.weight", 64),
            channels("layer0.3.weight", 64),
            channels("layer0.6.weight", 128),
        ),
        "width": channels("layer1.0.conv1.weight", 64),
        "in_channels": first.shape[1] if first is not None and first.ndim == 4 else 3,
        "head_channels": channels("cls.0.weight", 512),
        "auxiliary": any(key.startswith("aux.") for key in tensors),
        "aux_channels": channels("aux.0.weight", 256),
        "dilation": "every",
        "align_corners": True,
    }
