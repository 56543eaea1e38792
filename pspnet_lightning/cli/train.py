"""`pspnet-train` and `python train.py`: composes an experiment and runs it."""

from __future__ import annotations

import math
import os
import sys
from functools import partial
from pathlib import Path

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.callbacks import LambdaCallback, ModelSummary, ProgressBar
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from pspnet_lightning.callbacks.limits import limit_reached
from pspnet_lightning.callbacks.preemption import Preemption
from pspnet_lightning.config import (
    as_plain,
    build,
    build_data,
    build_module,
    check_config,
    check_keys,
    network_node,
    settle_precision,
)
from pspnet_lightning.data import fingerprint, silent
from pspnet_lightning.data.transforms import as_size
from pspnet_lightning.disk import clear_parts, replacing
from pspnet_lightning.launch import optuna_sweeper
from pspnet_lightning.launch.app import interruptible, keeping, message_of, relative, track, user_errors
from pspnet_lightning.launch.job import JobRanks
from pspnet_lightning.launch.outside import match_devices, ranks_of
from pspnet_lightning.launch.preflight import check_rate, preflight
from pspnet_lightning.launch.ranks import start
from pspnet_lightning.launch.repeat import changes_since, compare_weights, repeating
from pspnet_lightning.launch.resume import checkpoint_to_resume, kept_in, typed
from pspnet_lightning.launch.sweep import reported
from pspnet_lightning.launch.sweep_job import run_job
from pspnet_lightning.loggers.factories import finish, log_config, resume_from
from pspnet_lightning.loggers.metrics_file import MetricsFile, RowsInCheckpoints
from pspnet_lightning.runs.checkpoint import load_weights, read_checkpoint
from pspnet_lightning.runs.initial import begin_with
from pspnet_lightning.runs.objective import is_scored, objective_value, require_objective
from pspnet_lightning.runs.record import RunRecord, last_line
from pspnet_lightning.training.batchnorm import SyncBatchNormOnGPUs
from pspnet_lightning.training.datamodule import SegmentationDataModule, share_of_batch
from pspnet_lightning.training.module import SegmentationModule


def main() -> None:
    """The console script."""
    optuna_sweeper.register()
    with repeating("train"), reported():
        start("train", one_job, train)


def one_job(cfg: DictConfig) -> float:
    """What Hydra calls: ``train``, and around it what a job of a sweep needs."""
    settle_precision(cfg)  # before an earlier attempt of the job is compared with it
    return run_job(cfg, train)


def train(cfg: DictConfig) -> float:
    """Trains, validates the best checkpoint, and returns the objective that a sweep optimises.

    Raises ValueError where the config, the data, the devices or the checkpoint to resume from do not
    fit, before any time is spent on training.
    """
    folder = _run_folder()
    if not _in_sweep():
        keeping(partial(kept_in, folder, cfg.ckpt_path))
    job = JobRanks("pspnet_lightning.cli.train.train")
    with (
        Preemption(folder / "checkpoints", leads=job.leads) as preemption,
        _record(cfg, folder, leads=job.leads) as record,
        job,
    ):
        job.on_failure = record.fail
        return _train(cfg, folder, record, job, preemption)


def _train(cfg: DictConfig, folder: Path, record: RunRecord, job: JobRanks, preemption: Preemption) -> float:
    check_config(cfg, "train")
    check_rate(as_plain(cfg), HydraConfig.get().overrides.task)
    match_devices(cfg)
    if (ranks := ranks_of(cfg)) is not None and isinstance(cfg.data.batch_size, int):
        share_of_batch(cfg.data.batch_size, ranks)
    L.seed_everything(cfg.seed, workers=False, verbose=False)
    torch.set_float32_matmul_precision(cfg.float32_matmul_precision)
    for name in ("model", "optimizer", "scheduler", "loss", "trainer"):
        _check(cfg, name)
    if record.write:
        clear_parts(folder, "checkpoints")
    resume = checkpoint_to_resume(cfg.ckpt_path, folder)
    checkpoint_io = build(
        {"_target_": "pspnet_lightning.runs.checkpoint_io.AtomicCheckpointIO", **as_plain(cfg.checkpoint)}, "checkpoint"
    )

    data = build_data(cfg)
    if record.write:
        record.set_data(data.spec.name, fingerprint([data.split("train"), data.split("val")]))
        if cfg.repeats:
            for line in changes_since(Path(cfg.repeats), record.content, folder):
                print(f"warning: {line}", flush=True)
    counting = partial(track, text="counting the classes") if record.write else silent
    module = build_module(cfg, data.spec, data=data, progress=counting)
    if cfg.model.get("init") is not None and resume is None:
        told = begin_with(module, cfg.model.init)
        if record.write:
            print(told, flush=True)
    # For the summary's operation counts: one crop.
    size = as_size(as_plain(cfg.data.crop_size))
    module.example_input_array = torch.zeros(1, len(data.spec.mean), *size, dtype=torch.uint8)
    if resume is not None:
        # Lightning would load it as well, but say less about what does not fit.
        content = read_checkpoint(resume)
        load_weights(module, content["state_dict"], resume)
        if not {"global_step", "optimizer_states", "loops"} <= content.keys():
            raise ValueError(
                f"ckpt_path={resume!r} holds weights only, without the state of a training: it cannot be resumed. "
                f"Take the checkpoint that the training wrote"
            )
    if cfg.compile:
        module.compile_training()
    callbacks = [build(node, f"callbacks.{name}") for name, node in cfg.callbacks.items() if node]
    callbacks.append(
        LambdaCallback(
            # A misspelt objective is not told after days of training.
            on_validation_end=lambda trainer, _: require_objective(trainer, cfg.objective),
        )
    )
    loggers = [build(node, f"logger.{name}") for name, node in cfg.logger.items() if node]
    callbacks += [RowsInCheckpoints(logger) for logger in loggers if isinstance(logger, MetricsFile)]
    callbacks += [LambdaCallback(on_train_epoch_end=lambda *_: record.beat()), preemption]
    if resume is not None:
        resume_from(loggers, content, resume)
    node = dict(as_plain(cfg.trainer))
    layer_sync = SyncBatchNormOnGPUs(node.pop("sync_batchnorm", "auto"))
    for key, kind in (("enable_progress_bar", ProgressBar), ("enable_model_summary", ModelSummary)):
        if not node.get(key, True):
            callbacks = [callback for callback in callbacks if not isinstance(callback, kind)]
        # Where there is none, Lightning would add one of its own.
        node[key] = any(isinstance(callback, kind) for callback in callbacks)
    trainer: L.Trainer = build(
        node,
        "trainer",
        callbacks=callbacks,
        logger=loggers,
        plugins=[checkpoint_io, layer_sync],
        default_root_dir=str(folder),
        use_distributed_sampler=False,  # the data module's own samplers know the ranks
    )
    layer_sync.check(trainer)
    job.adopt(trainer, {**as_plain(cfg), "ckpt_path": resume})
    try:
        _fit_and_report(cfg, trainer, module, data, resume, folder, layer_sync, preemption, job)
    except BaseException as error:
        finish(loggers, failed=True)
        if cfg.compile and isinstance(error, torch._dynamo.exc.TorchDynamoException):
            raise ValueError(
                f"compile=true: torch cannot compile the network here ({str(error).splitlines()[0]}); compile=false "
                f"trains without"
            ) from error
        raise
    finish(loggers)
    limit = limit_reached(trainer)
    scored = is_scored(trainer, cfg.objective, folder)
    if limit is not None and not scored:
        record.stop()
        if record.write:
            # A sweep says itself how it is continued.
            kept = "" if _in_sweep() else f"; {kept_in(folder, cfg.ckpt_path)}"
            said = f"stopped by {limit} at step {trainer.global_step}, before the first validation: no score yet"
            print(f"{said}{kept}", flush=True)
        return math.nan
    value = objective_value(trainer, cfg.objective, folder)
    record.set_objective(cfg.objective, value)
    if cfg.repeats and record.write:
        print(compare_weights(Path(cfg.repeats), folder), flush=True)
    return value


def _record(cfg: DictConfig, folder: Path, *, leads: bool) -> RunRecord:
    composed = HydraConfig.get()
    multirun = _in_sweep()
    return RunRecord(
        folder,
        command=[sys.argv[0], *typed] if typed else None,
        overrides=list(composed.overrides.task),
        job=composed.job.num if multirun else None,
        sweep=str(Path(composed.sweep.dir).resolve()) if multirun else None,
        resumed=cfg.ckpt_path is not None,
        write=leads and getattr(rank_zero_only, "rank", 0) == 0,
        reason=lambda error: message_of(error) if isinstance(error, user_errors()) else last_line(error),
    )


def _fit_and_report(
    cfg: DictConfig,
    trainer: L.Trainer,
    module: SegmentationModule,
    data: SegmentationDataModule,
    resume: str | None,
    folder: Path,
    layer_sync: SyncBatchNormOnGPUs,
    preemption: Preemption,
    job: JobRanks,
) -> None:
    if trainer.is_global_zero:
        _save_config(cfg, folder / "config.yaml")
        log_config(trainer, as_plain(cfg))
        print(f"data {data.spec.name}, {data.spec.num_classes} classes; run folder {relative(folder)}", flush=True)
        found = preflight(
            as_plain(cfg),
            data,
            rates=module.rates(),
            devices=trainer.world_size,
            synchronized=layer_sync.active(trainer),
        )
        print(*found, sep="\n", flush=True)
    job.join(trainer)

    with interruptible():
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    preemption.stop_if_asked()

    best = _best_checkpoint(trainer)
    if best is not None:
        with interruptible():
            trainer.validate(module, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
        if trainer.is_global_zero:
            print(f"best checkpoint: {relative(best)}")
            print(f"evaluate it:     pspnet-evaluate checkpoint={relative(best)}", flush=True)


def _save_config(cfg: DictConfig, path: Path) -> None:
    # Whole or not at all: a sweep that is continued compares it.
    with replacing(path) as part:
        OmegaConf.save(OmegaConf.create(as_plain(cfg)), part)


def _check(cfg: DictConfig, name: str) -> None:
    node = network_node(cfg.model) if name == "model" else dict(as_plain(cfg[name]))
    # Keys that the wiring takes out before it builds.
    for key in ("aux_weight", "reduction") if name == "loss" else ():
        node.pop(key, None)
    check_keys(node, name)


def _in_sweep() -> bool:
    return bool(HydraConfig.get().mode == RunMode.MULTIRUN)


def _run_folder() -> Path:
    folder = Path(HydraConfig.get().runtime.output_dir)
    if not os.access(folder, os.W_OK):
        raise ValueError(f"the run folder {str(folder)!r} is not writable; give another with hydra.run.dir=...")
    return folder


def _best_checkpoint(trainer: L.Trainer) -> str | None:
    for callback in trainer.checkpoint_callbacks:
        path = getattr(callback, "best_model_path", "")
        if getattr(callback, "monitor", None) and path and Path(path).is_file():
            return str(path)
    return None


if __name__ == "__main__":
    main()
