"""The schema of each command's configuration: a key at the top of a primary that is not here is an error."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf


@dataclass
class CheckpointConfig:
    """How checkpoints are written."""

    on_error: str = "stop"


@dataclass
class SweepConfig:
    """How the jobs of a sweep go together; see ``launch/sweep.py``."""

    resume: bool = False
    stop_on_error: bool = False
    direction: str = "maximize"


@dataclass
class TrainConfig:
    """The top level of ``train.yaml``. A key that is not here is an error."""

    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    tags: list[str] = field(default_factory=list)
    ckpt_path: str | None = None
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    repeats: str | None = None
    compile: bool = False
    channels_last: bool = True
    fast: bool = True
    float32_matmul_precision: str = "highest"
    objective: str = "val/miou"
    sweep: SweepConfig = field(default_factory=SweepConfig)
    trust: list[str] = field(default_factory=list)


@dataclass
class ProtocolConfig:
    """The ``evaluation`` node: how images are predicted; see ``config/evaluation.py``."""

    crop_size: Any = "whole"
    base_size: Any = None
    scales: list[float] = field(default_factory=lambda: [1.0])
    flip: bool = False
    stride_rate: float = 2 / 3
    batch_size: int = 4


@dataclass
class EvaluationConfig(ProtocolConfig):
    """The ``evaluation`` node of an evaluation: also what is written."""

    save_predictions: bool = False
    pictures: int = 4


@dataclass
class EvaluateConfig:
    """The top level of ``evaluate.yaml``. ``data`` and ``model`` hold overrides of the checkpoint's own nodes."""

    checkpoint: str = "???"
    split: str = "val"
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    trainer: dict[str, Any] = field(default_factory=dict)
    trust: list[str] = field(default_factory=list)


@dataclass
class ConvertConfig:
    """The top level of ``convert.yaml``. ``model`` and ``augment`` are there because a data set may choose them."""

    weights: str = "???"
    source: str = "???"
    output: str = "???"
    bins: list[int] | None = None
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)


@dataclass
class ExportConfig:
    """The top level of ``export.yaml``."""

    checkpoint: str = "???"
    format: str = "onnx"
    output: str | None = None
    normalize: bool = False
    image_type: str | None = None
    labels: bool = False
    fold: bool | None = None
    precision: str = "float32"
    calibration: int = 32
    data: dict[str, Any] = field(default_factory=dict)
    trust: list[str] = field(default_factory=list)


@dataclass
class PredictConfig:
    """The top level of ``predict.yaml``."""

    checkpoint: str = "???"
    input: str = "???"
    output: str = "???"
    index: bool = True
    overlay: bool = True
    probabilities: bool = False
    opacity: float = 0.5
    stream_above: int = 16_000_000
    device: str = "auto"
    precision: str = "32-true"
    evaluation: ProtocolConfig = field(default_factory=ProtocolConfig)
    trust: list[str] = field(default_factory=list)


@dataclass
class ExplainConfig:
    """The top level of ``explain.yaml``. ``data`` holds overrides of the checkpoint's own data node."""

    checkpoint: str = "???"
    input: str | None = None
    split: str = "val"
    output: str = "???"
    limit: int | None = None
    pictures: int = 6
    arrays: bool = False
    baseline: str = "mean"
    baseline_images: int = 64
    receptive_field: int = 16
    receptive_field_side: int | None = None
    data: dict[str, Any] = field(default_factory=dict)
    device: str = "auto"
    trust: list[str] = field(default_factory=list)


@dataclass
class InspectConfig:
    """The top level of ``inspect.yaml``. ``model`` and ``augment`` are there because a data set may choose them."""

    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)
    splits: list[str] = field(default_factory=list)
    limit: int | None = None
    pictures: int = 6


@dataclass
class BenchmarkInputConfig:
    """The top level of ``benchmark_input.yaml``."""

    root: str | None = None
    crop_size: int = 473
    width: int = 683
    height: int = 512
    images: int = 32
    batch_size: int = 8
    rounds: int = 9
    seed: int = 0


@dataclass
class BenchmarkModelConfig:
    """The top level of ``benchmark_model.yaml``."""

    measure: list[str] = field(default_factory=list)
    formulations: list[str] = field(default_factory=list)
    precisions: list[str] = field(default_factory=list)
    layouts: list[str] = field(default_factory=list)
    modes: list[str] = field(default_factory=list)
    depth: int = 50
    classes: int = 150
    checkpoint: str | None = None
    image: str | None = None
    size: int = 473
    batch: int = 1
    train_batch: int = 2
    width: int = 683
    height: int = 512
    device: str = "auto"
    threads: int | None = None
    rounds: int = 5
    memory: bool = True
    seed: int = 0
    trust: list[str] = field(default_factory=list)


@dataclass
class ReportConfig:
    """The top level of ``report.yaml``."""

    folder: str = "???"
    output: str | None = None
    metric: str | None = None
    direction: str | None = None
    pictures: int = 6


@dataclass
class WorkspaceConfig:
    """The top level of ``workspace.yaml``."""

    project: str = "pspnet-lightning"
    entity: str | None = None
    group: str | None = None
    name: str = "pooling bins"


PRIMARIES: dict[str, type] = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "convert": ConvertConfig,
    "export": ExportConfig,
    "predict": PredictConfig,
    "explain": ExplainConfig,
    "inspect": InspectConfig,
    "benchmark_input": BenchmarkInputConfig,
    "benchmark_model": BenchmarkModelConfig,
    "report": ReportConfig,
    "workspace": WorkspaceConfig,
}

# Nodes of overrides, whose keys are those of a checkpoint's config: checked when they are laid over it.
OPEN_NODES = {"evaluate": ("data", "model"), "explain": ("data",)}


def register_schemas() -> None:
    """Makes each primary's schema known to Hydra as ``<primary>_schema``; to be called before composing."""
    store = ConfigStore.instance()
    for name, schema in PRIMARIES.items():
        node = OmegaConf.structured(schema)
        for key in OPEN_NODES.get(name, ()):
            OmegaConf.set_struct(node[key], False)
        store.store(name=f"{name}_schema", node=node)


def top_level_keys(config_name: str) -> list[str]:
    return [item.name for item in fields(PRIMARIES[config_name])]
