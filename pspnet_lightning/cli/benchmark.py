"""`pspnet-benchmark input|model ...`: speed that can be shown, each way measured in turn in one run."""

from __future__ import annotations

import sys

from pspnet_lightning.benchmark.input import measure_input
from pspnet_lightning.benchmark.model import measure_model
from pspnet_lightning.launch.app import run
from pspnet_lightning.launch.words import command_words


def main() -> None:
    """The console script: the first word says what is measured, the rest is configuration."""
    config_name, sys.argv[1:] = command_words("benchmark", sys.argv[1:])
    run(config_name, {"benchmark_input": measure_input, "benchmark_model": measure_model}[config_name])
