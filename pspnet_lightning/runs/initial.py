"""Fine-tuning: a network that begins with all that fits of a trained one."""

from __future__ import annotations

from pathlib import Path

from pspnet_lightning.runs.checkpoint import read_checkpoint
from pspnet_lightning.training.module import SegmentationModule


def begin_with(module: SegmentationModule, path: str | Path) -> str:
    """Takes every tensor of a checkpoint's network that has the same name and shape; says what stays new.

    Other classes, bins or another head leave their own tensors as they were initialised. Raises ValueError where
    no weight fits, and what ``read_checkpoint`` raises.
    """
    theirs = read_checkpoint(path)["state_dict"]
    own = module.state_dict()
    taken = {key: value for key, value in theirs.items() if key in own and own[key].shape == value.shape}
    if not any(value.ndim > 1 for value in taken.values()):
        raise ValueError(
            f"model.init={str(path)!r}: no weight of this checkpoint fits; give one of the same backbone, or "
            f"ImageNet weights with model.pretrained"
        )
    module.load_state_dict({**own, **taken})
    new = sorted({key.removeprefix("model.").rpartition(".")[0] for key in own if key not in taken})
    unused = sorted({key.removeprefix("model.").rpartition(".")[0] for key in theirs if key not in taken})
    told = f"model.init: {len(taken)} of {len(own)} tensors taken from {path}"
    for name, places in (("new", new), ("not taken", unused)):
        told += f"; {name}: {', '.join(places) if places else 'none'}"
    return told
