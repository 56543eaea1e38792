"""The embedded scenes: deterministic, and honest in that only the context decides."""

from __future__ import annotations

import subprocess
import sys
import zlib

import numpy as np
import pytest

from pspnet_lightning.data import count_classes
from pspnet_lightning.data.drawing import HULL, MIST, POST, draw_scene
from pspnet_lightning.data.scenes import SCENES, scenes


def test_deterministic_in_any_order_and_process() -> None:
    data = scenes("train", train_length=8)
    backwards = [data.read(index) for index in reversed(range(8))][::-1]
    for index, (image, label) in enumerate(backwards):
        again = data.read(index)
        assert (again[0] == image).all()
        assert (again[1] == label).all()
    code = (
        "import zlib; from pspnet_lightning.data.scenes import scenes\n"
        "i, l = scenes('train', train_length=8).read(5); print(zlib.crc32(i.tobytes()), zlib.crc32(l.tobytes()))"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert list(map(int, there)) == [zlib.crc32(part.tobytes()) for part in backwards[5]]


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int32])
def test_numpys_integers_are_indices(kind: type) -> None:
    data = scenes("train")
    for one, other in zip(data.read(7), data.read(kind(7)), strict=True):
        assert (one == other).all()
    with pytest.raises(TypeError):
        data.read(7.0)


def test_splits_and_seeds_differ() -> None:
    first = scenes("train").read(0)[0]
    assert (first != scenes("val").read(0)[0]).any()
    assert (first != scenes("train", seed=1).read(0)[0]).any()


def test_shapes_values_and_every_class() -> None:
    data = scenes("val", size=(80, 112), val_length=60)
    image, label = data.read(0)
    assert image.shape == (80, 112, 3)
    assert label.shape == (80, 112)
    assert image.dtype == label.dtype == np.uint8
    counts = count_classes(data)
    assert len(counts) == 11
    assert (counts > 200).all()
    mean, std = (
        np.stack([data.read(i)[0] for i in range(60)]).reshape(-1, 3).astype(float).__getattribute__(name)(axis=0)
        for name in ("mean", "std")
    )
    assert np.abs(mean - SCENES.mean).max() < 6
    assert np.abs(std - SCENES.std).max() < 6


def test_things_look_alike_whatever_the_setting() -> None:
    for seed in range(10):
        pictures = [draw_scene(np.random.default_rng(seed), setting, (96, 96)) for setting in range(3)]
        masks = [(label >= HULL) for _, label in pictures]
        assert (masks[0] == masks[1]).all()
        assert (masks[0] == masks[2]).all()
        # Same pixels, other class: boat, car, tractor; buoy, lamp, sapling.
        for setting in (1, 2):
            assert (pictures[0][0][masks[0]] == pictures[setting][0][masks[0]]).all()
            assert (pictures[0][1][masks[0]] + setting == pictures[setting][1][masks[0]]).all()


def test_nothing_within_sight_of_a_thing_tells_the_setting() -> None:
    data = scenes("train", train_length=60)
    for index in range(60):
        _, label = data.read(index)
        things, ground = np.argwhere(label >= HULL), np.argwhere((label > MIST) & (label < HULL))
        if len(things) and len(ground):
            distances = np.sqrt(((things[:, None] - ground[None]) ** 2).sum(-1))
            assert distances.min() > 10  # of 96


def test_where_things_stand_does_not_tell_the_setting() -> None:
    # A classifier that knows the positions only (the nearest class mean of the occupancy map) is at chance.
    data = scenes("train", train_length=450)
    maps = np.stack([(data.read(index)[1] >= HULL)[::8, ::8].ravel() for index in range(450)]).astype(float)
    settings = np.arange(450) % 3
    means = np.stack([maps[:300][settings[:300] == setting].mean(0) for setting in range(3)])
    guesses = ((maps[300:, None] - means) ** 2).sum(-1).argmin(1)
    assert abs((guesses == settings[300:]).mean() - 1 / 3) < 0.12  # 3 standard deviations of 150 guesses


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "split='dev' must be one of train, val, test"),
        ({"split": "val", "val_length": 0}, "val_length=0"),
        ({"split": "val", "size": 32}, "at least 64"),
    ],
)
def test_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scenes(**arguments)


def test_posts_follow_hulls() -> None:
    assert SCENES.classes[HULL : HULL + 3] == ("boat", "car", "tractor")
    assert SCENES.classes[POST:] == ("buoy", "lamp", "sapling")
