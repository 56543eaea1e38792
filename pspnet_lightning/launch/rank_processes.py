"""The ranks that rank 0 starts on its own machine: started, watched for their end, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Seconds in which a process must be gone that was killed.
KILLED = 10.0


class RankProcesses:
    """Processes of this machine, by rank. They find their job in the folder that they are started with."""

    def __init__(self) -> None:
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._killed_here = False
        self._by_signal: str | None = None

    def __bool__(self) -> bool:
        return bool(self._processes)

    def start(self, rank: int, local: int, folder: Path) -> None:
        program = "from pspnet_lightning.launch.ranks import rank_process; rank_process()"
        self._processes[rank] = subprocess.Popen(
            # -P: nothing of the current folder is imported by accident; the path is this process's own.
            [sys.executable, "-P", "-c", program, str(folder), str(rank)],
            env={
                **os.environ,
                "LOCAL_RANK": str(local),
                "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
            },
            stdin=subprocess.PIPE,  # closes when this process ends, however it ends
        )

    def killed(self) -> str | None:
        """Which one a signal has ended that was not sent from here: it is why the others fail, and can say nothing."""
        if not self._killed_here:
            self._by_signal = self._first(lambda code: code < 0)
        return self._by_signal

    def failed(self) -> str | None:
        """Which one ended with an error; None while all run or have ended well."""
        return self.killed() or self._first(lambda code: code > 0)

    def _first(self, ends: Callable[[int], bool]) -> str | None:
        for rank, process in self._processes.items():
            code = process.poll()
            if code is not None and ends(code):
                end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                return f"{_name(rank, process)} {end}"
        return None

    def kill(self) -> None:
        self.killed()
        self._killed_here = True
        for process in self._processes.values():
            process.kill()

    def end(self) -> None:
        """Ends them all. A process that the system cannot end (it waits for a device or a disk) is named and left."""
        self.kill()
        for name in self._wait(KILLED):
            print(f"warning: {name} is still there {KILLED:.0f} s after it was killed", file=sys.stderr, flush=True)
        for process in self._processes.values():
            assert process.stdin is not None
            process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Waits for their own ends, so long altogether, and names those that have not come to it."""
        for name in self._wait(seconds):
            print(
                f"warning: {name} has not ended {seconds:.0f} s after its job; it is killed, the results are whole",
                file=sys.stderr,
                flush=True,
            )

    def _wait(self, seconds: float) -> list[str]:
        deadline = time.monotonic() + seconds
        late = []
        for rank, process in self._processes.items():
            try:
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                late.append(_name(rank, process))
        return late


def _name(rank: int, process: subprocess.Popen[bytes]) -> str:
    return f"rank {rank} (process {process.pid})"
