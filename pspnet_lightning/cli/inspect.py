"""`pspnet-inspect data=...`: counts, sizes, class frequencies, mean and deviation, broken files, a picture sheet."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from pspnet_lightning.config import as_plain, build_source, check_config
from pspnet_lightning.data import DataSpec, SegmentationDataset, sample_indices
from pspnet_lightning.data.inspection import Inspection, inspect_split
from pspnet_lightning.launch.app import relative, run, track
from pspnet_lightning.launch.locks import locked
from pspnet_lightning.runs.json_files import write_json
from pspnet_lightning.visualize import label_sheet, save_png


def main() -> None:
    """The console script."""
    run("inspect", inspect)


def inspect(cfg: DictConfig) -> None:
    """Prints the tables, writes inspect.json and inspect.png into the run folder.

    Raises ValueError, which ends the command with exit code 1, when a file is broken.
    """
    check_config(cfg, "inspect")
    folder = Path(HydraConfig.get().runtime.output_dir)
    with locked(folder, f"folder {relative(folder)}", "give another hydra.run.dir=..."):
        _inspect(cfg, folder)


def _inspect(cfg: DictConfig, folder: Path) -> None:
    source = build_source(cfg.data)
    splits: dict[str, SegmentationDataset] = {name: source(name) for name in as_plain(cfg.splits)}
    spec = next(iter(splits.values())).spec
    threads = len(os.sched_getaffinity(0))
    found = [
        inspect_split(data, name, limit=cfg.limit, threads=threads, progress=partial(track, text=f"reading {name}"))
        for name, data in splits.items()
    ]
    content = {"data": spec.name, "classes": list(spec.classes), "splits": [item.to_dict() for item in found]}
    write_json(content, folder / "inspect.json")
    _print(found, spec)
    broken = [pair for item in found for pair in item.broken]
    bad = {name for name, _ in broken}
    first = next(iter(splits.values()))
    whole = [index for index in sample_indices(len(first), len(first)) if first.name(index) not in bad]
    chosen = [whole[position] for position in sample_indices(len(whole), cfg.pictures)] if whole else []
    if chosen:
        save_png(
            label_sheet([(*first.read(index), first.name(index)) for index in chosen], spec), folder / "inspect.png"
        )
    written = ["inspect.json", *(["inspect.png"] if chosen else [])]
    print(f"written: {', '.join(relative(folder / name) for name in written)}", flush=True)
    if broken:
        for name, reason in broken:
            print(f"broken: {reason if name in reason else f'{name}: {reason}'}", flush=True)
        raise ValueError(
            f"{len(broken)} of {sum(item.read for item in found) + len(broken)} pairs are broken; see above"
        )


def _print(found: list[Inspection], spec: DataSpec) -> None:
    console = Console()
    for item in found:
        sizes = ", ".join(f"{width} x {height} ({count})" for (height, width), count in item.sizes.most_common(4))
        more = f" and {len(item.sizes) - 4} more sizes" if len(item.sizes) > 4 else ""
        total = int(item.pixels.sum()) + item.ignored
        print(f"{spec.name} {item.split}: {item.images} images, {item.read} read, {len(item.broken)} broken")
        print(f"  sizes (width x height): {sizes}{more}")
        print(f"  mean {list(item.mean)}, standard deviation {list(item.std)}; set: {[round(v, 3) for v in spec.mean]}")
        print(f"  ignored pixels: {item.ignored / max(total, 1):.2%}", flush=True)
        if item.not_finite:
            print(f"  pixels that are no finite numbers: {item.not_finite}", flush=True)
    table = Table()
    table.add_column("class")
    for item in found:
        table.add_column(f"{item.split} pixels %", justify="right")
        table.add_column(f"{item.split} images", justify="right")
    for label, name in enumerate(spec.classes):
        cells = []
        for item in found:
            share = item.pixels[label] / max(int(item.pixels.sum()), 1)
            cells += [f"{100 * share:.3f}", f"{item.images_with[label]}"]
        table.add_row(name, *cells)
    console.print(table)
    for item in found:
        if absent := item.absent(spec.classes):
            print(f"not one pixel in {item.split}: {', '.join(absent)}", flush=True)
