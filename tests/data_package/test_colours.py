"""Our own palettes under every kind of colour vision."""

from __future__ import annotations

import numpy as np
import pytest

from pspnet_lightning.data import default_palette
from pspnet_lightning.data.scenes import SCENES
from pspnet_lightning.visualize import colorize

# Machado, Oliveira & Fernandes 2009, table of severity 1.0; linear RGB.
VISIONS = {
    "trichromat": np.eye(3),
    "protanope": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranope": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanope": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
IGNORED = tuple(int(value) for value in colorize(np.array([[255]], np.uint8), [(9, 9, 9)])[0, 0])


def smallest_distance(colours: object, vision: str) -> float:
    """The smallest CIE 1976 distance (L*a*b*, D65) of all pairs as somebody sees them."""
    values = np.asarray(colours, float) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(VISIONS[vision]).T, 0, 1)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    )
    xyz = seen @ to_xyz.T / [0.95047, 1, 1.08883]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    return float(distances[~np.eye(len(lab), dtype=bool)].min())


@pytest.mark.parametrize("vision", VISIONS)
def test_scenes_are_told_apart(vision: str) -> None:
    assert smallest_distance([*SCENES.palette, IGNORED], vision) > 27


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize(("count", "least"), [(2, 35), (8, 28), (16, 19), (24, 16), (256, 4)])
def test_own_classes_are_told_apart(vision: str, count: int, least: float) -> None:
    assert smallest_distance([*default_palette(count), IGNORED], vision) > least


def test_the_measure_is_the_one_that_found_the_fault() -> None:
    before = {"boat": (220, 60, 50), "sapling": (130, 90, 40), "lamp": (40, 200, 200), "mist": (200, 200, 205)}
    assert smallest_distance([before["boat"], before["sapling"]], "protanope") == pytest.approx(4.6, abs=0.05)
    assert smallest_distance([before["lamp"], before["mist"]], "protanope") == pytest.approx(5.0, abs=0.05)
