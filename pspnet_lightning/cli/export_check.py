"""What `pspnet-export` does with a file before it keeps it: runs it and compares it with the checkpoint's network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from pspnet_lightning.config import as_plain, build_source
from pspnet_lightning.config.trusted import StoredConfig
from pspnet_lightning.data import sample_indices
from pspnet_lightning.data.transforms import as_size
from pspnet_lightning.export import (
    AGREEMENT_INT8,
    TOLERANCE,
    TOLERANCE_BFLOAT16,
    Comparison,
    agreement,
    check,
    open_program,
    read_metadata,
)
from pspnet_lightning.launch.app import track
from pspnet_lightning.models.normalized import normalized
from pspnet_lightning.models.pspnet import Composed
from pspnet_lightning.runs.checkpoint import load
from pspnet_lightning.training.module import SegmentationModule


def check_file(
    cfg: DictConfig,
    config: StoredConfig,
    module: SegmentationModule,
    model: nn.Module,
    path: Path,
    image_type: torch.dtype,
    metadata: dict[str, str],
) -> None:
    """Runs the file on batches of several sizes, odd and not square ones among them, and prints each difference."""
    spec = module.spec
    program: Callable[[Tensor], Tensor]
    if cfg.format == "safetensors":
        program, found = load(path, trust=cfg.trust).model, metadata
    else:
        program, found = open_program(path, cfg.format), read_metadata(path, cfg.format)
    if {key: found.get(key) for key in metadata} != metadata:
        raise ValueError(f"{cfg.format}: the metadata read from the file are not those that were written")
    crop = max(as_size((config.get("data") or {}).get("crop_size", 193)))
    small = smallest_side(model)
    sizes = [(1, crop, crop), (2, 65, 97), (3, 96, 64), (1, small, 2 * small + 1), (1, 161, 3 * small)]
    failed = []

    def expected(image: Tensor) -> Tensor:
        # Of weights alone there is no program that divides.
        logits: Tensor = model(image)
        return logits if cfg.format == "safetensors" else logits / module.temperature

    comparisons: Iterable[Comparison] = check(
        program,
        expected,
        sizes,
        channels=len(spec.mean),
        image_type=image_type,
        mean=spec.mean,
        std=spec.std,
        normalize=cfg.normalize,
        labels=cfg.labels,
        tolerance={"float32": TOLERANCE, "bfloat16": TOLERANCE_BFLOAT16, "int8": math.inf}[cfg.precision],
    )
    for item in track(comparisons, len(sizes), text=f"checking {path.name}"):
        count, height, width = item.size
        if not cfg.labels:
            said = f"max difference {item.difference:.1e} of the largest logit"
        elif item.difference == 0:
            said = "identical labels"
        else:
            said = f"{100 * item.difference:.4f} % of the labels differ"
            if cfg.precision != "int8":
                said += f", {'all' if item.agrees else 'NOT all'} where two logits are nearly equal"
        print(f"checked {count} x {height} x {width}: {said}", flush=True)
        failed += [] if item.agrees else [item]
    if failed:
        raise ValueError(
            f"format={cfg.format}: the file answers otherwise than the checkpoint in {len(failed)} of {len(sizes)} "
            f"sizes, see above; it is not kept. Another version of the exporter may help, or another format"
        )

    if cfg.precision == "int8":
        _check_agreement(cfg, config, module, model, program, image_type)


def _check_agreement(
    cfg: DictConfig,
    config: StoredConfig,
    module: SegmentationModule,
    model: nn.Module,
    program: Callable[[Tensor], Tensor],
    image_type: torch.dtype,
) -> None:
    spec = module.spec
    count = cfg.calibration // 4
    images = track(images_of(cfg, config, module, "val", count, image_type), count, text="comparing labels")
    options: dict[str, Any] = {"normalize": cfg.normalize, "labels": cfg.labels}
    share = agreement(program, model, images, mean=spec.mean, std=spec.std, **options)
    print(f"int8: {100 * share:.2f} % of the pixels of {count} validation images keep their label")
    if share < AGREEMENT_INT8:
        raise ValueError(
            f"precision=int8: fewer than {100 * AGREEMENT_INT8:.0f} % of the labels are kept; the file is not kept "
            f"either. More images may help (calibration={4 * cfg.calibration}); otherwise take precision=float32"
        )


def images_of(
    cfg: DictConfig, config: StoredConfig, module: SegmentationModule, split: str, count: int, image_type: torch.dtype
) -> Iterator[Tensor]:
    """Images of the checkpoint's own data set, spread over a split, (1, C, H, W) as the program takes them."""
    spec = module.spec
    node = {**config.node("data"), **as_plain(cfg.data)}
    if "mean" in node:
        # The checkpoint knows them; computing them again would read every image.
        node.update(mean=list(spec.mean), std=list(spec.std))
    data = build_source(node)(split)
    for index in sample_indices(len(data), count):
        image = torch.from_numpy(np.ascontiguousarray(data.read(index)[0])).permute(2, 0, 1)[None]
        yield image.to(image_type) if cfg.normalize else normalized(image, spec.mean, spec.std)


def smallest_side(model: nn.Module) -> int:
    """Of images: twice the largest stride, so that no map has an axis of length 1.

    To exporters that is no size but something to repeat, and torch.export's programs refuse it.
    """
    return 2 * max(model.backbone.strides) if isinstance(model, Composed) else 64
