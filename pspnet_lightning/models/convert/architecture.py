"""PSPNet's arguments, read from tensors under this project's names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from pspnet_lightning.models.resnet import STAGE_BLOCKS

# Of R, G, B in 0..255, as semseg and mmseg have them.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


def unwrapped(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors below a ``state_dict`` key, if there is one, without ``module.``; ValueError for anything else."""
    inner = state_dict.get("state_dict", state_dict)
    if not isinstance(inner, Mapping) or not inner:
        raise ValueError("state_dict: expected a mapping of names to tensors, or one under the key 'state_dict'")
    strange = [key for key, value in inner.items() if not isinstance(value, Tensor)]
    if strange:
        raise ValueError(f"state_dict: these entries are no tensors: {', '.join(map(str, strange))}")
    return {key.removeprefix("module."): value for key, value in inner.items()}


def architecture(
    tensors: Mapping[str, Tensor], keys: Sequence[str], their_name: Callable[[str], str | None]
) -> dict[str, Any]:
    """Depth, stem, widths, classes and auxiliary head; what a missing tensor hides is the official network's.

    ``keys`` and ``their_name`` are for the messages. Raises ValueError where no depth has these blocks, and without
    classifier.
    """
    blocks = tuple(
        len({match[1] for name in tensors if (match := re.match(rf"backbone\.layer{stage}\.(\d+)\.", name))})
        for stage in (1, 2, 3, 4)
    )
    # ResNet-34 has the same numbers of blocks as 50; a bottleneck is told by its third convolution.
    bottleneck = any(re.match(r"backbone\.layer\d\.\d+\.conv3\.", name) for name in tensors)
    depths = [depth for depth, known in STAGE_BLOCKS.items() if known == blocks and (depth >= 50) == bottleneck]
    if not depths:
        raise ValueError(
            f"the state dict has {blocks} blocks in its four stages, which is none of the known "
            f"depths {', '.join(map(str, STAGE_BLOCKS))}; its keys begin with {', '.join(sorted(keys)[:3])}"
        )

    def channels(name: str, default: int) -> int:
        return tensors[name].shape[0] if name in tensors and tensors[name].ndim else default

    heads = ("head.classifier.weight", "head.classifier.bias", "aux_head.classifier.weight", "aux_head.classifier.bias")
    outputs = [name for name in heads if name in tensors]
    if not outputs:
        missing = ", ".join(f"missing: {their_name(name)}" for name in heads[:2])
        raise ValueError(f"the state dict has no classifier: {missing}")
    first = tensors.get("backbone.conv1.weight")
    deep = first is None or first.ndim != 4 or first.shape[2] == 3
    stage4 = channels(f"backbone.layer4.0.conv{3 if bottleneck else 2}.weight", 2048 if bottleneck else 512)
    return {
        "num_classes": channels(outputs[0], 1),
        "depth": depths[0],
        "stem": "deep" if deep else "plain",
        "stem_widths": [
            channels("backbone.conv1.weight", 64),
            channels("backbone.conv2.weight", 64),
            channels("backbone.conv3.weight", 128),
        ]
        if deep
        else [64, 64, 128],
        "width": channels("backbone.layer1.0.conv1.weight", 64),
        "in_channels": first.shape[1] if first is not None and first.ndim == 4 else 3,
        "head_channels": channels("head.conv.weight", stage4 // 4),
        "auxiliary": any(name.startswith("aux_head.") for name in tensors),
        "aux_channels": channels("aux_head.conv.weight", stage4 // 8),
    }
