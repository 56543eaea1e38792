"""The ranks that rank 0 starts on its own machine: started, watched for their end, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable


class RankProcesses:
    """Processes of this machine, by rank. They find their job in the store at MASTER_ADDR and MASTER_PORT."""

    def __init__(self) -> None:
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._killed_here = False
        self._by_signal: str | None = None

    def __bool__(self) -> bool:
        return bool(self._processes)

    def start(self, rank: int, local: int) -> None:
        self._processes[rank] = subprocess.Popen(
            # -P: nothing of the current folder is imported by accident; the path is this process's own.
            [sys.executable, "-P", "-c", "from pspnet_lightning.launch.ranks import rank_process; rank_process()"],
            env={
                **os.environ,
                "LOCAL_RANK": str(local),
                "PSPNET_RANK": str(rank),
                "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
            },
            stdin=subprocess.PIPE,
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
                return f"rank {rank} (process {process.pid}) {end}"
        return None

    def kill(self) -> None:
        self.killed()
        self._killed_here = True
        for process in self._processes.values():
            process.kill()

    def end(self) -> None:
        """Ends them all, and waits until they are gone."""
        self.kill()
        for process in self._processes.values():
            process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Waits for their own ends, so long altogether."""
        deadline = time.monotonic() + seconds
        for process in self._processes.values():
            try:
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                return
