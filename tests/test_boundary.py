"""Boundary IoU against the authors' own function, bands against brute force, and what they say of blurred edges."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pspnet_lightning.metrics import Answer
from pspnet_lightning.metrics.boundary import BoundaryScores, inner_boundary, outline_distance


def mask_to_boundary(mask: np.ndarray, dilation_ratio: float = 0.02) -> np.ndarray:
    """As in bowenc0221/boundary-iou-api, boundary_iou/utils/boundary_utils.py (Cheng et al. 2021)."""
    h, w = mask.shape
    img_diag = np.sqrt(h**2 + w**2)
    dilation = round(dilation_ratio * img_diag)
    if dilation < 1:
        dilation = 1
    # Pad image so mask truncated by the image border is also considered as boundary.
    new_mask = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    kernel = np.ones((3, 3), dtype=np.uint8)
    new_mask_erode = cv2.erode(new_mask, kernel, iterations=dilation)
    mask_erode = new_mask_erode[1 : h + 1, 1 : w + 1]
    # G_d intersects G in the paper.
    return np.asarray(mask - mask_erode)


def maps(seed: int = 0, shape: tuple[int, int] = (61, 83)) -> tuple[np.ndarray, np.ndarray]:
    """A label of smooth regions with ignored pixels, and a prediction that is a little off."""
    generator = np.random.default_rng(seed)
    field = cv2.GaussianBlur(generator.normal(size=shape), (0, 0), 6)
    label = np.digitize(field, np.quantile(field, [0.3, 0.7])).astype(np.uint8)
    prediction = np.roll(label, (1, 2), (0, 1))
    label[:5, :7] = 255
    return label, prediction


@pytest.mark.parametrize(("ratio", "shape"), [(0.02, (61, 83)), (0.05, (40, 90)), (0.001, (33, 33)), (0.2, (61, 83))])
def test_the_boundary_is_the_authors(ratio: float, shape: tuple[int, int]) -> None:
    label, _ = maps(shape=shape)
    width = max(1, round(ratio * np.hypot(*shape)))
    for number in range(3):
        mask = (label == number).astype(np.uint8)
        assert (inner_boundary(mask == 1, width) == (mask_to_boundary(mask, ratio) == 1)).all()


def test_the_scores_are_sums_over_the_images() -> None:
    """Intersection and union of the authors' boundaries, added up; ignored pixels are no class's."""
    found = BoundaryScores(4, 255, ratio=0.03)
    intersection, union = np.zeros(4), np.zeros(4)
    for index in range(3):
        label, prediction = maps(index)
        found.add(index, Answer(prediction, label))
        known = np.where(label == 255, 255, prediction)
        for number in range(4):
            own, other = (mask_to_boundary((one == number).astype(np.uint8), 0.03) for one in (label, known))
            intersection[number] += (own & other).sum()
            union[number] += (own | other).sum()
    results = found.results()["boundary"]
    assert results["iou"][:3] == pytest.approx(intersection[:3] / union[:3], rel=1e-12)
    assert results["iou"][3] != results["iou"][3], "a class that occurs nowhere"
    assert results["miou"] == pytest.approx((intersection[:3] / union[:3]).mean(), rel=1e-12)
    assert results["interval"][0] < results["miou"] < results["interval"][1]


def test_bands_are_those_of_brute_force() -> None:
    label, prediction = maps(shape=(24, 31))
    distance = outline_distance(label, 255)
    edge = []
    height, width = label.shape
    for y in range(height):
        for x in range(width):
            near = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
            others = [label[a, b] for a, b in near if 0 <= a < height and 0 <= b < width]
            if label[y, x] != 255 and any(other not in (255, label[y, x]) for other in others):
                edge.append((y, x))
    expected = [[min(np.hypot(y - a, x - b) for a, b in edge) for x in range(width)] for y in range(height)]
    assert distance == pytest.approx(np.array(expected), abs=1e-4)
    found = BoundaryScores(3, 255, widths=(0, 2))
    found.add(0, Answer(prediction, label))
    for row, band in enumerate((0, 2)):
        inside = (np.array(expected) <= band + 1e-6) & (label != 255)
        ious = [
            ((label == k) & (prediction == k) & inside).sum() / (((label == k) | (prediction == k)) & inside).sum()
            for k in range(3)
        ]
        assert found.results()["trimap"]["miou"][row] == pytest.approx(np.mean(ious), rel=1e-12)


def test_a_shift_costs_little_area_and_much_boundary() -> None:
    label = np.zeros((200, 200), np.uint8)
    label[40:160, 40:160] = 1
    found = BoundaryScores(2, 255, widths=(1, 40))
    found.add(0, Answer(np.roll(label, 3, 1), label))
    results = found.results()
    right, union = 120 * 117, 120 * 123
    assert results["boundary"]["iou"][1] < right / union - 0.2
    assert results["trimap"]["miou"][0] < results["trimap"]["miou"][1] < 1
    whole = BoundaryScores(2, 255)
    whole.add(0, Answer(label, label))
    assert whole.results()["boundary"]["miou"] == 1.0
    plain = BoundaryScores(2, 255)
    plain.add(0, Answer(label * 0, label * 0))
    assert plain.results()["trimap"]["miou"][0] != plain.results()["trimap"]["miou"][0], "no outline, no band"


@pytest.mark.parametrize(
    ("values", "message"), [({"ratio": 0.0}, r"boundary=0\.0"), ({"widths": [-1]}, r"trimap=\[-1\]")]
)
def test_wrong_widths(values: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        BoundaryScores(2, 255, **values)
