"""How a run ends that was asked to make way."""

from __future__ import annotations

import signal

# sysexits.h: a temporary failure, try again. Schedulers can be told to requeue on it.
EX_TEMPFAIL = 75


class Preempted(SystemExit):
    """Ends a run that was asked to make way and can be continued from its last checkpoint; exit code 75."""

    def __init__(self, signum: int) -> None:
        super().__init__(EX_TEMPFAIL)
        self.signal = signal.Signals(signum)
