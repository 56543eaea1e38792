"""`pspnet-explain checkpoint=PATH [input=...]`: which scale of context decides what, and how far the network sees."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor

from pspnet_lightning.config import as_plain, build_eval_data, check_config
from pspnet_lightning.config.evaluation import trained_bands
from pspnet_lightning.config.trusted import StoredConfig
from pspnet_lightning.data import DataSpec, SegmentationDataset, sample_indices
from pspnet_lightning.data.description import image_reader
from pspnet_lightning.disk import clear_parts, replacing
from pspnet_lightning.explain import (
    ContextItem,
    context_figure,
    context_sheet,
    context_table,
    receptive_field_figure,
)
from pspnet_lightning.explain.context import ContextResult, ContextStudy
from pspnet_lightning.explain.contributions import Baseline, Explanation, explanation, require_sum
from pspnet_lightning.explain.receptive_field import effective_receptive_fields
from pspnet_lightning.inference.inputs import find_inputs
from pspnet_lightning.inference.predictor import device_of
from pspnet_lightning.launch.app import run, track
from pspnet_lightning.launch.locks import locked
from pspnet_lightning.models.backbone import KnowsReceptiveField
from pspnet_lightning.models.pspnet import Composed
from pspnet_lightning.runs.checkpoint import rebuild, spec_of, stored_config
from pspnet_lightning.runs.fields import cell
from pspnet_lightning.runs.json_files import write_json
from pspnet_lightning.training.module import SegmentationModule


@dataclass(frozen=True)
class _Picture:
    """An image (H, W, C), its label (H, W) if it has one, and a name that is good for a file."""

    name: str
    file: str
    image: np.ndarray
    label: np.ndarray | None


def main() -> None:
    """The console script."""
    run("explain", explain_checkpoint)


def explain_checkpoint(cfg: DictConfig) -> None:
    """Writes a sheet and a JSON for each image, context.json, context.csv and context.png, and receptive_field.png.

    Images are seen whole, at their own size, in float32. Raises ValueError where checkpoint, data and images do not
    fit each other.
    """
    check_config(cfg, "explain")
    folder = Path(cfg.output)
    config, content = stored_config(cfg.checkpoint, cfg.trust)
    spec = spec_of(content)
    module = rebuild(config, content, cfg.checkpoint).to(device_of(cfg.device))
    model = module.model
    require_sum(model)
    assert isinstance(model, Composed)
    data: SegmentationDataset | None = None
    if cfg.input is None or cfg.baseline == "mean":
        data = _split(cfg, config, spec)
    pictures: _Files | _Split
    if cfg.input is None:
        pictures = _Split(data, cfg.limit)
    else:
        pictures = _Files(str(cfg.input), folder, spec, trained_bands(config))
    baseline = _baseline(cfg, module, model, data)

    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, f"output={str(folder)!r}", "give another output=..."):
        clear_parts(folder)
        _explain(cfg, module, model, spec, pictures, baseline, folder)


def _explain(
    cfg: DictConfig,
    module: SegmentationModule,
    model: Composed,
    spec: DataSpec,
    pictures: _Files | _Split,
    baseline: Baseline | None,
    folder: Path,
) -> None:
    study = ContextStudy(model.head.sources, spec.num_classes, ignore_index=spec.ignore_index)
    drawn = set(range(len(pictures)) if cfg.input is not None else sample_indices(len(pictures), cfg.pictures))
    for number, picture in enumerate(track(pictures, len(pictures), text="explaining")):
        found = explanation(model, _tensor(module, picture.image), baseline)
        target = None if picture.label is None else torch.from_numpy(picture.label)[None].long()
        study.update(found, target)
        if number in drawn:
            _write_picture(picture, found, spec, folder, arrays=cfg.arrays)
    result = study.compute()
    described = {
        "checkpoint": str(cfg.checkpoint),
        "data": spec.name,
        "images": len(pictures),
        "of": cfg.split if cfg.input is None else str(cfg.input),
        "baseline": cfg.baseline,
        "classes": list(spec.classes),
        **result.to_dict(spec.classes),
    }
    if cfg.receptive_field and not isinstance(model.backbone, KnowsReceptiveField):
        lacking = f"{type(model.backbone).__name__} has no receptive_field()"
        print(f"warning: {lacking}: how far the network sees is not measured", flush=True)
    elif cfg.receptive_field:
        described["receptive_field"] = _receptive_field(cfg, module, model, pictures, folder)
    write_json(described, folder / "context.json")
    _write_csv(result, spec, folder / "context.csv")
    if result.scores is not None:
        context_figure(result, spec, folder / "context.png")
    Console().print(context_table(result, spec.classes))
    print(f"a removed source is replaced by {_BASELINE_TEXT[cfg.baseline].format(cfg.split)}")
    print(f"written: {folder}, {len(drawn)} sheet{'s' if len(drawn) != 1 else ''} and context.json", flush=True)


_BASELINE_TEXT = {"mean": "its mean over the {} split", "zero": "zero"}


def _split(cfg: DictConfig, config: StoredConfig, spec: DataSpec) -> SegmentationDataset:
    node = {**config.node("data"), **as_plain(cfg.data)}
    try:
        data = build_eval_data(node, spec, seed=config.get("seed", 0)).split(cfg.split)
    except (ValueError, OSError) as error:
        if cfg.input is None:
            raise
        raise ValueError(
            f"baseline=mean is the mean over the data set of the checkpoint, which cannot be opened: {error}. Give "
            f"data.root=..., or baseline=zero"
        ) from error
    if data.spec.num_classes != spec.num_classes:
        raise ValueError(
            f"checkpoint {cfg.checkpoint!r} answers {spec.num_classes} classes, the data set {data.spec.name} has "
            f"{data.spec.num_classes}"
        )
    return data


def _baseline(
    cfg: DictConfig, module: SegmentationModule, model: Composed, data: SegmentationDataset | None
) -> Baseline | None:
    if data is None or cfg.baseline == "zero":
        return None
    if cfg.baseline_images < 1:
        raise ValueError(f"baseline_images={cfg.baseline_images} must be at least 1, or take baseline=zero")
    chosen = _Split(data, cfg.baseline_images)
    images = (_tensor(module, picture.image) for picture in chosen)
    return Baseline.of(model, track(images, len(chosen), text="mean of each source"))


def _tensor(module: SegmentationModule, image: np.ndarray) -> Tensor:
    """An image (H, W, C) as the network takes it: normalised (1, C, H, W) on its device."""
    values = image if image.dtype == np.uint8 else image.astype(np.float32)
    return module.normalize(torch.from_numpy(np.ascontiguousarray(values)).permute(2, 0, 1)[None].to(module.device))


def _write_picture(picture: _Picture, found: Explanation, spec: DataSpec, folder: Path, *, arrays: bool) -> None:
    alone = ContextStudy(found.sources, spec.num_classes)
    alone.update(found)
    result = alone.compute()
    item = ContextItem(
        name=picture.name,
        image=picture.image,
        label=picture.label,
        prediction=found.prediction[0].cpu().numpy(),
        runner_up=found.runner_up[0].cpu().numpy(),
        margin=found.margin[0].cpu().numpy(),
        without=found.without[0].cpu().numpy(),
        result=result,
    )
    context_sheet(item, spec, folder / f"{picture.file}.png")
    write_json({"image": picture.name, **result.to_dict(spec.classes)}, folder / f"{picture.file}.json")
    if arrays:
        with replacing(folder / f"{picture.file}.npz") as part, part.open("wb") as file:
            np.savez_compressed(
                file,
                sources=np.array([*found.sources, "constant"]),
                prediction=item.prediction.astype(np.uint8),
                runner_up=item.runner_up.astype(np.uint8),
                margin=item.margin,
                without=item.without.astype(np.uint8),
            )


def _write_csv(result: ContextResult, spec: DataSpec, path: Path) -> None:
    """One row a class and source: IoU whole and without it, what it decided, its mean share, what flips without it."""
    with replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "source", "iou", "iou_without", "decided", "margin", "flips"])
        for label, name in enumerate(spec.classes):
            for number, source in enumerate(result.sources):
                whole = result.scores.iou[label] if result.scores is not None else float("nan")
                without = result.without[number].iou[label] if result.without is not None else float("nan")
                shares = (result.decided[label, number], result.margin[label, number], result.flips[label, number])
                values = (whole, without, *map(float, shares))
                # Not-a-number, a class that does not occur, is an empty cell.
                writer.writerow([cell(name), source, *("" if value != value else f"{value:.6g}" for value in values)])


def _receptive_field(
    cfg: DictConfig, module: SegmentationModule, model: Composed, pictures: _Files | _Split, folder: Path
) -> dict[str, Any]:
    chosen = [pictures[index] for index in sample_indices(len(pictures), cfg.receptive_field)]
    images = track((_tensor(module, item.image)[0] for item in chosen), len(chosen), text="receptive field")
    fields = effective_receptive_fields(model, images, side=cfg.receptive_field_side)
    receptive_field_figure(fields, folder / "receptive_field.png")
    side, _ = model.backbone.receptive_field()
    return {
        "images": len(chosen),
        "side": len(next(iter(fields.values())).field),
        "theoretical_of_the_backbone": side,
        "sides_holding": {
            name: {f"{share:.2f}": found.side_holding(share) for share in (0.5, 0.9, 0.95)}
            for name, found in fields.items()
        },
    }


class _Split(Sequence[_Picture]):
    """Images of a split, spread over it; without labels where the split has none."""

    def __init__(self, data: SegmentationDataset | None, limit: int | None) -> None:
        assert data is not None
        if limit is not None and limit < 1:
            raise ValueError(f"limit={limit} must be at least 1, or null for all images")
        self.data = data
        self.indices = list(sample_indices(len(data), limit or len(data)))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: Any) -> Any:
        index = self.indices[number]
        image, label = self.data.read(index)
        name = self.data.name(index)
        return _Picture(name, f"{index:04d}_{_slug(Path(name).stem)}", image, label if self.data.labelled else None)


class _Files(Sequence[_Picture]):
    """The images that ``input`` names: a file, the images of a folder, or a pattern."""

    def __init__(self, wanted: str, output: Path, spec: DataSpec, bands: list[int] | None) -> None:
        self.found = find_inputs(wanted, [output], videos=False)
        self.read = image_reader(len(spec.mean), bands)

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, number: Any) -> Any:
        source = self.found[number]
        return _Picture(str(source.path), _slug(source.stem.as_posix()), self.read(source.path), None)


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("_") or "image"
