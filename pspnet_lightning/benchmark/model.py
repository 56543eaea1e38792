"""The network beside the reference formulation: forward, label map, sliding window and training step.

Every ratio is of times from the same round, in which all ways run in turn; the reference is the concatenation in NCHW
float32 with the up-sampling of all logits and the maximum over classes, as the official code has it.

What each step brought, and what was tried and left, stands in ``docs/negative-results.md``.
"""

from __future__ import annotations

import gc
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from pspnet_lightning.benchmark.memory import peak_memory
from pspnet_lightning.benchmark.ways import (
    PRECISIONS,
    Subjects,
    Way,
    reference_way,
    ways,
)
from pspnet_lightning.config import as_plain, check_config
from pspnet_lightning.runs.json_files import write_json

_WHAT = {
    "forward": "network to the heads' logits",
    "labels": "image to label map",
    "sliding": "sliding window with flip",
    "train": "training step",
}


def measure_model(config: DictConfig) -> None:
    """Prints a table for each measure and writes benchmark_model.json into the run folder."""
    check_config(config, "benchmark_model")
    cfg = as_plain(config)
    device = _check(cfg)
    if cfg["threads"] is not None:
        torch.set_num_threads(cfg["threads"])
    subjects = Subjects(cfg, device)
    rates: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    result: dict[str, Any] = {
        "machine": _machine(device),
        "config": cfg,
        "measures": {},
    }
    path = Path(HydraConfig.get().runtime.output_dir) / "benchmark_model.json"
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        for measure in cfg["measure"]:
            rows = _measure(subjects, ways(cfg, measure), rates, cfg, progress)
            result["measures"][measure] = rows
            result["matrix_product_gflops"] = {name: statistics.median(values) for name, values in rates.items()}
            write_json(result, path)
            # Into a file the table goes at the width that it needs.
            Console(width=None if sys.stdout.isatty() else 120).print(_table(measure, rows, cfg))
    products = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in result["matrix_product_gflops"].items())
    print(f"{result['machine']['device']}, torch {torch.__version__}; matrix product: {products}")
    print(f"medians of {cfg['rounds']} interleaved rounds, quartiles beside; rate: to the reference in the same round")
    print(path)


def _check(cfg: dict[str, Any]) -> torch.device:
    if "train" in cfg["measure"] and cfg["train_batch"] < 2:
        raise ValueError(f"train_batch={cfg['train_batch']} must be at least 2: BatchNorm of the pyramid's bin 1")
    name = cfg["device"]
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device={name!r} must be auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: torch sees no CUDA device here; use device=cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _measure(
    subjects: Subjects, chosen: list[Way], rates: dict[str, list[float]], cfg: dict[str, Any], progress: Progress
) -> list[dict[str, Any]]:
    device, measure = subjects.device, chosen[0].measure
    task = progress.add_task(_WHAT[measure], total=len(chosen) * (1 + cfg["rounds"] + int(cfg["memory"])))
    runs: dict[Way, Callable[[], Any]] = {}
    answers, products = {}, {}
    for way in chosen:
        runs[way] = subjects.run(way)
        torch.manual_seed(cfg["seed"])  # the same dropout in every way's first step
        # The round that warms up counts the products too; what is compiled counts as its eager twin.
        with FlopCounterMode(display=False) if way.mode == "eager" else nullcontext() as counter:
            answers[way] = _cpu(runs[way]())
        if counter is not None:
            products[way] = counter.get_total_flops() / 2
        progress.advance(task)
    times: dict[Way, list[float]] = {way: [] for way in chosen}
    own: dict[str, list[float]] = {precision: [] for precision in rates}
    for round_ in range(cfg["rounds"]):
        # In the same rounds, for what disturbs the machine disturbs these too.
        for precision, values in own.items():
            values.append(product_rate(PRECISIONS[precision], device))
        # Back and forth, so that no way always follows the same one.
        for way in chosen if round_ % 2 == 0 else reversed(chosen):
            times[way].append(_seconds(runs[way], device))
            progress.advance(task)
    runs.clear()
    gc.collect()
    for precision, values in own.items():
        rates[precision] += values
    reference = reference_way(measure)
    rows = []
    for way in chosen:
        # Which may not have been asked for.
        twin = Way(way.measure, way.formulation, way.precision, way.layout, "eager")
        count = products.get(twin)
        median = statistics.median(times[way])
        shares = [
            2 * (count or 0) / seconds / 1e9 / rate
            for seconds, rate in zip(times[way], own[way.precision], strict=True)
        ]
        ratios = [a / b for a, b in zip(times[reference], times[way], strict=True)]
        rows.append(
            {
                **asdict(way),
                "median_s": median,
                "quartiles_s": _quartiles(times[way]),
                "rate_to_reference": statistics.median(ratios),
                "rate_quartiles": _quartiles(ratios),
                "gmac": None if count is None else count / 1e9,
                "gflops": None if count is None else 2 * count / median / 1e9,
                "share_of_matrix_product": None if count is None else statistics.median(shares),
                "peak_bytes": peak_memory(way, cfg, device) if cfg["memory"] else None,
                **_agreement(measure, answers[reference], answers[way]),
            }
        )
        progress.advance(task)
    progress.remove_task(task)
    return rows


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """GFLOP/s of the machine's matrix product in ``dtype``: the best call of torch.mm and of a 1x1 convolution.

    Both, because they are two libraries' products on a CPU.
    """
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    image = a.t().reshape(1, size, size, 1).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        both = (partial(torch.mm, a, b), partial(F.conv2d, image, b.view(size, size, 1, 1)))
        best = min(_seconds(product, device) for product in both for _ in range(5))
    return 2 * size**3 / best / 1e9


def _agreement(measure: str, reference: torch.Tensor, answer: torch.Tensor) -> dict[str, float]:
    if measure in ("labels", "sliding"):
        return {"labels_agree_percent": 100 * float((answer == reference).double().mean())}
    a, b = answer.double(), reference.double()
    key = "loss_relative_difference" if measure == "train" else "logits_relative_difference"
    return {key: float((a - b).norm() / b.norm())}


def _cpu(answer: torch.Tensor) -> torch.Tensor:
    return answer.detach().float().cpu() if answer.is_floating_point() else answer.cpu()


def _quartiles(values: list[float]) -> list[float]:
    return [float(value) for value in np.percentile(values, (25, 75))]


# ---------------------------------------------------------------------- what is shown


def _table(measure: str, rows: list[dict[str, Any]], cfg: dict[str, Any]) -> Table:
    size = {
        "sliding": f"{cfg['width']} x {cfg['height']}, crops of {cfg['size']}",
        "train": f"{cfg['train_batch']} x {cfg['size']} x {cfg['size']}",
    }.get(measure, f"{cfg['batch']} x {cfg['size']} x {cfg['size']}")
    table = Table(title=f"{_WHAT[measure]}, {size}", box=box.SIMPLE_HEAD, pad_edge=False)
    last = "labels equal" if measure in ("labels", "sliding") else "difference"
    table.add_column("way")
    for column in ("ms", "quartiles", "rate", "quartiles", "GMAC", "of product", "peak MB", last):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        name = Way(**{key: row[key] for key in ("measure", "formulation", "precision", "layout", "mode")}).name
        agree = row.get("labels_agree_percent")
        difference = row.get("loss_relative_difference", row.get("logits_relative_difference"))
        known = row["gmac"] is not None
        table.add_row(
            name,
            f"{1000 * row['median_s']:.1f}",
            "-".join(f"{1000 * value:.1f}" for value in row["quartiles_s"]),
            f"{row['rate_to_reference']:.2f}",
            "-".join(f"{value:.2f}" for value in row["rate_quartiles"]),
            f"{row['gmac']:.1f}" if known else "",
            f"{100 * row['share_of_matrix_product']:.0f} %" if known else "",
            f"{row['peak_bytes'] / 1e6:.0f}" if row["peak_bytes"] is not None else "",
            f"{agree:.4f} %" if agree is not None else f"{difference:.1e}",
        )
    return table


def _machine(device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    else:
        found = re.search(r"model name\s*:\s*(.+)", _text("/proc/cpuinfo"))
        name = f"{found[1] if found else platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    return {
        "device": name,
        "cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "environment": {key: value for key, value in os.environ.items() if key.startswith(("OMP_", "MALLOC_", "KMP_"))},
    }


def _text(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""
