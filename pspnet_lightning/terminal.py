"""Whether what moves (bars, counters, spinners) has somebody who looks at it."""

from __future__ import annotations

import os
from typing import TextIO


def animated(stream: TextIO) -> bool:
    """A terminal: no pipe or file, none under CI (``CI=true``), and none that knows no cursor (``TERM=dumb``)."""
    under_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    return stream.isatty() and not under_ci and os.environ.get("TERM") != "dumb"
