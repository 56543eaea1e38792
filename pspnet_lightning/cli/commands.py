"""The console scripts, before anything heavy is imported: help, typos and Ctrl-C are answered at once."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

_NOTHING = "error: interrupted; nothing had begun, the same command begins anew"


def train() -> None:
    _run("train")


def evaluate() -> None:
    _run("evaluate")


def convert() -> None:
    _run("convert")


def export() -> None:
    _run("export")


def predict() -> None:
    _run("predict")


def explain() -> None:
    _run("explain")


def inspect() -> None:
    _run("inspect")


def report() -> None:
    _run("report")


def audit() -> None:
    _run("audit")


def workspace() -> None:
    _run("workspace")


def benchmark() -> None:
    _run("benchmark")


def _run(name: str) -> None:
    """Reads the words, imports the command and calls its ``main``.

    Exit code 130 where Ctrl-C comes before or beside what it guards.
    """
    # Not where SIGINT is ignored, as in the background of a script.
    listens = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if listens:
        # An exception in the midst of an import would come out as another one, or as none.
        signal.signal(signal.SIGINT, _leave)
    importlib.import_module("pspnet_lightning.launch.words").answer(name, sys.argv[1:])
    command = importlib.import_module(f"pspnet_lightning.cli.{name}")
    if listens:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command.main()
    except KeyboardInterrupt:
        importlib.import_module("pspnet_lightning.launch.app").interrupted()


def _leave(signum: int, frame: FrameType | None) -> NoReturn:
    os.write(2, f"{_NOTHING}\n".encode())
    os._exit(130)
