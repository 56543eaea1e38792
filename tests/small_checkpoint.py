"""Checkpoints without training: a tiny network with random weights that tells classes apart."""

from __future__ import annotations

from pathlib import Path

import torch
from conftest import SMALL
from hydra import compose, initialize_config_dir

from pspnet_lightning.config import CONFIG_DIR, as_plain, build_module, build_source
from pspnet_lightning.config.schemas import HYDRA, register_schemas
from pspnet_lightning.training.module import SegmentationModule


def write_checkpoint(path: Path, *overrides: str, width: int = 8) -> SegmentationModule:
    """Writes the checkpoint of ``pspnet-train OVERRIDES`` before its first step; answers the module."""
    register_schemas()
    with initialize_config_dir(str(CONFIG_DIR), **HYDRA):
        cfg = compose("train", overrides=[*SMALL, *overrides, f"model.width={width}"])
    # Of callbacks and loggers, whose folders only a run knows, nothing is needed.
    config = {key: as_plain(value) for key, value in cfg.items() if key not in ("callbacks", "logger")}
    spec = build_source(config["data"])("val").spec
    torch.manual_seed(0)
    module = build_module(config, spec, for_training=False)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.3)
        # Logits far from each other: every class wins somewhere.
        module.model.head.classifier.weight.normal_(0, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": module.state_dict(), "pspnet_lightning": module.description}, path)
    return module.eval()
