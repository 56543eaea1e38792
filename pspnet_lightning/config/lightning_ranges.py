"""Ranges of Lightning's own arguments: its annotations give the types, and of the ranges it checks a few."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval, MinLen, Predicate
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ModelSummary
from typing_extensions import TypedDict


def _clock(text: str) -> bool:
    """DD:HH:MM:SS"""
    return re.fullmatch(r"\d\d:\d\d:\d\d:\d\d", text) is not None


def _numbers(text: str) -> bool:
    """auto, or devices' numbers with commas between them"""
    return text == "auto" or re.fullmatch(r"-1|\d+(,\d+)*,?", text) is not None


Positive = Annotated[int, Ge(1)]
Machines = Annotated[int, Interval(ge=1, le=1024)]
Count = Annotated[int, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Part = Annotated[float, Interval(gt=0, le=1)]
Duration = Annotated[str, Predicate(_clock)] | dict[Literal["weeks", "days", "hours", "minutes", "seconds"], Count]


class TrainerRanges(TypedDict):
    """The arguments of ``lightning.pytorch.Trainer`` that a config may give."""

    accelerator: str
    strategy: str
    logger: bool
    devices: Literal[-1] | Machines | Annotated[list[Count], MinLen(1)] | Annotated[str, Predicate(_numbers)]
    num_nodes: Machines
    precision: Literal[
        "32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", "32", "64", "16", "bf16", 16, 32, 64
    ]
    fast_dev_run: bool | Count
    # null would be 1000 epochs.
    max_epochs: Positive | Literal[-1]
    min_epochs: Count | None
    max_steps: Positive | Literal[-1]
    min_steps: Count | None
    max_time: Duration | None
    limit_train_batches: Positive | Part | None
    limit_val_batches: Count | Share | None
    limit_test_batches: Count | Share | None
    limit_predict_batches: Count | Share | None
    overfit_batches: Count | Share
    val_check_interval: Positive | Part | Duration | None
    check_val_every_n_epoch: Positive | None
    num_sanity_val_steps: Count | Literal[-1]
    log_every_n_steps: Count
    accumulate_grad_batches: Positive
    gradient_clip_val: Annotated[float, Ge(0)] | None
    gradient_clip_algorithm: Literal["norm", "value"] | None
    sync_batchnorm: bool | Literal["auto"]
    profiler: Literal["simple", "advanced", "pytorch"] | None
    reload_dataloaders_every_n_epochs: Count


class CheckpointRanges(TypedDict):
    """The arguments of ``ModelCheckpoint``."""

    dirpath: str | None
    mode: Literal["min", "max"]
    save_top_k: Annotated[int, Ge(-1)]
    every_n_train_steps: Count | None
    every_n_epochs: Count | None


class SummaryRanges(TypedDict):
    """The arguments of ``ModelSummary``."""

    max_depth: Annotated[int, Ge(-1)]


RANGES: dict[Any, Any] = {Trainer: TrainerRanges, ModelCheckpoint: CheckpointRanges, ModelSummary: SummaryRanges}
