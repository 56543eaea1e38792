"""`pspnet-evaluate checkpoint=PATH`: scores a checkpoint on a split; model and data come from the file alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pspnet_lightning.callbacks import RunReport
from pspnet_lightning.checkpoint import load
from pspnet_lightning.cli.app import run
from pspnet_lightning.config import as_plain, build, build_source, nearest, split_data_node
from pspnet_lightning.data import DataSpec, EvalTransform
from pspnet_lightning.datamodule import SegmentationDataModule

_METHODS = {"val": "validate", "test": "test"}


def main() -> None:
    """The console script."""
    run("evaluate", evaluate)


def evaluate(cfg: DictConfig) -> float:
    """Prints the table of classes, writes results.json and confusion.png into the run folder, returns the mIoU.

    Whole images at their own size, one confusion matrix over the split.
    """
    if cfg.split not in _METHODS:
        raise ValueError(f"split={cfg.split!r} is not a split to evaluate; {nearest(cfg.split, _METHODS)}")
    folder = Path(HydraConfig.get().runtime.output_dir)
    module = load(cfg.checkpoint)
    assert module.description is not None
    data = _data(module.description["config"], as_plain(cfg.data), DataSpec.from_dict(module.description["spec"]))
    spec = data.split(cfg.split).spec
    if spec.num_classes != module.confusion.num_classes:
        raise ValueError(
            f"checkpoint {cfg.checkpoint!r} answers {module.confusion.num_classes} classes, "
            f"the data set {spec.name} has {spec.num_classes}"
        )
    trainer: L.Trainer = build(
        cfg.trainer,
        "trainer",
        callbacks=[RunReport(str(folder))],
        default_root_dir=str(folder),
        use_distributed_sampler=False,
    )
    getattr(trainer, _METHODS[cfg.split])(module, datamodule=data, verbose=False)
    assert module.val_scores is not None
    result = module.val_scores
    if trainer.is_global_zero:
        print(f"{cfg.checkpoint} on {spec.name} {cfg.split}, whole images; absent classes: rule {result.rule!r}")
        print(f"mIoU {result.miou:.4f}, mAcc {result.macc:.4f}, aAcc {result.aacc:.4f}; {folder / 'results.json'}")
    return float(result.miou)


def _data(config: dict[str, Any], overrides: dict[str, Any], spec: DataSpec) -> SegmentationDataModule:
    node = {**config["data"], **overrides}
    if "mean" in node:
        # The checkpoint knows them; computing them again would need the training images.
        node.update(mean=list(spec.mean), std=list(spec.std))
    return SegmentationDataModule(
        build_source(node),
        transform=EvalTransform(),
        eval_transform=EvalTransform(),
        seed=config["seed"],
        **split_data_node(node)[1],
    )
