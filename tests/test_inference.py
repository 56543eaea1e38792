"""Sliding windows: parity with the official code, invariances, and the memory they need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from named_weights import tensor as named_tensor
from plain_sliding import plain_probabilities

from pspnet_lightning.inference import SlidingWindow, label_rows, predict_probabilities, sliding_window

VECTORS = Path(__file__).parent / "vectors"
MEAN = [255 * value for value in (0.485, 0.456, 0.406)]
STD = [255 * value for value in (0.229, 0.224, 0.225)]


def network(classes: int = 5) -> object:
    weight = 3 * named_tensor("slide.weight", (classes, 3, 5, 5))
    bias = named_tensor("slide.bias", (classes,))
    return lambda images: F.conv2d(images, weight, bias, padding=2)


@pytest.mark.parametrize("name", ["single", "multi"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_parity_with_semseg(name: str, batch_size: int) -> None:
    expected = np.load(VECTORS / f"semseg_sliding_{name}_scale.npz")
    found = sliding_window(
        network(),
        expected["image"],
        crop_size=int(expected["crop"]),
        base_size=int(expected["base_size"]),
        scales=tuple(expected["scales"].tolist()),
        mean=MEAN,
        std=STD,
        batch_size=batch_size,
    )
    theirs = expected["probabilities"].transpose(2, 0, 1)
    assert found.dtype == torch.float32
    assert np.abs(found.numpy() - theirs).max() < 1e-4
    # Labels are identical but where the two best classes tie.
    differ = found.argmax(0).numpy() != expected["labels"]
    best = np.sort(theirs, axis=0)
    assert (best[-1] - best[-2])[differ].max(initial=0) < 1e-4
    assert differ.mean() < 1e-3


@pytest.mark.parametrize("size", [(40, 50), (100, 61), (33, 150), (7, 9)])
@pytest.mark.parametrize(
    "protocol",
    [
        SlidingWindow(33),
        SlidingWindow((40, 25), base_size=77, scales=(0.5, 1.0, 1.75)),
        SlidingWindow(64, scales=(0.7, 1.3), flip=False, stride_rate=0.5, batch_size=2),
        SlidingWindow(33, base_size=60, stride_rate=1.0),
    ],
)
def test_equal_to_the_plain_loop(size: tuple[int, int], protocol: SlidingWindow) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = predict_probabilities(network(), image, protocol, mean=MEAN, std=STD)
    assert found.shape == (5, *size)
    assert (
        np.abs(found.numpy().transpose(1, 2, 0) - plain_probabilities(image, protocol, network(), MEAN, STD)).max()
        < 1e-4
    )
    assert torch.allclose(found.sum(0), torch.ones(size), atol=1e-4)


def test_rows_that_stream_equal_the_whole() -> None:
    image = np.random.default_rng(1).integers(0, 256, (210, 90, 3), dtype=np.uint8)
    protocol = SlidingWindow(40, batch_size=2)
    whole = predict_probabilities(network(), image, protocol, mean=MEAN, std=STD).argmax(0).numpy()
    asked = []

    def read(top: int, bottom: int) -> np.ndarray:
        asked.append(bottom - top)
        return image[top:bottom]

    parts = list(label_rows(network(), read, 210, 90, protocol, mean=MEAN, std=STD))
    assert [top for top, _ in parts] == np.cumsum([0, *(len(labels) for _, labels in parts[:-1])]).tolist()
    assert np.array_equal(np.concatenate([labels for _, labels in parts]), whole)
    assert max(asked) == 40
    with pytest.raises(ValueError, match="at its own size only"):
        next(label_rows(network(), read, 210, 90, SlidingWindow(40, base_size=99), mean=MEAN, std=STD))


def test_a_network_that_answers_smaller_logits_is_upsampled() -> None:
    image = np.random.default_rng(2).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    found = sliding_window(lambda x: network()(x)[:, :, ::2, ::2], image, crop_size=33, mean=MEAN, std=STD)
    assert found.shape == (5, 50, 50)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_size": 0}, "crop_size=0"),
        ({"crop_size": 33, "scales": ()}, "scales"),
        ({"crop_size": 33, "stride_rate": 1.5}, "stride_rate=1.5"),
        ({"crop_size": 33, "batch_size": 0}, "batch_size=0"),
        ({"crop_size": 33, "base_size": 0}, "base_size=0"),
    ],
)
def test_mistakes(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sliding_window(network(), np.zeros((9, 9, 3), np.uint8), mean=MEAN, std=STD, **options)
    with pytest.raises(ValueError, match=r"image of shape \(9, 9\)"):
        sliding_window(network(), np.zeros((9, 9), np.uint8), crop_size=33, mean=MEAN, std=STD)


MEMORY = """
import resource, sys
import numpy as np, torch
torch.set_num_threads(1)
from pspnet_lightning.inference import SlidingWindow, label_rows, predict_probabilities
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
weight = torch.randn({classes}, 3, 1, 1)
network = lambda x: torch.nn.functional.conv2d(x, weight)
options = dict(mean=[0.0] * 3, std=[1.0] * 3)
before = peak()
{work}
print(peak() - before)
"""


def peak_of(work: str, classes: int) -> int:
    code = MEMORY.format(work=work, classes=classes)
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 1.75])
def test_memory_is_bounded_for_a_street_scene_of_many_classes(scale: float) -> None:
    """2048 x 1024 with 150 classes: the bound of the module's docstring holds."""
    height, width, crop, classes = 1024, 2048, 257, 150
    protocol = f"SlidingWindow({crop}, scales=({scale},), batch_size=1, stride_rate=0.9)"
    work = f"predict_probabilities(network, np.zeros(({height}, {width}, 3), np.uint8), {protocol}, **options)"
    bound = 4 * classes * (height * width + 4 * crop * int(scale * width) + 6 * crop**2)
    assert peak_of(work, classes) < bound + 100e6


def test_memory_does_not_grow_with_the_height_of_an_aerial_tile() -> None:
    work = (
        "for _ in label_rows(network, lambda top, bottom: np.zeros((bottom - top, 2000, 3), np.uint8), {height}, 2000, "
        "SlidingWindow(513, flip=False, batch_size=2), **options): pass"
    )
    short, tall = (peak_of(work.format(height=height), 6) for height in (1500, 4500))
    assert tall < 1.15 * short + 20e6
    # The bound of the module's docstring; the rest are libraries that load late.
    assert tall < 4 * 6 * (2 * 513 * 2000 + 6 * 2 * 513**2) + 16 * 3 * 513 * 2000 + 50e6
