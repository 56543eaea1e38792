"""A checkpoint with the temperature that makes its probabilities what they say: data, kept beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from pspnet_lightning.export import read_weights, write_weights
from pspnet_lightning.runs.checkpoint import read_checkpoint, temperature_of
from pspnet_lightning.runs.checkpoint_io import AtomicCheckpointIO
from pspnet_lightning.runs.jobs import read_json
from pspnet_lightning.runs.json_files import write_json


def write_calibrated(source: str, folder: Path, fitted: Mapping[str, float]) -> tuple[Path, float]:
    """Writes ``calibrated.ckpt`` (or ``.safetensors``) into the results' folder; answers the file, its temperature.

    The file at ``source`` stays as it is. ``fitted`` is ``CalibrationScores.fit``'s, relative to the temperature that
    the file may hold already; results.json gets it as ``temperature``.
    """
    target = folder / f"calibrated{Path(source).suffix}"
    content = read_checkpoint(source)
    stored = content["pspnet_lightning"]
    total = temperature_of(stored, source) * fitted["temperature"]
    stored["temperature"] = total
    if target.suffix == ".safetensors":
        weights, metadata = read_weights(source)
        write_weights(weights, target, {**metadata, "description": yaml.safe_dump(stored, sort_keys=False)})
    else:
        AtomicCheckpointIO().save_checkpoint(content, target)
    results = read_json(folder / "results.json")
    write_json({**results, "temperature": {**fitted, "temperature": total}}, folder / "results.json")
    return target, total
