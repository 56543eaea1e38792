"""One affine warp puts every point where semseg's sequence of operations puts it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pspnet_lightning.data import EvalTransform, TrainTransform
from pspnet_lightning.data.transforms import crop_matrix

MEAN = (123.675, 116.28, 103.53)


def sequence(
    image: np.ndarray,
    label: np.ndarray,
    *,
    crop: tuple[int, int],
    scale: float,
    angle: float,
    flip: bool,
    top: float,
    left: float,
) -> tuple[np.ndarray, np.ndarray]:
    """What hszhao/semseg does one after the other: resize, rotate, flip, pad, crop (mean and 255 as borders)."""
    image = cv2.resize(image.astype(np.float32), None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    height, width = label.shape
    if angle:
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
        image = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=MEAN)
        label = cv2.warpAffine(label, matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=255)
    if flip:
        image, label = cv2.flip(image, 1), cv2.flip(label, 1)
    pad_h, pad_w = max(crop[0] - height, 0), max(crop[1] - width, 0)
    above, beside = int(pad_h / 2), int(pad_w / 2)
    if pad_h or pad_w:
        borders = (above, pad_h - above, beside, pad_w - beside, cv2.BORDER_CONSTANT)
        image, label = (
            cv2.copyMakeBorder(image, *borders, value=MEAN),
            cv2.copyMakeBorder(label, *borders, value=255),
        )
    y = int(top * (label.shape[0] - crop[0] + 1))
    x = int(left * (label.shape[1] - crop[1] + 1))
    return image[y : y + crop[0], x : x + crop[1]], label[y : y + crop[0], x : x + crop[1]]


CASES = [
    {"scale": 1.0, "angle": 0.0, "flip": False, "top": 0.3, "left": 0.7},
    {"scale": 2.0, "angle": 0.0, "flip": True, "top": 0.99, "left": 0.0},
    {"scale": 1.37, "angle": 9.0, "flip": False, "top": 0.5, "left": 0.5},
    {"scale": 0.5, "angle": -10.0, "flip": True, "top": 0.2, "left": 0.4},
    {"scale": 0.73, "angle": 4.0, "flip": True, "top": 0.8, "left": 0.1},
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("crop", [(97, 97), (80, 131), (200, 60)])
def test_marked_points_land_within_half_a_pixel(case: dict[str, float], crop: tuple[int, int]) -> None:
    height, width = 120, 151
    matrix, _ = crop_matrix(height, width, *crop, **case)
    checked = 0
    for x, y in ((20, 30), (75, 60), (130, 100), (60, 15), (100, 90)):
        image = np.zeros((height, width, 3), np.uint8)
        cv2.circle(image, (x, y), 4, (255, 255, 255), -1)
        spot, _ = sequence(image, np.zeros((height, width), np.uint8), crop=crop, **case)
        mass = np.where(spot[..., 0] > 130, spot[..., 0], 0)  # above the mean that fills the borders
        expected = matrix @ np.array([x, y, 1.0])
        if not (8 < expected[0] < crop[1] - 9 and 8 < expected[1] < crop[0] - 9):
            continue
        rows, columns = np.nonzero(mass)
        weight = mass[rows, columns]
        centre = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()
        assert np.abs(centre - expected).max() < 0.5
        checked += 1
    assert checked or crop[0] > 150 or case["scale"] > 1.9


def transform_as(case: dict[str, float], crop: tuple[int, int]) -> TrainTransform:
    """The transform with its draws replaced by the case's."""

    class Fixed(TrainTransform):
        def __call__(self, image: np.ndarray, label: np.ndarray, rng: object) -> tuple[np.ndarray, np.ndarray]:
            class Draws:
                def random(self, count: int) -> np.ndarray:
                    turn = 0.5 + case["angle"] / 20
                    flip = 0.0 if case["flip"] else 1.0
                    return np.array([0, 0.0 if case["angle"] else 1.0, turn, 1.0, flip, case["top"], case["left"]])

            return super().__call__(image, label, Draws())

    return Fixed(crop, mean=MEAN, scale=(case["scale"], case["scale"]), rotation=10)


@pytest.mark.parametrize("case", CASES)
def test_label_regions_and_pictures_equal_the_sequences(case: dict[str, float]) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 10, 3), np.uint8)
    image = cv2.resize(coarse, (151, 120), interpolation=cv2.INTER_CUBIC)
    label = cv2.resize(rng.integers(0, 5, (8, 10), np.uint8), (151, 120), interpolation=cv2.INTER_NEAREST)
    crop = (97, 113)
    expected_image, expected_label = sequence(image, label, crop=crop, **case)
    warped, mapped = transform_as(case, crop)(image, label, np.random.default_rng(0))
    # The sequence rounds labels twice, by up to half a pixel each time, ours once: pixels more than one pixel away
    # from a border of regions must agree, and all but a few of those next to one.
    agree = mapped == expected_label

    def uniform(side: int) -> np.ndarray:
        return cv2.erode(expected_label, np.ones((side, side))) == cv2.dilate(expected_label, np.ones((side, side)))

    assert uniform(5).mean() > 0.3
    assert agree[uniform(5)].all()
    assert agree[uniform(3)].mean() > 0.998
    inside = uniform(5) & (expected_label != 255)
    assert np.abs(warped[inside].astype(float) - expected_image[inside]).mean() < 1.5


def test_no_change_is_no_change() -> None:
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 256, (40, 50, 3), np.uint8), rng.integers(0, 5, (40, 50), np.uint8)
    plain = TrainTransform(
        (40, 50), mean=MEAN, scale=(1, 1), rotation_probability=0, blur_probability=0, flip_probability=0
    )
    answered = plain(image, label, rng)
    assert (answered[0] == image).all()
    assert (answered[1] == label).all()
    answered = EvalTransform()(image, label, rng)
    assert (answered[0] == image).all()


def test_padding_is_the_mean_and_the_ignored_value() -> None:
    image, label = np.full((10, 10, 3), 200, np.uint8), np.zeros((10, 10), np.uint8)
    crop, mask = TrainTransform(31, mean=MEAN, scale=(1, 1), rotation=0, blur_probability=0)(
        image, label, np.random.default_rng(0)
    )
    assert (mask == 0).sum() == 100
    assert set(np.unique(mask)) == {0, 255}
    assert crop[0, 0].tolist() == [124, 116, 104]


def test_everything_comes_from_the_generator_and_shares_are_as_asked() -> None:
    transform = TrainTransform(33, mean=MEAN)
    image, label = (
        np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8),
        np.zeros((64, 64), np.uint8),
    )
    first, again = (transform(image, label, np.random.default_rng(7)) for _ in range(2))
    assert (first[0] == again[0]).all()
    other = transform(image, label, np.random.default_rng(8))
    assert (first[0] != other[0]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crop_size": 0}, "crop_size=0"),
        ({"crop_size": (3, 4, 5)}, r"crop_size=\(3, 4, 5\)"),
        ({"crop_size": 9, "scale": (2, 1)}, r"scale=\[2, 1\]"),
        ({"crop_size": 9, "flip_probability": 1.5}, "flip_probability=1.5"),
    ],
)
def test_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainTransform(mean=MEAN, **arguments)
