"""`pspnet-benchmark input|model ...`: speed that can be shown, each way measured in turn in one run."""

from __future__ import annotations

import sys

from pspnet_lightning.benchmark.input import measure_input
from pspnet_lightning.benchmark.model import measure_model
from pspnet_lightning.config import nearest
from pspnet_lightning.launch.app import run

_KINDS = {"input": ("benchmark_input", measure_input), "model": ("benchmark_model", measure_model)}


def main() -> None:
    """The console script: the first word says what is measured, the rest is configuration."""
    kind = sys.argv[1] if len(sys.argv) > 1 else ""
    if kind not in _KINDS:
        print(f"error: pspnet-benchmark {kind}: {nearest(kind, _KINDS)}", file=sys.stderr)
        raise SystemExit(1)
    del sys.argv[1]
    run(*_KINDS[kind])
