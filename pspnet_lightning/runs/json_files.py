"""JSON files of a run: strict, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pspnet_lightning.disk import replacing


def write_json(content: Any, path: Path) -> None:
    """Strict JSON (not-a-number becomes null), written beside the target and renamed."""
    with replacing(path) as part:
        part.write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value != value else value
