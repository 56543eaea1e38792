"""JSON files of a run: strict, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_json(content: Any, path: Path) -> None:
    """Strict JSON (not-a-number becomes null), written beside the target and renamed."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value != value else value
