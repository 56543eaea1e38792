"""ImageNet weights for the backbone: what it fetches itself, or a local file."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pspnet_lightning.models.abilities import demand
from pspnet_lightning.models.backbone import Pretrainable
from pspnet_lightning.models.pspnet import Composed
from pspnet_lightning.models.weight_files import read_weight_file

# A folder of weight files, for machines without a network.
FOLDER = "PSPNET_WEIGHTS"
_log = logging.getLogger(__name__)


def load_imagenet_weights(model: nn.Module, *, file: str | Path | None = None) -> list[str]:
    """Loads ImageNet weights into the backbone and returns the keys left out, which are the classifier's.

    Without ``file`` the backbone fetches its own (``Pretrainable``); for images that are not RGB see
    ``adapt_channels``. ``file`` is a state dict with torchvision's or timm's names (a ``state_dict`` wrapper and
    ``module.`` prefixes are taken off), read with ``weights_only=True``. A file that is
    not there is looked for in the folder that the environment variable PSPNET_WEIGHTS names.

    Raises ValueError where there are no weights for the architecture, where there is no network,
    or listing every key that is missing, unknown or of another shape; FileNotFoundError for ``file``.
    """
    backbone: Any = model.backbone if isinstance(model, Composed) else model
    demand(backbone, Pretrainable, "model.pretrained")
    found = _from_file(Path(file)) if file is not None else backbone.imagenet_weights()
    tensors, skipped = backbone.of_classifier(found)
    own = backbone.state_dict()
    stem = next(key for key, value in own.items() if value.ndim == 4)
    if stem in tensors and backbone.in_channels != tensors[stem].shape[1] == 3:
        tensors = {**tensors, stem: adapt_channels(tensors[stem], backbone.in_channels)}
        _log.info("the stem's RGB filters are repeated over %d channels", backbone.in_channels)
    problems = [f"missing: {key}" for key in own if key not in tensors]
    problems += [f"unknown: {key}" for key in tensors if key not in own]
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
    backbone.load_state_dict(tensors)
    _log.info("ImageNet weights loaded into the backbone; left out: %s", ", ".join(skipped) or "nothing")
    return skipped


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """A stem's filters (out, 3, kh, kw) for another number of channels: repeated R, G, B, R, ... and scaled by 3 / C.

    Grey images repeated as RGB and multi-band images then excite the filters as strongly as RGB images do.
    """
    return weight[:, [channel % 3 for channel in range(channels)]] * (3 / channels)


def _from_file(file: Path) -> dict[str, Tensor]:
    folder = os.environ.get(FOLDER)
    if not file.is_file() and folder:
        file = Path(folder) / file
    if not file.is_file():
        raise FileNotFoundError(f"model.pretrained={str(file)!r}: there is no such file ({FOLDER}={folder or ''})")
    try:
        content = read_weight_file(file)
    except ValueError as error:
        raise ValueError(f"model.pretrained={str(file)!r} cannot be read as a state dict: {error}") from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"model.pretrained={str(file)!r} holds no state dict (names to tensors)")
    return {key.removeprefix("module."): value for key, value in content.items()}
