"""Runs commands for the tests, each in a process of its own, without paying the seconds of imports each time.

The packages are imported once; each request forks. A child is a command as the user starts it: own process, argument
list, folder, environment, standard output and exit code. Requests and answers are JSON lines.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import importlib
import json
import os
import pty
import resource
import signal
import struct
import sys
import termios
import threading
import time
import traceback
from pathlib import Path
from typing import Any

COMMANDS = (
    "train",
    "evaluate",
    "explain",
    "predict",
    "convert",
    "export",
    "inspect",
    "audit",
    "benchmark",
    "workspace",
    "report",
)


def main() -> None:
    for name in COMMANDS:
        importlib.import_module(f"pspnet_lightning.cli.{name}")
    for line in sys.stdin:
        request = json.loads(line)
        screen = Screen(request["stdout"]) if request.get("terminal") else None
        child = os.fork()
        if child == 0:
            run(request, screen)
        if screen is not None:
            screen.watch()
        returncode = wait(child, request["timeout"], request.get("kill"))
        if screen is not None:
            screen.end()
        print(json.dumps({"returncode": returncode}), flush=True)


class Screen:
    """A terminal of 120 columns and 40 lines; what it is sent goes into a file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))

    def watch(self) -> None:
        os.close(self.theirs)
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        with open(self.path, "wb") as file, contextlib.suppress(OSError):  # the other side has gone
            while part := os.read(self.ours, 65536):
                file.write(part)

    def end(self) -> None:
        self.reader.join()
        os.close(self.ours)


def wait(child: int, timeout: float, kill: dict[str, Any] | None) -> int:
    """The child's exit code. ``kill``: a signal for ``who`` (its group, itself, or its rank 1) at one moment.

    The moment is ``after`` seconds, or the ``count``-th time that something is being written in ``folder``: that a file
    of the ``pattern`` .*.part is there. ``signal`` is SIGKILL unless it is given.
    """
    started = time.monotonic()
    # What an earlier attempt left is not being written now.
    begun = "" if kill is None else f"{kill.get('folder')}/{kill.get('pattern', '.*.part')}"
    written = set(glob.glob(begun))
    while time.monotonic() < started + timeout:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            return os.waitstatus_to_exitcode(status)
        if kill is None:
            time.sleep(0.01)
            continue
        time.sleep(0.001)
        if "after" in kill:
            due = time.monotonic() >= started + kill["after"]
        else:
            # A file of the same name is another one once it has been away.
            present = set(glob.glob(begun))
            kill["count"] -= len(present - written)
            written = present
            due = kill["count"] <= 0
        if due and (victim := {"group": -child, "main": child}.get(kill["who"]) or rank_1(child)):
            with contextlib.suppress(ProcessLookupError):  # not yet, or no longer: next time, or never
                # A negative number is a group's.
                os.kill(victim, getattr(signal, kill.get("signal", "SIGKILL")))
                kill = None
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL


def rank_1(child: int) -> int | None:
    """The process of rank 1, once there is one."""
    for file in glob.glob(f"/proc/{child}/task/*/children"):
        for process in Path(file).read_text().split():
            try:
                if "rank_process" in Path(f"/proc/{process}/cmdline").read_text():
                    return int(process)
            except OSError:
                continue
    return None


def run(request: dict[str, Any], screen: Screen | None) -> None:
    """In the child: becomes the command, and never returns."""
    os.setsid()
    code = 1
    try:
        os.chdir(request["folder"])
        if request.get("file_size") is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"],) * 2)
        os.environ.update(request["environment"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # Where tests run in a shell's background the keyboard is ignored; what a person starts listens to it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for descriptor, path in ((1, request["stdout"]), (2, request["stderr"])):
            if screen is not None:
                os.dup2(screen.theirs, descriptor)
            else:
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        if screen is not None:
            os.close(screen.ours)
            os.close(screen.theirs)
            for name in ("CI", "COLUMNS", "LINES"):
                os.environ.pop(name, None)
            os.environ.update({"TERM": "xterm-256color", **request["environment"]})
        sys.argv = [f"pspnet-{request['command']}", *request["arguments"]]
        command = getattr(importlib.import_module("pspnet_lightning.cli.commands"), request["command"])
        try:
            command()
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
