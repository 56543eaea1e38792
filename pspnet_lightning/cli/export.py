"""`pspnet-export checkpoint=PATH format=...`: a file that runs without this package, checked by running it."""

from __future__ import annotations

import glob
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from pspnet_lightning import __version__
from pspnet_lightning.cli.export_check import check_file, images_of, smallest_side
from pspnet_lightning.config import check_config
from pspnet_lightning.disk import naming
from pspnet_lightning.export import FORMATS, SUFFIXES, ExportableProgram, quantize, write_program, write_weights
from pspnet_lightning.launch.app import run
from pspnet_lightning.launch.locks import locked
from pspnet_lightning.models import fold_batchnorm
from pspnet_lightning.runs.checkpoint import rebuild, stored_config
from pspnet_lightning.terminal import animated
from pspnet_lightning.training.module import SegmentationModule

# Precision -> the formats whose runtimes are faster with it. onnxruntime has no bfloat16 convolution on a CPU.
_PRECISIONS = {"float32": FORMATS, "bfloat16": ("torch_export", "torchscript"), "int8": ("onnx",)}
_IMAGE_TYPES = {"uint8": torch.uint8, "float32": torch.float32}


def main() -> None:
    """The console script."""
    run("export", export)


def export(cfg: DictConfig) -> None:
    """Writes the file beside its target, checks it there, and renames it; prints the check.

    Raises ValueError, which ends the command with exit code 1 and leaves no new file, where the check fails.
    """
    check_config(cfg, "export")
    target = _target(cfg)
    image_type = _image_type(cfg)
    _check_precision(cfg)
    fold = cfg.format != "safetensors" if cfg.fold is None else cfg.fold
    config, content = stored_config(cfg.checkpoint, cfg.trust)
    module = rebuild(config, content, cfg.checkpoint)
    model = module.model
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        locked(target, f"output={str(target)!r}", "give another output=..."),
        naming(target),
        _working_folder(target) as folder,
    ):
        # Under its own name: the torch formats write it into the file.
        part = folder / target.name
        with _working(f"writing {target.name}"):
            metadata = _metadata(cfg, module, model, image_type, fold)
            if cfg.format == "safetensors":
                write_weights((fold_batchnorm(model) if fold else model).state_dict(), part, metadata)
            else:
                _write_program(cfg, module, fold_batchnorm(model) if fold else model, part, image_type, metadata)
        if cfg.precision == "int8":
            exact = part.rename(part.with_name("float32.onnx"))
            images = images_of(cfg, config, module, "train", cfg.calibration, image_type)
            with _working(f"calibrating with {cfg.calibration} training images"):
                quantize(exact, part, images)
        check_file(cfg, config, module, model, part, image_type, metadata)
        size = part.stat().st_size
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    print(f"written: {target}, {size / 1e6:.1f} MB", flush=True)


@contextmanager
def _working_folder(target: Path) -> Iterator[Path]:
    """A folder beside ``target``, whose lock is held: those that killed exports left there are removed first."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.export"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.", suffix=".export") as folder:
        yield Path(folder)


def _target(cfg: DictConfig) -> Path:
    suffix = SUFFIXES[cfg.format]
    checkpoint = Path(cfg.checkpoint)
    if cfg.output is None:
        return checkpoint.with_suffix(suffix)
    target = Path(cfg.output)
    if target.is_dir() or cfg.output.endswith(os.sep):
        return target / checkpoint.with_suffix(suffix).name
    if target.suffix != suffix:
        raise ValueError(f"output={cfg.output!r}: a file of format={cfg.format} is named *{suffix}")
    return target


def _check_precision(cfg: DictConfig) -> None:
    if cfg.format not in _PRECISIONS[cfg.precision]:
        raise ValueError(
            f"precision={cfg.precision} is written for format={' and '.join(_PRECISIONS[cfg.precision])}, not for "
            f"{cfg.format}"
        )
    if cfg.precision != "float32" and cfg.fold is False:
        raise ValueError(f"precision={cfg.precision} needs the BatchNorms folded; leave fold=false out")


def _image_type(cfg: DictConfig) -> torch.dtype:
    if cfg.format == "safetensors":
        for key in ("normalize", "labels", "image_type"):
            if cfg[key]:
                raise ValueError(
                    f"{key}={str(cfg[key]).lower()}: format=safetensors holds weights and no program; leave {key} out"
                )
    if cfg.image_type is None:
        return torch.uint8 if cfg.normalize else torch.float32
    if not cfg.normalize:
        raise ValueError(
            f"image_type={cfg.image_type} has a meaning with normalize=true only; normalised images are float32"
        )
    return _IMAGE_TYPES[cfg.image_type]


class _Plain(yaml.SafeDumper):
    """Writes a list that occurs twice twice: an alias is not read again."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _metadata(
    cfg: DictConfig, module: SegmentationModule, model: nn.Module, image_type: torch.dtype, fold: bool
) -> dict[str, str]:
    """Names to strings: JSON for what other programs read, YAML for what this one rebuilds a module from."""
    spec = module.spec
    content: dict[str, Any] = {
        "format": 1,
        "version": __version__,
        "checkpoint": Path(cfg.checkpoint).name,
        "data": spec.name,
        "classes": list(spec.classes),
        "palette": [list(colour) for colour in spec.palette],
        "ignore_index": spec.ignore_index,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "batchnorm_folded": fold,
        "precision": cfg.precision,
    }
    if cfg.format != "safetensors":
        content |= {
            "input": {
                "layout": "N, C, H, W",
                "type": str(image_type).removeprefix("torch."),
                "units": "as in image files" if cfg.normalize else "(value - mean) / std",
            },
            "output": "labels (N, H, W), uint8" if cfg.labels else "logits (N, K, H, W), float32",
            "smallest_side": smallest_side(model),
            "temperature": module.temperature,  # what the logits are divided by
        }
    description = yaml.dump(module.description, Dumper=_Plain, sort_keys=False, allow_unicode=True)
    return {**{key: json.dumps(value) for key, value in content.items()}, "description": description}


def _write_program(
    cfg: DictConfig,
    module: SegmentationModule,
    model: nn.Module,
    path: Path,
    image_type: torch.dtype,
    metadata: dict[str, str],
) -> None:
    spec = module.spec
    program = ExportableProgram(
        model,
        mean=spec.mean if cfg.normalize else None,
        std=spec.std if cfg.normalize else None,
        labels=cfg.labels,
        channels_last=cfg.format != "onnx",
        bfloat16=cfg.precision == "bfloat16",
        temperature=module.temperature,
    )
    write_program(program, torch.zeros(2, len(spec.mean), 97, 121, dtype=image_type), path, cfg.format, metadata)


def _working(what: str) -> Any:
    return Console(stderr=True).status(what) if animated(sys.stderr) else nullcontext()
