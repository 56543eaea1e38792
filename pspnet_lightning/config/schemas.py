"""The schema of each command's configuration: a key at the top of a primary that is not here is an error.

Types and ranges stand here, the defaults in the YAML alone. What a node builds is checked by the signature of its
``_target_``; see ``values``.
"""

from __future__ import annotations

import dataclasses
import enum
import typing
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal

import hydra
from annotated_types import Ge, Interval, MinLen
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from pspnet_lightning.sizes import Bins, CropSize, Further


class Kind(enum.Enum):
    """What a node of the configuration is."""

    NODE = "has a _target_ that is built"
    NODES = "names to such nodes, or null"
    OVERRIDES = "keys to lay over a checkpoint's node"
    UNUSED = "is there because a data set's config may choose it"


Node = Annotated[dict[str, Any], Kind.NODE]
Nodes = Annotated[dict[str, Any], Kind.NODES]
Overrides = Annotated[dict[str, Any], Kind.OVERRIDES]
Unused = Annotated[dict[str, Any], Kind.UNUSED]

Positive = Annotated[int, Ge(1)]
Count = Annotated[int, Ge(0)]
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]  # numpy's
Batch = Annotated[int, Interval(ge=1, le=4096)]
Pictures = Annotated[int, Interval(ge=0, le=1000)]
Side = Annotated[int, Interval(ge=1, le=32767)]
Text = Annotated[str, MinLen(1)]
Checkpoints = Text | Annotated[list[Text], MinLen(1)]
Spacing = Annotated[float, Interval(gt=0, le=1e6)]
Scale = Annotated[float, Interval(ge=0.05, le=20)]
Direction = Literal["maximize", "minimize"]


@dataclass
class CheckpointConfig:
    """How checkpoints are written."""

    on_error: Literal["stop", "continue"]


@dataclass
class SweepConfig:
    """How the jobs of a sweep go together; see ``launch/sweep.py``."""

    resume: bool
    stop_on_error: bool
    direction: Direction


@dataclass
class TrainConfig:
    """The top level of ``train.yaml``."""

    data: Node
    model: Node
    augment: Node
    loss: Node
    optimizer: Node
    scheduler: Node
    trainer: Node
    callbacks: Nodes
    logger: Nodes
    seed: Seed
    tags: list[str]
    ckpt_path: Text | None
    checkpoint: CheckpointConfig
    repeats: str | None
    compile: bool
    channels_last: bool
    fast: bool
    float32_matmul_precision: Literal["highest", "high", "medium"]
    objective: Text
    sweep: SweepConfig
    trust: list[Text]


@dataclass
class ProtocolConfig:
    """The ``evaluation`` node: how images are predicted; see ``config/evaluation.py``."""

    crop_size: Literal["whole", "checkpoint"] | CropSize
    base_size: Literal["official"] | Side | None
    scales: Annotated[list[Scale], MinLen(1)]
    flip: bool
    stride_rate: Annotated[float, Interval(gt=0, le=1)]
    batch_size: Batch


@dataclass
class EvaluationConfig(ProtocolConfig):
    """The ``evaluation`` node of an evaluation: also what is written."""

    save_predictions: bool
    pictures: Pictures
    metrics: list[Further]
    boundary: Annotated[float, Interval(gt=0, le=0.5)]
    trimap: list[Annotated[int, Interval(ge=0)]]
    tolerance: Annotated[float, Interval(ge=0)]
    spacing: tuple[Spacing, Spacing]
    calibrate: bool


@dataclass
class EvaluateConfig:
    """The top level of ``evaluate.yaml``."""

    checkpoint: Checkpoints
    predictions: Text | None
    coding: Literal["classes", "labels", "colours", "binary", "minus_one", "plus_one"] | None
    against: Checkpoints | None
    split: Literal["val", "test"]
    data: Overrides
    model: Overrides
    augment: Unused
    evaluation: EvaluationConfig
    trainer: Node
    trust: list[Text]


@dataclass
class ConvertConfig:
    """The top level of ``convert.yaml``."""

    weights: Text
    source: Literal["semseg", "mmseg", "caffe"]
    output: Text
    bins: Bins | None
    data: Node
    model: Unused
    augment: Unused
    loss: Node


@dataclass
class ExportConfig:
    """The top level of ``export.yaml``."""

    checkpoint: Text
    format: Literal["onnx", "torch_export", "torchscript", "safetensors"]
    output: Text | None
    normalize: bool
    image_type: Literal["uint8", "float32"] | None
    labels: bool
    fold: bool | None
    precision: Literal["float32", "bfloat16", "int8"]
    calibration: Annotated[int, Ge(4)]
    data: Overrides
    trust: list[Text]


@dataclass
class PredictConfig:
    """The top level of ``predict.yaml``."""

    checkpoint: Checkpoints
    input: Text
    output: Text
    index: bool
    overlay: bool
    probabilities: bool
    opacity: Annotated[float, Interval(ge=0, le=1)]
    stream_above: Positive
    device: Text
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    evaluation: ProtocolConfig
    trust: list[Text]


@dataclass
class ExplainConfig:
    """The top level of ``explain.yaml``."""

    checkpoint: Text
    input: Text | None
    split: Literal["train", "val", "test"]
    output: Text
    limit: Positive | None
    pictures: Pictures
    arrays: bool
    baseline: Literal["mean", "zero"]
    baseline_images: Positive
    receptive_field: Count
    receptive_field_side: Side | None
    data: Overrides
    device: Text
    trust: list[Text]


@dataclass
class InspectConfig:
    """The top level of ``inspect.yaml``."""

    data: Node
    model: Unused
    augment: Unused
    splits: Annotated[list[Literal["train", "val", "test"]], MinLen(1)]
    limit: Positive | None
    pictures: Pictures


@dataclass
class BenchmarkInputConfig:
    """The top level of ``benchmark_input.yaml``."""

    root: Text | None
    crop_size: Side
    width: Side
    height: Side
    images: Positive
    batch_size: Batch
    rounds: Positive
    seed: Seed


@dataclass
class BenchmarkModelConfig:
    """The top level of ``benchmark_model.yaml``."""

    measure: Annotated[list[Literal["forward", "labels", "sliding", "train"]], MinLen(1)]
    formulations: Annotated[list[Literal["concatenation", "exact", "prepared"]], MinLen(1)]
    precisions: Annotated[list[Literal["float32", "bfloat16"]], MinLen(1)]
    layouts: Annotated[list[Literal["contiguous", "channels_last"]], MinLen(1)]
    modes: Annotated[list[Literal["eager", "compiled"]], MinLen(1)]
    depth: Literal[18, 34, 50, 101, 152, 269]
    classes: Annotated[int, Interval(ge=1, le=255)]
    checkpoint: Text | None
    image: Text | None
    size: Side
    batch: Batch
    train_batch: Batch
    width: Side
    height: Side
    device: Text
    threads: Annotated[int, Interval(ge=1, le=1024)] | None
    rounds: Positive
    memory: bool
    seed: Seed
    trust: list[Text]


@dataclass
class ReportConfig:
    """The top level of ``report.yaml``."""

    folder: Text
    output: Text | None
    metric: Text | None
    direction: Direction | None
    pictures: Pictures


@dataclass
class AuditConfig:
    """The top level of ``audit.yaml``."""

    folder: Text
    output: Text | None
    limit: Positive
    smallest: Positive
    data: Overrides
    device: Text
    evaluation: ProtocolConfig
    trust: list[Text]


@dataclass
class WorkspaceConfig:
    """The top level of ``workspace.yaml``."""

    project: Text
    entity: Text | None
    group: Text | None
    name: Text


# How this project's configs are composed: an argument of Hydra 1.3 that 1.4 no longer knows.
HYDRA: dict[str, Any] = {} if tuple(map(int, hydra.__version__.split(".")[:2])) >= (1, 4) else {"version_base": "1.3"}

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
    "audit": AuditConfig,
    "workspace": WorkspaceConfig,
}


def register_schemas() -> None:
    """Makes each primary's keys known to Hydra as ``<primary>_schema``; to be called before composing."""
    store = ConfigStore.instance()
    for name, schema in PRIMARIES.items():
        node = OmegaConf.structured(_keys(schema))
        for key, hint in typing.get_type_hints(schema, include_extras=True).items():
            # Its keys are those of a checkpoint's config: checked when they are laid over it.
            if Kind.OVERRIDES in getattr(hint, "__metadata__", ()):
                OmegaConf.set_struct(node[key], False)
        store.store(name=f"{name}_schema", node=node)


def top_level_keys(config_name: str) -> list[str]:
    return [item.name for item in fields(PRIMARIES[config_name])]


def _keys(schema: type) -> type:
    """The dataclass that holds the keys alone: OmegaConf knows neither ranges nor choices."""
    hints = typing.get_type_hints(schema, include_extras=True)
    content: list[Any] = []
    for item in fields(schema):
        hint = hints[item.name]
        if is_dataclass(hint):
            nested = _keys(typing.cast(type, hint))
            content.append((item.name, nested, dataclasses.field(default_factory=nested)))
        elif any(isinstance(extra, Kind) for extra in getattr(hint, "__metadata__", ())):
            content.append((item.name, dict[str, Any], dataclasses.field(default_factory=dict)))
        else:
            content.append((item.name, Any, dataclasses.field(default=MISSING)))
    return dataclasses.make_dataclass(schema.__name__, content)
