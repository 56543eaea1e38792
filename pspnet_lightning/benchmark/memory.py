"""Peak memory of one way of the model benchmark, in a process of its own so that nothing else counts."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pspnet_lightning.benchmark.ways import Subjects, Way


def peak_memory(way: Way, cfg: dict[str, Any], device: torch.device) -> int:
    """Bytes at most that a process with one way alone holds beyond its imports: network, inputs and all it computes.

    Of the device's memory where that is not the CPU.
    """
    call = f"from {__name__} import print_peak; print_peak()"
    request = json.dumps({"way": asdict(way), "cfg": cfg, "device": device.type, "threads": torch.get_num_threads()})
    done = subprocess.run([sys.executable, "-c", call], input=request, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the process that measures the memory of {way.name} failed:\n{done.stderr}")
    return int(done.stdout.split()[-1])


def print_peak() -> None:
    """In the process: reads a way from standard input, runs it twice, prints the bytes."""
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    before = _resident_peak()
    run = Subjects(request["cfg"], torch.device(request["device"]), calibrate=False).run(Way(**request["way"]))
    for _ in range(2):
        run()
    cuda = request["device"] == "cuda"
    print(torch.cuda.max_memory_allocated() if cuda else _resident_peak() - before)


def _resident_peak() -> int:
    """Bytes. ``ru_maxrss`` would not do on Linux: it remembers the process that started this one."""
    status = Path("/proc/self/status")
    if status.exists() and (match := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(match[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
