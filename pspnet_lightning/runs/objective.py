"""What a sweep optimises: a logged metric of the best checkpoint, or a number of its results.json."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import lightning as L

from pspnet_lightning.metrics import Further
from pspnet_lightning.runs.fields import number_at
from pspnet_lightning.runs.jobs import read_json

# Begins the name of a number of results.json.
_RESULTS = "results."


def is_scored(trainer: L.Trainer, name: str, folder: Path) -> bool:
    """Whether the run in ``folder`` has come as far as a value of the objective."""
    return name in trainer.callback_metrics or (name.startswith(_RESULTS) and (folder / "results.json").is_file())


def objective_value(trainer: L.Trainer, name: str, folder: Path) -> float:
    """The value; not a number in a trial run of a few batches, and, of results.json, on ranks but the first.

    Raises ValueError for an objective that is not there or not finite.
    """
    if getattr(trainer, "fast_dev_run", False) and name not in trainer.callback_metrics:
        return float("nan")
    if name.startswith(_RESULTS):
        # Rank 0 writes them, and its value is the sweep's.
        if not trainer.is_global_zero:
            return float("nan")
        value = number_at(read_json(folder / "results.json"), name.removeprefix(_RESULTS))
    else:
        require_objective(trainer, name)
        value = float(trainer.callback_metrics[name])
    if not math.isfinite(value):
        raise ValueError(
            f"objective={name!r} is {value}: the run cannot be compared with others. An mIoU of nan has no class in "
            f"the validation images"
        )
    return value


def require_objective(trainer: L.Trainer, name: str) -> None:
    """Raises ValueError for an objective that this run does not log or score."""
    if name.startswith(_RESULTS):
        top = name.removeprefix(_RESULTS).partition(".")[0]
        asked = [score for each in trainer.callbacks for score in getattr(each, "metrics", ())]  # type: ignore[attr-defined]
        if top in get_args(Further) and top not in asked:
            raise ValueError(f"objective={name!r} is scored with callbacks.results.metrics=[{top}] only")
    elif name not in trainer.callback_metrics:
        raise ValueError(
            f"objective={name!r} was not logged; logged are: {', '.join(sorted(trainer.callback_metrics))}"
        )
