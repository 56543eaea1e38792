"""Where the YAML lies."""

from __future__ import annotations

from pathlib import Path

_INSTALLED = Path(__file__).parents[1] / "conf"  # in a wheel
_CHECKOUT = Path(__file__).parents[2] / "conf"  # in a checkout or an editable install
CONFIG_DIR = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
