"""The input pipeline beside the official sequence of operations, image by image on one core.

What was tried and left: reduced-size JPEG decoding. It would serve scales of a half and below only, which the official
range 0.5-2 never draws.
"""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from PIL import Image
from rich.console import Console
from rich.table import Table

from pspnet_lightning.config import check_config
from pspnet_lightning.data import TrainTransform
from pspnet_lightning.data.reading import map_label, read_image, read_raw_label
from pspnet_lightning.data.specs import IMAGENET_MEAN, IMAGENET_STD, public_spec
from pspnet_lightning.models.normalized import normalized
from pspnet_lightning.runs.json_files import write_json

Pair = tuple[Path, Path]


def measure_input(cfg: DictConfig) -> None:
    """Prints the table and writes benchmark_input.json into the run folder."""
    check_config(cfg, "benchmark_input")
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        pairs = _images(cfg, Path(scratch))
        result = _measure(pairs, cfg)
    folder = Path(HydraConfig.get().runtime.output_dir)
    write_json(result, folder / "benchmark_input.json")
    table = Table(title=f"{cfg.width} x {cfg.height} JPEG to {cfg.crop_size} x {cfg.crop_size}, one core")
    for column in ("way", "ms/image", "quartiles", "images/s", "rate to official"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way, row in result["ways"].items():
        low, high = row["quartiles_ms"]
        table.add_row(
            way,
            f"{row['median_ms']:.2f}",
            f"{low:.2f}-{high:.2f}",
            f"{1000 / row['median_ms']:.0f}",
            f"{row['ratio']:.2f}",
        )
    Console().print(table)
    print(f"medians over {cfg.rounds} rounds of {len(pairs)} images in batches of {cfg.batch_size}, taken in turn")
    print(folder / "benchmark_input.json")


def _measure(pairs: list[Pair], cfg: DictConfig) -> dict[str, Any]:
    spec = public_spec("ade20k")
    transform = TrainTransform(cfg.crop_size, mean=IMAGENET_MEAN)

    def decode(pair: Pair, rng: np.random.Generator) -> Any:
        return read_image(pair[0]), read_raw_label(pair[1])

    def official(pair: Pair, rng: np.random.Generator) -> Any:
        return official_sample(pair, cfg.crop_size, rng)

    def ours(pair: Pair, rng: np.random.Generator) -> Any:
        # With the check of every label value, which the official code does not have.
        image, label = transform(read_image(pair[0]), map_label(read_raw_label(pair[1]), spec, pair[1]), rng)
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label)

    def on_cpu(pair: Pair, rng: np.random.Generator) -> Any:
        image, label = ours(pair, rng)
        return normalized(image, IMAGENET_MEAN, IMAGENET_STD), label.long()

    ways: dict[str, Callable[[Pair, np.random.Generator], Any]] = {
        "official sequence": official,
        "ours": ours,
        "ours and CPU normalise": on_cpu,
        "decoding alone": decode,
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    batches = [pairs[first : first + cfg.batch_size] for first in range(0, len(pairs), cfg.batch_size)]
    for round_ in range(cfg.rounds + 1):
        seconds = dict.fromkeys(ways, 0.0)
        # In turn batch by batch, so that what disturbs the machine disturbs all alike.
        for number, batch in enumerate(batches):
            for way, sample in ways.items():
                start = time.perf_counter()
                rng = np.random.default_rng((cfg.seed, round_, number))
                samples = [sample(pair, rng) for pair in batch]
                if way != "decoding alone":
                    _ = [torch.stack(part) for part in zip(*samples, strict=True)]
                seconds[way] += time.perf_counter() - start
        if round_:  # the first round warms up
            for way, spent in seconds.items():
                times[way].append(spent / len(pairs) * 1000)
    reference = times["official sequence"]
    return {
        "machine": f"{platform.processor() or platform.machine()}, one core of {os.cpu_count()}",
        "versions": {"python": platform.python_version(), "opencv": cv2.__version__, "torch": torch.__version__},
        "ways": {
            way: {
                "median_ms": statistics.median(values),
                "quartiles_ms": [float(value) for value in np.percentile(values, (25, 75))],
                # Of the same round: what disturbs the machine disturbs both.
                "ratio": statistics.median(a / b for a, b in zip(reference, values, strict=True)),
            }
            for way, values in times.items()
        },
    }


def official_sample(pair: Pair, crop_size: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """hszhao/semseg's training sample from its description: each operation over the whole float32 image.

    Scale 0.5-2, rotation +-10 degrees, blur 5 x 5 and flip each with probability 0.5, padding, crop, normalisation.
    """
    picture: Any = cv2.imread(str(pair[0]), cv2.IMREAD_COLOR)
    image = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.float32)
    label: Any = cv2.imread(str(pair[1]), cv2.IMREAD_GRAYSCALE)
    scale = 0.5 + 1.5 * rng.random()
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    if rng.random() < 0.5:
        height, width = label.shape
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 20 * rng.random() - 10, 1)
        image = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=IMAGENET_MEAN)
        label = cv2.warpAffine(label, matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=255)
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (5, 5), 0)
    if rng.random() < 0.5:
        image, label = cv2.flip(image, 1), cv2.flip(label, 1)
    height, width = label.shape
    pad_h, pad_w = max(crop_size - height, 0), max(crop_size - width, 0)
    if pad_h or pad_w:
        borders = (pad_h // 2, pad_h - pad_h // 2, pad_w // 2, pad_w - pad_w // 2, cv2.BORDER_CONSTANT)
        image = cv2.copyMakeBorder(image, *borders, value=IMAGENET_MEAN)
        label = cv2.copyMakeBorder(label, *borders, value=255)
        height, width = label.shape
    top, left = rng.integers(0, height - crop_size + 1), rng.integers(0, width - crop_size + 1)
    image = image[top : top + crop_size, left : left + crop_size]
    label = label[top : top + crop_size, left : left + crop_size]
    tensor = torch.from_numpy(image.transpose(2, 0, 1)).float()
    for channel, mean, std in zip(tensor, IMAGENET_MEAN, IMAGENET_STD, strict=True):
        channel.sub_(mean).div_(std)
    return tensor, torch.from_numpy(label).long()


def _images(cfg: DictConfig, scratch: Path) -> list[Pair]:
    """JPEGs of the wanted size with labels of 150 classes: the user's pictures resized, or generated ones."""
    generator = np.random.default_rng(cfg.seed)
    found: list[Path] = []
    if cfg.root is not None:
        folder = Path(cfg.root).expanduser()
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        if not found:
            raise ValueError(f"root={cfg.root!r} holds no JPEG or PNG; give a folder of pictures, or leave root out")
    pairs = []
    for number in range(cfg.images):
        if found:
            picture = cv2.resize(read_image(found[number % len(found)]), (cfg.width, cfg.height))
        else:
            # Smooth colours and fine grain, about 40 kB, as ADE20K's are (0.92 GB for 22,210 pairs).
            coarse = generator.integers(0, 256, (cfg.height // 32 + 1, cfg.width // 32 + 1, 3), dtype=np.uint8)
            smooth = cv2.resize(coarse, (cfg.width, cfg.height), interpolation=cv2.INTER_CUBIC)
            grain = generator.integers(-9, 10, smooth.shape)
            picture = np.clip(smooth + grain, 0, 255).astype(np.uint8)
        cells = generator.integers(0, 150, (cfg.height // 64 + 1, cfg.width // 64 + 1), dtype=np.uint8)
        label = cv2.resize(cells, (cfg.width, cfg.height), interpolation=cv2.INTER_NEAREST)
        pair = scratch / f"{number}.jpg", scratch / f"{number}.png"
        Image.fromarray(picture).save(pair[0], quality=75)
        Image.fromarray(label).save(pair[1])
        pairs.append(pair)
    return pairs
