"""`pspnet-evaluate checkpoint=PATH`: scores a checkpoint on a split; model and data come from the file alone."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf

from pspnet_lightning.callbacks import EvaluationReport, SavePredictions, progress_bar
from pspnet_lightning.config import as_plain, build, build_eval_data, check_config, settle_precision
from pspnet_lightning.config.evaluation import build_protocol, sha256_of, shown_protocol
from pspnet_lightning.config.trusted import StoredConfig
from pspnet_lightning.data import DataSpec
from pspnet_lightning.data.submission import prediction_files
from pspnet_lightning.disk import clear_parts
from pspnet_lightning.launch.app import interruptible, shown
from pspnet_lightning.launch.job import Job
from pspnet_lightning.launch.locks import locked
from pspnet_lightning.launch.outside import match_devices, ranks_of
from pspnet_lightning.launch.ranks import start
from pspnet_lightning.runs.checkpoint import rebuild, spec_of, stored_config
from pspnet_lightning.terminal import animated
from pspnet_lightning.training.datamodule import SegmentationDataModule

_METHODS = {"val": "validate", "test": "test"}


def main() -> None:
    """The console script."""
    start("evaluate", evaluate, evaluate)


def evaluate(cfg: DictConfig) -> float:
    """Prints the table of classes, writes the results into the run folder, returns the mIoU.

    One confusion matrix over the split and all devices, labels at their own size. Raises ValueError where checkpoint,
    data and protocol do not fit each other.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    job = Job("pspnet_lightning.cli.evaluate.evaluate")
    mine = locked(folder, f"folder {shown(folder)}", "give another hydra.run.dir=...") if job.leads else nullcontext()
    with mine, job:
        if job.leads:
            clear_parts(folder, "predictions")
        return _evaluate(cfg, folder, job)


def _evaluate(cfg: DictConfig, folder: Path, job: Job) -> float:
    check_config(cfg, "evaluate")
    settle_precision(cfg)
    match_devices(cfg)
    config, content = stored_config(cfg.checkpoint, cfg.trust)
    trained = spec_of(content)
    data = _data(cfg, config, trained)
    split = data.split(cfg.split)
    _check_classes(cfg, trained, split.spec, note=job.leads)
    if (ranks := ranks_of(cfg) or 1) > len(split):
        raise ValueError(
            f"trainer.devices={cfg.trainer.devices}: {ranks} processes for the {len(split)} images of the {cfg.split} "
            f"split; take at most {len(split)}"
        )
    if not split.labelled and not cfg.evaluation.save_predictions:
        raise ValueError(
            f"the labels of the {cfg.split} split of {split.spec.name} are not public, there is nothing to score; "
            f"evaluation.save_predictions=true writes the PNGs for its server"
        )
    # The other data set's classes by name and colour; what the network was trained on stays as it is.
    spec = replace(split.spec, mean=trained.mean, std=trained.std)
    module = rebuild(config, content, cfg.checkpoint, model=_model_overrides(cfg), spec=spec).prepare_for_inference()
    protocol = build_protocol(cfg.evaluation, config, spec.name)
    module.protocol = None if protocol.is_one_pass else protocol
    record = {
        "checkpoint": {"path": str(cfg.checkpoint), "sha256": sha256_of(cfg.checkpoint)},
        "protocol": {
            "name": HydraConfig.get().runtime.choices["evaluation"],
            **protocol.to_dict(),
            "precision": str(cfg.trainer.get("precision", "32-true")),
        },
        "overrides": list(HydraConfig.get().overrides.task),
    }
    callbacks: list[Callback] = [EvaluationReport(str(folder), split, record, cfg.evaluation.pictures)]
    if cfg.evaluation.save_predictions:
        files = prediction_files(split, cfg.split)
        callbacks.append(SavePredictions(str(folder / "predictions"), files))
    bar = animated(sys.stdout) and cfg.trainer.get("enable_progress_bar", True)
    if bar:
        callbacks.append(progress_bar())
    trainer: L.Trainer = build(
        {**as_plain(cfg.trainer), "enable_progress_bar": bar},
        "trainer",
        callbacks=callbacks,
        default_root_dir=str(folder),
        use_distributed_sampler=False,
    )
    job.adopt(trainer, as_plain(cfg))
    job.join(trainer)
    with interruptible():
        getattr(trainer, _METHODS[cfg.split])(module, datamodule=data, verbose=False)
    assert module.val_scores is not None
    result = module.val_scores
    if trainer.is_global_zero:
        print(f"{cfg.checkpoint} on {spec.name} {cfg.split}: {shown_protocol(protocol)}")
        if split.labelled:
            print(f"mIoU {result.miou:.4f}, mAcc {result.macc:.4f}, aAcc {result.aacc:.4f}; rule {result.rule!r}")
        if cfg.evaluation.save_predictions:
            print(f"{shown(folder / 'predictions')}: {files.format}")
        print(f"written: {shown(folder / 'results.json')}", flush=True)
    return float(result.miou)


def _data(cfg: DictConfig, config: StoredConfig, trained: DataSpec) -> SegmentationDataModule:
    chosen = HydraConfig.get().runtime.choices.get("data")
    node = as_plain(cfg.data) if chosen else {**config.node("data"), **as_plain(cfg.data)}
    return build_eval_data(node, trained, seed=config.get("seed", 0))


def _model_overrides(cfg: DictConfig) -> dict[str, Any]:
    """``model.KEY=...`` of the command line; not the model that a data set's config names."""
    overrides = OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task))
    keys = [override.key_or_group for override in overrides]
    for wrong in ("model", "augment"):
        if wrong in keys:
            raise ValueError(
                f"{wrong}=... has no use here: the network is the checkpoint's; single keys may be laid over it, such "
                f"as model.execution=concat"
            )
    return {key.removeprefix("model."): as_plain(OmegaConf.select(cfg, key)) for key in keys if key[:6] == "model."}


def _check_classes(cfg: DictConfig, trained: DataSpec, spec: DataSpec, *, note: bool) -> None:
    if spec.num_classes != trained.num_classes:
        raise ValueError(
            f"checkpoint {cfg.checkpoint!r} answers {trained.num_classes} classes, "
            f"the data set {spec.name} has {spec.num_classes}"
        )
    if note and spec.classes != trained.classes:
        differ = next(index for index, name in enumerate(spec.classes) if name != trained.classes[index])
        print(
            f"note: class {differ} is {spec.classes[differ]!r} in {spec.name} and {trained.classes[differ]!r} in the "
            f"checkpoint: are these the classes that it was trained on?",
            flush=True,
        )
