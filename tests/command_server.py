"""Runs commands for the tests, each in a process of its own, without paying the seconds of imports each time.

The packages are imported once; each request forks. A child is a command as the user starts it: own process, argument
list, folder, environment, standard output and exit code. Requests and answers are JSON lines.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
import traceback
from typing import Any


def main() -> None:
    for name in ("train", "evaluate", "predict", "convert", "export", "inspect", "benchmark"):
        importlib.import_module(f"pspnet_lightning.cli.{name}")
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            run(request)
        print(json.dumps({"returncode": wait(child, request["timeout"])}), flush=True)


def wait(child: int, timeout: float) -> int:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL


def run(request: dict[str, Any]) -> None:
    """In the child: becomes the command, and never returns."""
    os.setsid()
    code = 1
    try:
        os.chdir(request["folder"])
        os.environ.update(request["environment"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, path in ((1, request["stdout"]), (2, request["stderr"])):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        sys.argv = [f"pspnet-{request['command']}", *request["arguments"]]
        command = importlib.import_module(f"pspnet_lightning.cli.{request['command']}")
        try:
            command.main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
