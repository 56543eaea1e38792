"""Colour jitter, erasing and mixing: what they change, and that (seed, epoch, index) decides them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import functional

from pspnet_lightning.data import TrainTransform, TransformedDataset
from pspnet_lightning.data.colour import ColourJitter, erase
from pspnet_lightning.data.mixing import Mixer
from pspnet_lightning.data.scenes import scenes

MEAN = (100.0, 110.0, 120.0)


class Draws:
    """Stands for a generator: its uniform numbers are given."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def random(self, count: int | None = None) -> object:
        if count is None:
            return self.values.pop(0)
        taken, self.values = self.values[:count], self.values[count:]
        return np.array(taken)


def photo() -> np.ndarray:
    generator = np.random.default_rng(0)
    small = generator.integers(30, 220, (6, 8, 3), dtype=np.uint8)
    return np.kron(small, np.ones((8, 8, 1), np.uint8))


@pytest.mark.parametrize(("brightness", "contrast"), [(0.5, 0.0), (0.0, 0.5), (-0.3, 0.2)])
def test_brightness_and_contrast_are_torchvisions(brightness: float, contrast: float) -> None:
    image = photo() // 2 + 20  # away from the clipping, which torchvision does twice
    jitter = ColourJitter(brightness=1.0, contrast=1.0, saturation=0.0, hue=0.0)
    ours = jitter(image, Draws((brightness + 1) / 2, (contrast + 1) / 2, 0.5, 0.5))
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    theirs = functional.adjust_contrast(functional.adjust_brightness(tensor, 1 + brightness), 1 + contrast)
    assert np.abs(ours.astype(int) - theirs.permute(1, 2, 0).numpy()).max() <= 3


def test_hue_is_torchvisions() -> None:
    image = photo()
    ours = ColourJitter(brightness=0, contrast=0, saturation=0, hue=0.5)(image, Draws(0.5, 0.5, 0.5, 0.7))
    theirs = functional.adjust_hue(torch.from_numpy(image).permute(2, 0, 1), 0.2).permute(1, 2, 0).numpy()
    assert np.abs(ours.astype(int) - theirs).mean() < 3


def test_erasing_stays_within_its_share() -> None:
    generator = np.random.default_rng(1)
    shares = [
        float((erase(np.zeros((80, 90, 3), np.uint8), (7, 7, 7), generator)[..., 0] == 7).mean()) for _ in "a" * 200
    ]
    assert 0.01 < min(shares) < 0.04
    assert 0.15 < max(shares) < 0.22


@pytest.mark.parametrize("kind", ["cutmix", "classmix", "copy_paste"])
def test_image_and_label_are_pasted_alike(kind: str) -> None:
    generator = np.random.default_rng(2)
    shares = []
    for _ in range(100):
        first, second = np.zeros((40, 50), np.uint8), 1 + generator.integers(0, 4, (5, 5)).astype(np.uint8)
        second = np.kron(second, np.ones((8, 10), np.uint8))
        other = np.repeat(second[..., None], 3, 2) * 10
        image, label = Mixer(kind)(np.zeros((40, 50, 3), np.uint8), first, other, second, generator)
        assert np.array_equal(image[..., 0], label * 10)
        pasted = np.unique(label[label > 0])
        if kind == "classmix":
            assert len(pasted) == (len(np.unique(second)) + 1) // 2
        if kind == "copy_paste":
            assert len(pasted) == 1
        shares.append((label > 0).mean())
    # CutMix's share of the area is uniform: its mean is a half.
    if kind == "cutmix":
        assert np.mean(shares) == pytest.approx(0.5, abs=0.1)


def test_samples_depend_on_seed_epoch_and_index_only() -> None:
    data = scenes("train", train_length=6)
    strong = TrainTransform(
        64, mean=MEAN, colour_jitter={}, erasing_probability=0.5, mix="classmix", mix_probability=1.0
    )
    one, two = TransformedDataset(data, strong, seed=4), TransformedDataset(data, strong, seed=4)
    for key in ((0, 3), (1, 3), (0, 5)):
        assert torch.equal(one[key]["image"], two[key]["image"])
        assert torch.equal(one[key]["label"], two[key]["label"])
    assert not torch.equal(one[(0, 3)]["image"], one[(1, 3)]["image"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix": "mixup"}, "must be one of cutmix, classmix, copy_paste"),
        ({"mix": "cutmix", "mix_probability": 2}, "must lie in 0..1"),
        ({"colour_jitter": {"hue": 0.8}}, "colour_jitter.hue=0.8 must lie in 0..0.5"),
        ({"erasing_probability": -1}, "erasing_probability=-1 must lie"),
    ],
)
def test_mistakes(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainTransform(64, mean=MEAN, **options)
