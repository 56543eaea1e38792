"""`pspnet-convert weights=FILE source=... data=... output=best.ckpt`: weights of another code base as a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from pspnet_lightning.config import as_plain, build_module, build_source, check_config
from pspnet_lightning.data import DataSpec
from pspnet_lightning.data.specs import public_spec
from pspnet_lightning.export import read_weights
from pspnet_lightning.launch.app import run
from pspnet_lightning.models.convert import Converted, convert, read_caffemodel
from pspnet_lightning.models.weight_files import PickledObjectsError, read_weight_file
from pspnet_lightning.runs.checkpoint import load
from pspnet_lightning.runs.checkpoint_io import AtomicCheckpointIO


def main() -> None:
    """The console script."""
    run("convert", convert_weights)


def convert_weights(cfg: DictConfig) -> None:
    """Writes the checkpoint and reads it back; prints what was found in the weights.

    Raises ValueError listing every key that does not fit, and where the data set has another number of classes.
    """
    check_config(cfg, "convert")
    output = Path(cfg.output)
    if output.suffix != ".ckpt":
        raise ValueError(f"output={cfg.output!r}: a checkpoint is named *.ckpt")
    found = convert(_read(Path(cfg.weights)), source=cfg.source, bins=as_plain(cfg.bins))
    spec = replace(_spec(cfg), mean=found.mean, std=found.std)
    if spec.num_classes != found.model.num_classes:
        raise ValueError(
            f"weights={cfg.weights!r} answer {found.model.num_classes} classes, the data set {spec.name} has "
            f"{spec.num_classes}; give the data set that they were trained on with data=..."
        )
    # The data set gives the number of classes.
    model = {key: value for key, value in found.arguments.items() if key != "num_classes"}
    config = {
        "data": as_plain(cfg.data),
        "model": {"_target_": "pspnet_lightning.models.build_pspnet", **model},
        "augment": as_plain(cfg.augment),
        "loss": as_plain(cfg.loss),
        "seed": 0,
        "channels_last": True,
    }
    module = build_module(config, spec, for_training=False)
    module.model.load_state_dict(found.model.state_dict())
    content: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    AtomicCheckpointIO().save_checkpoint(content, output)
    _check(output, found)
    _print(cfg, found, output)


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"weights={str(path)!r}: there is no such file")
    try:
        if path.suffix == ".caffemodel":
            return read_caffemodel(path.read_bytes())
        if path.suffix == ".safetensors":
            return read_weights(path)[0]
        content = read_weight_file(path)
    except PickledObjectsError as error:
        raise ValueError(
            f"weights={str(path)!r} hold more than tensors, which could run code when loaded; they are refused. If you "
            f"trust the file, make a plain one: torch.save(torch.load(FILE, weights_only=False)['state_dict'], "
            f"'plain.pth')"
        ) from error
    except ValueError as error:
        raise ValueError(f"weights={str(path)!r} cannot be read: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"weights={str(path)!r} hold a {type(content).__name__}, not a state dict")
    if "pspnet_lightning" in content:
        raise ValueError(f"weights={str(path)!r} is a checkpoint of this project already; there is nothing to convert")
    return content


def _spec(cfg: DictConfig) -> DataSpec:
    """The data set's own, or that of a benchmark's table of classes where its folder is not given yet."""
    choice = HydraConfig.get().runtime.choices["data"]
    if any(OmegaConf.is_missing(cfg.data, key) for key in cfg.data):
        try:
            return public_spec(choice)
        except FileNotFoundError:
            pass  # no benchmark: the message of build_source says what is missing
    return build_source(cfg.data)("val").spec


def _check(path: Path, found: Converted) -> None:
    module = load(path)
    x = torch.randn(1, found.arguments["in_channels"], 65, 97, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, answered = found.model(x), module.model(x)
    assert float((answered - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def _print(cfg: DictConfig, found: Converted, output: Path) -> None:
    facts = found.arguments
    print(
        f"{cfg.weights}: PSPNet-{facts['depth']}, {facts['stem']} stem, bins {facts['bins']}, "
        f"{facts['num_classes']} classes, {'with' if facts['auxiliary'] else 'no'} auxiliary head; "
        f"dilation={facts['dilation']}, stride_on={facts['stride_on']}, align_corners={facts['align_corners']}"
    )
    print(f"images: RGB, mean {list(found.mean)}, standard deviation {list(found.std)}")
    root = " data.root=..." if OmegaConf.is_missing(cfg.data, "root") else ""
    print(f"written: {output}\nevaluate it: pspnet-evaluate checkpoint={output}{root}", flush=True)
