"""ImageNet weights for the backbone: torchvision's, or a local file with torchvision's names."""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor

from pspnet_lightning.models.pspnet import PSPNet
from pspnet_lightning.models.resnet import ResNet
from pspnet_lightning.models.weight_files import read_weight_file

_TORCHVISION_DEPTHS = (18, 34, 50, 101, 152)
_log = logging.getLogger(__name__)


def load_imagenet_weights(model: PSPNet | ResNet, *, file: str | Path | None = None) -> list[str]:
    """Loads ImageNet weights into the backbone and returns the keys left out, which are the classifier's.

    Without ``file`` torchvision's IMAGENET1K_V1 weights of the depth are downloaded once into torch's hub
    folder and checked against their hash; for images that are not RGB see ``adapt_channels``. ``file`` is a state
    dict with torchvision's names (a ``state_dict`` wrapper and ``module.`` prefixes are taken off), read with
    ``weights_only=True``.

    Raises ValueError where torchvision has no weights for the architecture, where there is no network,
    or listing every key that is missing, unknown or of another shape; FileNotFoundError for ``file``.
    """
    backbone = model.backbone if isinstance(model, PSPNet) else model
    tensors = _from_file(Path(file)) if file is not None else _download(backbone)
    own = backbone.state_dict()
    stem = "conv1.weight"
    if stem in tensors and backbone.in_channels != tensors[stem].shape[1] == 3:
        tensors = {**tensors, stem: adapt_channels(tensors[stem], backbone.in_channels)}
        _log.info("the stem's RGB filters are repeated over %d channels", backbone.in_channels)
    skipped = [key for key in tensors if key.startswith("fc.")]
    problems = [f"missing: {key}" for key in own if key not in tensors]
    problems += [f"unknown: {key}" for key in tensors if key not in own and key not in skipped]
    problems += [
        f"shape of {key}: {tuple(tensors[key].shape)}, expected {tuple(value.shape)}"
        for key, value in own.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    if problems:
        raise ValueError(
            f"model.pretrained: {'the ImageNet weights' if file is None else str(file)!r} do not fit this backbone "
            f"({len(problems)} differences):\n  " + "\n  ".join(problems)
        )
    backbone.load_state_dict({key: value for key, value in tensors.items() if key not in skipped})
    _log.info("ImageNet weights loaded into the backbone; left out: %s", ", ".join(skipped) or "nothing")
    return skipped


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """A stem's filters (out, 3, kh, kw) for another number of channels: repeated R, G, B, R, ... and scaled by 3 / C.

    Grey images repeated as RGB and multi-band images then excite the filters as strongly as RGB images do.
    """
    return weight[:, [channel % 3 for channel in range(channels)]] * (3 / channels)


def _from_file(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise FileNotFoundError(f"model.pretrained={str(file)!r}: there is no such file")
    try:
        content = read_weight_file(file)
    except ValueError as error:
        raise ValueError(f"model.pretrained={str(file)!r} cannot be read as a state dict: {error}") from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"model.pretrained={str(file)!r} holds no state dict (names to tensors)")
    return {key.removeprefix("module."): value for key, value in content.items()}


def _download(backbone: ResNet) -> dict[str, Tensor]:
    if backbone.stem != "plain" or backbone.depth not in _TORCHVISION_DEPTHS:
        raise ValueError(
            f"model.pretrained=true: torchvision has no ImageNet weights for depth {backbone.depth} with the "
            f"{backbone.stem} stem; take model.stem=plain with depth {', '.join(map(str, _TORCHVISION_DEPTHS))}, or "
            f"give a file: model.pretrained=PATH"
        )
    # Imported here: torchvision takes a second to import, and only this needs it.
    from torchvision.models import get_model_weights

    url = get_model_weights(f"resnet{backbone.depth}")["IMAGENET1K_V1"].url
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (URLError, OSError) as error:
        raise ValueError(
            f"model.pretrained=true: cannot download {url} ({error}). Fetch this file where there is a network and put "
            f"it into {Path(torch.hub.get_dir()) / 'checkpoints'}, or give it with model.pretrained=PATH"
        ) from error
