"""`pspnet-evaluate checkpoint=PATH`: scores a checkpoint on a split; model and data come from the file alone.

`checkpoint=[A,B,C]` scores the mean of their probabilities. `against=` compares it with another checkpoint, or with the
results of one, over the same images. With `predictions=DIR
data=...` instead of a checkpoint it scores label maps of any framework.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf

from pspnet_lightning.callbacks import EvaluationResults, SavePredictions, progress_bar
from pspnet_lightning.config import as_plain, build, build_eval_data, build_source, check_config, settle_precision
from pspnet_lightning.config.evaluation import build_scores, protocol_text
from pspnet_lightning.data import DataSpec, SegmentationDataset
from pspnet_lightning.data.submission import prediction_files
from pspnet_lightning.disk import clear_parts
from pspnet_lightning.inference import SlidingWindow
from pspnet_lightning.launch.app import interruptible, relative, track
from pspnet_lightning.launch.job import JobRanks
from pspnet_lightning.launch.locks import locked
from pspnet_lightning.launch.outside import match_devices, ranks_of
from pspnet_lightning.launch.ranks import start
from pspnet_lightning.metrics import SegmentationScores
from pspnet_lightning.report.against import score_line, write_comparison
from pspnet_lightning.runs.calibrated import write_calibrated
from pspnet_lightning.runs.image_counts import NAME as COUNTS
from pspnet_lightning.runs.image_counts import read_image_counts
from pspnet_lightning.runs.predictions import find_predictions
from pspnet_lightning.runs.referee import judge
from pspnet_lightning.runs.stored_network import StoredNetwork, read_network
from pspnet_lightning.terminal import animated
from pspnet_lightning.training.module import SegmentationModule

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
    job = JobRanks("pspnet_lightning.cli.evaluate.evaluate")
    mine = (
        locked(folder, f"folder {relative(folder)}", "give another hydra.run.dir=...") if job.leads else nullcontext()
    )
    with mine:
        if job.leads:
            clear_parts(folder, "predictions", "against")
        if cfg.predictions is not None:
            return _referee(cfg, folder)
        with job:
            return _evaluate(cfg, folder, job)


def _referee(cfg: DictConfig, folder: Path) -> float:
    """Scores label maps that are there already, of whatever framework."""
    check_config(cfg, "evaluate")
    if OmegaConf.select(cfg, "checkpoint", throw_on_missing=False) is not None:
        raise ValueError("checkpoint=... and predictions=... are two ways to say what is scored; give one of them")
    node = as_plain(cfg.data)
    if "_target_" not in node:
        raise ValueError(f"predictions={cfg.predictions!r} are of which data set? Give data=NAME data.root=...")
    if cfg.evaluation.calibrate or {"calibration", "auc"} & set(cfg.evaluation.metrics):
        raise ValueError("calibration and auc are of probabilities, which label maps do not hold; give a checkpoint")
    data = build_source(node)(cfg.split)
    if not data.labelled:
        raise ValueError(f"the labels of the {cfg.split} split of {data.spec.name} are not public: nothing to score")
    result = _judge(cfg, folder, cfg.predictions, data, node.get("group"))
    if cfg.against is not None:
        other = read_image_counts(Path(cfg.against))
        if other is None and not Path(cfg.against).is_dir():
            raise ValueError(
                f"against={cfg.against!r} is no folder, of label maps or with the {COUNTS} of an evaluation"
            )
        if other is None:
            (folder / "against").mkdir(exist_ok=True)
            _judge(cfg, folder / "against", cfg.against, data, node.get("group"))
        write_comparison(folder, cfg.against, other, data.spec.classes)
    return float(result.miou)


def _judge(
    cfg: DictConfig, folder: Path, predictions: str, data: SegmentationDataset, group: str | None
) -> SegmentationScores:
    found = find_predictions(Path(predictions), data, cfg.coding)
    record = {
        "predictions": {"folder": predictions, "coding": found.coding, "further_files": len(found.extra)},
        "overrides": list(HydraConfig.get().overrides.task),
    }
    result, _ = judge(
        folder,
        found,
        data,
        cfg.split,
        record=record,
        pictures=cfg.evaluation.pictures,
        group=group,
        further=build_scores(cfg.evaluation, data.spec, len(data)),
        progress=partial(track, text=f"scoring {predictions}"),
    )
    print(f"{predictions} on {data.spec.name} {cfg.split}: {len(data)} label maps, coding {found.coding}")
    if found.extra:
        print(f"note: {len(found.extra)} further files belong to no image of the split, such as {found.extra[0].name}")
    print(score_line(result, folder))
    print(f"written: {relative(folder / 'results.json')}", flush=True)
    return result


@dataclass(frozen=True)
class _Candidate:
    """A network that is to be scored, and where its results go."""

    name: str
    folder: Path
    module: SegmentationModule
    protocol: SlidingWindow
    results: EvaluationResults


def _evaluate(cfg: DictConfig, folder: Path, job: JobRanks) -> float:
    check_config(cfg, "evaluate")
    settle_precision(cfg)
    match_devices(cfg)
    network = read_network(as_plain(cfg.checkpoint), cfg.trust)
    node = _data_node(cfg, network)
    data = build_eval_data(node, network.spec, seed=network.config.get("seed", 0))
    split = data.split(cfg.split)
    if (ranks := ranks_of(cfg) or 1) > len(split):
        raise ValueError(
            f"trainer.devices={cfg.trainer.devices}: {ranks} processes for the {len(split)} images of the {cfg.split} "
            f"split; take at most {len(split)}"
        )
    if cfg.evaluation.calibrate and len(network.paths) > 1:
        raise ValueError(
            "evaluation.calibrate=true writes a temperature into a checkpoint, and an ensemble has no file of its own: "
            "calibrate each member, the ensemble takes theirs"
        )
    if not split.labelled and (cfg.against is not None or not cfg.evaluation.save_predictions):
        raise ValueError(
            f"the labels of the {cfg.split} split of {split.spec.name} are not public, there is nothing to score; "
            f"evaluation.save_predictions=true writes the PNGs for its server"
        )
    limit = f"limit_{cfg.split}_batches"
    if cfg.trainer.get(limit, 1.0) == 0:
        raise ValueError(f"trainer.{limit}=0 leaves no image of the {cfg.split} split to score; take 1.0 for all of it")
    group = node.get("group")
    candidates = [_candidate(cfg, network, split, folder, group, note=job.leads)]
    other = None
    if isinstance(cfg.against, str) and Path(cfg.against).is_dir():
        other = read_image_counts(Path(cfg.against))
        if other is None:
            raise ValueError(f"against={cfg.against!r} holds no {COUNTS}: evaluate its checkpoint again")
    elif cfg.against is not None:
        against = read_network(as_plain(cfg.against), cfg.trust)
        if not HydraConfig.get().runtime.choices.get("data"):
            against.require_unseen(cfg.split)
        candidates.append(_candidate(cfg, against, split, folder / "against", group, note=job.leads))
    bar = animated(sys.stdout) and cfg.trainer.get("enable_progress_bar", True)
    rest: list[Callback] = [progress_bar()] if bar else []
    trainer: L.Trainer = build(
        {**as_plain(cfg.trainer), "enable_progress_bar": bar},
        "trainer",
        callbacks=rest,
        default_root_dir=str(folder),
        use_distributed_sampler=False,
    )
    job.adopt(trainer, as_plain(cfg))
    job.join(trainer)
    files = prediction_files(split, cfg.split) if cfg.evaluation.save_predictions else None
    standing = list(trainer.callbacks)  # type: ignore[attr-defined]
    for one in candidates:
        own: list[Callback] = [one.results]
        if files is not None:
            own.append(SavePredictions(str(one.folder / "predictions"), files))
        if trainer.is_global_zero:
            one.folder.mkdir(exist_ok=True)
        trainer.callbacks = [*own, *standing]  # type: ignore[attr-defined]
        with interruptible():
            getattr(trainer, _METHODS[cfg.split])(one.module, datamodule=data, verbose=False)
        result = one.module.val_scores
        assert result is not None
        if trainer.is_global_zero:
            print(f"{one.name} on {split.spec.name} {cfg.split}: {protocol_text(one.protocol)}")
            if split.labelled:
                print(score_line(result, one.folder))
            if files is not None:
                print(f"{relative(one.folder / 'predictions')}: {files.format}")
            print(f"written: {relative(one.folder / 'results.json')}", flush=True)
    if cfg.evaluation.calibrate and trainer.is_global_zero:
        fitted = candidates[0].results.temperature()
        target, temperature = write_calibrated(network.paths[0], folder, fitted)
        print(
            f"temperature {temperature:.3f}: expected calibration error {fitted['ece_before']:.4f}, then "
            f"{fitted['ece_after']:.4f} on images that did not fit it; labels stay\nwritten: {relative(target)}",
            flush=True,
        )
    if cfg.against is not None and trainer.is_global_zero:
        named = cfg.against if isinstance(cfg.against, str) else candidates[1].name
        write_comparison(folder, named, other, split.spec.classes)
    first = candidates[0].module.val_scores
    assert first is not None
    return float(first.miou)


def _candidate(
    cfg: DictConfig,
    network: StoredNetwork,
    split: SegmentationDataset,
    folder: Path,
    group: str | None,
    *,
    note: bool,
) -> _Candidate:
    trained = network.spec
    _check_classes(network.name, trained, split.spec, note=note)
    # The other data set's classes by name and colour; what the network was trained on stays as it is.
    spec = replace(split.spec, mean=trained.mean, std=trained.std)
    module = network.rebuild(model=_model_overrides(cfg), spec=spec)
    protocol = network.protocol(cfg.evaluation, spec.name)
    module.protocol = None if protocol.is_one_pass else protocol
    record = {
        **network.record(),
        "protocol": {
            "name": HydraConfig.get().runtime.choices["evaluation"],
            **protocol.to_dict(),
            "precision": str(cfg.trainer.get("precision", "32-true")),
        },
        "overrides": list(HydraConfig.get().overrides.task),
    }
    further = build_scores(cfg.evaluation, split.spec, len(split)) if split.labelled else []
    module.with_probabilities = any(score.needs_probabilities for score in further)
    results = EvaluationResults(str(folder), split, record, cfg.evaluation.pictures, group, further)
    return _Candidate(network.name, folder, module, protocol, results)


def _data_node(cfg: DictConfig, network: StoredNetwork) -> dict[str, Any]:
    plain: dict[str, Any] = as_plain(cfg.data)
    if HydraConfig.get().runtime.choices.get("data"):
        return plain
    network.require_unseen(cfg.split)
    return {**network.config.node("data"), **plain}


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


def _check_classes(path: str, trained: DataSpec, spec: DataSpec, *, note: bool) -> None:
    if spec.num_classes != trained.num_classes:
        raise ValueError(
            f"checkpoint {path!r} answers {trained.num_classes} classes, "
            f"the data set {spec.name} has {spec.num_classes}"
        )
    if note and spec.classes != trained.classes:
        differ = next(index for index, name in enumerate(spec.classes) if name != trained.classes[index])
        print(
            f"note: class {differ} is {spec.classes[differ]!r} in {spec.name} and {trained.classes[differ]!r} in the "
            f"checkpoint: are these the classes that it was trained on?",
            flush=True,
        )
