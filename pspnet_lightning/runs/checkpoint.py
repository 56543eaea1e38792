"""Checkpoints: loaded without executing anything, and enough to rebuild a module."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from pspnet_lightning.config import build_module
from pspnet_lightning.config.evaluation import trained_bands
from pspnet_lightning.config.trusted import StoredConfig
from pspnet_lightning.data import DataSpec
from pspnet_lightning.data.description import image_reader
from pspnet_lightning.export import read_weights
from pspnet_lightning.inference.predictor import device_of
from pspnet_lightning.models import fold_batchnorm
from pspnet_lightning.models.weight_files import PickledObjectsError, read_weight_file
from pspnet_lightning.runs.checkpoint_io import damage
from pspnet_lightning.runs.plain_files import parse_yaml
from pspnet_lightning.training.module import SegmentationModule


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The file's content as plain types and tensors on the CPU; also of weights that ``pspnet-export`` wrote.

    Raises FileNotFoundError, and ValueError for a file that is torn, is no checkpoint of this
    project, or holds pickled objects: those are refused, never executed (``weights_only=True``).
    """
    path = Path(path)
    if not path.exists():
        found = sorted(str(file) for file in path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        there = f"; in its folder: {', '.join(found)}" if found else ""
        raise FileNotFoundError(f"checkpoint {str(path)!r} does not exist{there}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = read_weight_file(path)
    except PickledObjectsError as error:
        raise ValueError(
            f"checkpoint {error}. Take a checkpoint that this project wrote, or export a plain state dict from the "
            f"other one"
        ) from error
    except ValueError as error:
        raise ValueError(f"checkpoint {error}") from error
    _check_entries(content, path)
    if (reason := damage(path)) is not None:
        raise ValueError(f"checkpoint {str(path)!r} is damaged: {reason}")
    return content


def load(path: str | Path, *, device: str = "cpu", trust: Iterable[str] = ()) -> SegmentationModule:
    """The module that a checkpoint file holds, in eval mode on ``device``: model and spec come from the file alone.

    ``device``: cpu, cuda, cuda:1, mps, or auto: the fastest there is; a ValueError where there is no such.
    Nothing of the file runs: its config may name what ``trusted.ALLOWED`` lists. ``trust=("mypackage",)`` adds the
    classes of a package of your own. Raises ValueError for a file that names anything else.
    """
    config, content = stored_config(path, trust)
    return rebuild(config, content, path).to(device_of(device))


def stored_config(path: str | Path, trust: Iterable[str] = ()) -> tuple[StoredConfig, dict[str, Any]]:
    """The config of a checkpoint, behind the check of what may be built from a file; and the checkpoint's content."""
    content = read_checkpoint(path)
    return StoredConfig(content["pspnet_lightning"].get("config"), f"checkpoint {str(path)!r}", trust), content


def rebuild(
    config: StoredConfig,
    content: dict[str, Any],
    path: str | Path,
    *,
    model: Mapping[str, Any] | None = None,
    spec: DataSpec | None = None,
) -> SegmentationModule:
    """The module of a checkpoint's content, in eval mode on the CPU.

    ``model`` holds keys to lay over the model node that it was trained with, ``spec`` another data set's spec.
    """
    module = build_module(
        {
            "model": {**config.node("model"), **(model or {})},
            "loss": config.node("loss"),
            "seed": config.get("seed", 0),
            "channels_last": config.get("channels_last", True),
        },
        spec or spec_of(content),
        for_training=False,
    )
    stored = content["pspnet_lightning"]
    # As in the file, but for what was laid over it; for another file, never for building.
    module.description = {
        **stored,
        "config": {**stored["config"], "model": {**stored["config"]["model"], **(model or {})}},
        "spec": (spec or spec_of(content)).to_dict(),
    }
    module.temperature = temperature_of(stored, path)
    if content.get("batchnorm_folded"):
        module.model = fold_batchnorm(module.model)
    load_weights(module, content["state_dict"], path)
    module.reader = image_reader(len(module.spec.mean), trained_bands(config))
    return module.eval()


def _check_entries(content: Any, path: Path) -> None:
    if not isinstance(content, dict) or "pspnet_lightning" not in content or "state_dict" not in content:
        raise ValueError(
            f"{str(path)!r} is not a checkpoint of pspnet-lightning: it has no entry 'pspnet_lightning'. For weights "
            f"of another code base see pspnet-convert"
        )
    states = content["state_dict"]
    if not isinstance(content["pspnet_lightning"], dict) or not isinstance(states, dict):
        raise ValueError(f"checkpoint {str(path)!r} is damaged: 'pspnet_lightning' and 'state_dict' must be maps")
    if not all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in states.items()):
        raise ValueError(f"checkpoint {str(path)!r} is damaged: its 'state_dict' holds more than names and tensors")


def _read_safetensors(path: Path) -> dict[str, Any]:
    tensors, metadata = read_weights(path)
    if "description" not in metadata:
        raise ValueError(
            f"{str(path)!r} holds weights, but not what pspnet-export writes beside them: its metadata have no "
            f"'description'. For weights of another code base see pspnet-convert"
        )
    content = {
        "pspnet_lightning": parse_yaml(metadata["description"], str(path)),
        "state_dict": {f"model.{name}": value for name, value in tensors.items()},
        "batchnorm_folded": metadata.get("batchnorm_folded") == "true",
    }
    _check_entries(content, path)
    return content


def spec_of(content: dict[str, Any]) -> DataSpec:
    """The data set's spec that a checkpoint was trained with."""
    stored = content["pspnet_lightning"].get("spec")
    try:
        spec = DataSpec.from_dict(stored)
        if not all(isinstance(name, str) and name.isprintable() for name in (spec.name, *spec.classes)):
            raise TypeError("names of classes must be text that can be printed")
        return spec
    except (TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"the file does not describe its data set as pspnet-lightning does: {error!r}") from error


def temperature_of(stored: Mapping[str, Any], source: str | Path) -> float:
    """What a checkpoint's entry says logits are divided by; 1 where it says nothing. Raises ValueError for another."""
    value = stored.get("temperature", 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"checkpoint {str(source)!r}: its temperature {value!r} must be a number above 0")
    return float(value)


def load_weights(module: SegmentationModule, state_dict: dict[str, torch.Tensor], path: str | Path) -> None:
    """Loads strictly; raises one ValueError that lists every key that is missing, unknown or of another shape."""
    own = module.state_dict()
    problems = [f"missing: {key}" for key in own if key not in state_dict]
    problems += [f"unknown: {key}" for key in state_dict if key not in own]
    problems += [
        f"shape of {key}: {tuple(value.shape)} in the file, {tuple(own[key].shape)} in the model"
        for key, value in state_dict.items()
        if key in own and own[key].shape != value.shape
    ]
    if problems:
        shown = "\n  ".join(problems[:10]) + (f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise ValueError(
            f"checkpoint {str(path)!r} does not fit this model ({len(problems)} differences):\n  {shown}\n"
            f"Use the model and data settings that it was trained with, or start without it"
        )
    module.load_state_dict(state_dict)
