"""How one of the embedded scenes is drawn; what it is about: see ``scenes``."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

SETTINGS = ("river", "street", "meadow")
# Labels. The last three are of the river; the street's and the meadow's follow each.
SKY, MIST, GROUND, HULL, POST = 0, 1, 2, 5, 8

_PAINT = ((200, 70, 60), (60, 110, 190), (235, 190, 70), (240, 240, 235), (80, 150, 90), (120, 80, 130))
_GROUND = ((70, 120, 175), (110, 108, 112), (110, 165, 85))
_CLEARANCE = 0.30  # least distance between a clearing and a thing, as a share of the shorter side


def draw_scene(rng: np.random.Generator, setting: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """One scene: image uint8 (H, W, 3) and label uint8 (H, W). ``setting`` indexes ``SETTINGS``.

    The draws of ``rng`` do not depend on the setting: the same generator with another setting gives the same
    scene over another ground, its things unchanged to the pixel.
    """
    height, width = size
    unit = min(size)
    horizon = round(height * rng.uniform(0.14, 0.24))
    label = np.full(size, MIST, np.uint8)
    label[:horizon] = SKY
    backdrop = _backdrop(rng, height, width, horizon)

    clearings = [_clearing(rng, height, width, horizon, unit) for _ in range(rng.integers(1, 3))]
    opened = np.zeros(size, np.float32)
    for centre, axes, tilt in clearings:
        cv2.ellipse(opened, centre, axes, tilt, 0, 360, 1.0, -1)
    opened[:horizon] = 0
    label[opened == 1] = GROUND + setting
    # A soft rim: mist drifts over the clearing's edge.
    share = cv2.GaussianBlur(opened, (0, 0), 0.01 * unit)[..., None]
    image = backdrop + share * (_ground(rng, setting, height, width) - backdrop)
    image += rng.normal(0, 4.0, size).astype(np.float32)[..., None]
    image = np.clip(image, 0, 255).astype(np.uint8)

    places: list[tuple[int, int]] = []
    for _ in range(rng.integers(3, 6)):
        kind, seed = int(rng.integers(0, 2)), int(rng.integers(0, 2**31))
        place = _free_place(rng, height, width, horizon, unit, clearings, places)
        if place is not None:
            places.append(place)
            draw = _hull if kind == 0 else _post
            draw(
                np.random.default_rng(seed),
                image,
                label,
                place,
                unit,
                (HULL if kind == 0 else POST) + setting,
            )
    return image, label


def _backdrop(rng: np.random.Generator, height: int, width: int, horizon: int) -> np.ndarray:
    """Sky above, mist below, both of a colour of the day; float32 (H, W, 3)."""
    image = np.empty((height, width, 3), np.float32)
    day = rng.uniform(-12, 12, 3)
    down = np.linspace(0, 1, max(horizon, 1), dtype=np.float32)[:, None, None]
    image[:horizon] = np.array([125, 175, 225]) + day + down * np.array([60, 35, 5])
    for _ in range(rng.integers(1, 4)):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, max(horizon, 2))))
        axes = (int(rng.integers(width // 16, width // 7)), int(rng.integers(1, 4)))
        cv2.ellipse(image[:horizon], centre, axes, 0, 0, 360, (240, 242, 246), -1)
    image[horizon:] = np.array([196, 198, 203]) + day * 0.5 + _drift(rng, height - horizon, width, 9.0)
    return image


def _drift(rng: np.random.Generator, height: int, width: int, strength: float) -> np.ndarray:
    """Slow clouds of brightness, (H, W, 1)."""
    coarse = rng.normal(0, strength, (6, 6)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]


def _clearing(
    rng: np.random.Generator, height: int, width: int, horizon: int, unit: int
) -> tuple[tuple[int, int], tuple[int, int], float]:
    centre = (int(rng.integers(0, width)), int(rng.integers(horizon + unit // 8, height)))
    axes = (round(unit * rng.uniform(0.13, 0.19)), round(unit * rng.uniform(0.09, 0.13)))
    return centre, axes, float(rng.uniform(-20, 20))


def _ground(rng: np.random.Generator, setting: int, height: int, width: int) -> np.ndarray:
    """Water with waves, a road with stones, or grass with blades; float32 (H, W, 3)."""
    shade, angle, phase = rng.uniform(-10, 10), rng.uniform(-0.3, 0.3), rng.uniform(0, 6.28)
    speckle = rng.normal(0, 1, (height, width)).astype(np.float32)
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    if setting == 0:
        texture = 22 * np.sin(1.1 * (y + angle * x) + phase + np.sin(0.16 * x))
    elif setting == 1:
        texture = 16 * speckle
    else:
        texture = 22 * np.sin(1.8 * (x + angle * y) + phase + 2 * np.sin(0.5 * y))
    return np.array(_GROUND[setting], np.float32) + shade + texture[..., None]


def _free_place(
    rng: np.random.Generator,
    height: int,
    width: int,
    horizon: int,
    unit: int,
    clearings: Sequence[tuple[tuple[int, int], tuple[int, int], float]],
    taken: Sequence[tuple[int, int]],
) -> tuple[int, int] | None:
    """A spot in the mist, away from clearings and from other things; None if twenty tries find none."""
    margin = unit // 7
    for x, y in zip(
        rng.integers(margin, width - margin, 20),
        rng.integers(horizon + margin, height - margin // 2, 20),
        strict=True,
    ):
        far = all(
            np.hypot(x - centre[0], y - centre[1]) > max(axes) + _CLEARANCE * unit for centre, axes, _ in clearings
        )
        if far and all(abs(x - a) > unit * 0.32 or abs(y - b) > unit * 0.32 for a, b in taken):
            return int(x), int(y)
    return None


def _hull(
    rng: np.random.Generator,
    image: np.ndarray,
    label: np.ndarray,
    place: tuple[int, int],
    unit: int,
    value: int,
) -> None:
    """A body with a cabin: boat, car or tractor."""
    paint, cabin = rng.choice(len(_PAINT), 2, replace=False)
    length, side = unit * rng.uniform(0.13, 0.16), 1 if rng.random() < 0.5 else -1
    rise = length * rng.uniform(0.65, 0.8)
    bow = rng.uniform(0.95, 1.1)
    cabin_shape = [(-0.62, -0.05), (-0.5, -0.9), (0.2, -0.9), (0.45, -0.05)]
    window = [(-0.36, -0.25), (-0.3, -0.7), (0.08, -0.7), (0.22, -0.25)]
    body = [(-1, -0.1), (bow, -0.1), (0.75, 0.8), (-0.8, 0.8)]
    keel = [(-0.86, 0.5), (0.84, 0.5), (0.75, 0.8), (-0.8, 0.8)]
    scale = np.array([side * length, rise])
    for shape, colour in (
        (cabin_shape, _PAINT[cabin]),
        (window, (60, 70, 85)),
        (body, _PAINT[paint]),
        (keel, (50, 48, 55)),
    ):
        corners = np.round((np.array(place) + scale * np.array(shape)) * 16).astype(np.int32)
        cv2.fillPoly(image, [corners], colour, cv2.LINE_AA, shift=4)
        cv2.fillPoly(label, [corners], value, cv2.LINE_8, shift=4)


def _post(
    rng: np.random.Generator,
    image: np.ndarray,
    label: np.ndarray,
    place: tuple[int, int],
    unit: int,
    value: int,
) -> None:
    """A pole with a ball on top: buoy, lamp or sapling."""
    paint = _PAINT[int(rng.integers(0, len(_PAINT)))]
    tall, radius = unit * rng.uniform(0.17, 0.21), unit * rng.uniform(0.08, 0.10)
    foot, head = place[1] + tall / 2, place[1] - tall / 2
    half = unit / 26
    pole = [
        (place[0] - half, head),
        (place[0] + half, head),
        (place[0] + half, foot),
        (place[0] - half, foot),
    ]
    corners = np.round(np.array(pole) * 16).astype(np.int32)
    centre = (round(place[0] * 16), round(head * 16))
    lit = tuple(min(255, part + 35) for part in paint)
    cv2.fillPoly(image, [corners], (70, 62, 58), cv2.LINE_AA, shift=4)
    cv2.circle(image, centre, round(radius * 16), paint, -1, cv2.LINE_AA, shift=4)
    glint = (round((place[0] - radius * 0.3) * 16), round((head - radius * 0.3) * 16))
    cv2.circle(image, glint, round(radius * 5), lit, -1, cv2.LINE_AA, shift=4)
    cv2.fillPoly(label, [corners], value, cv2.LINE_8, shift=4)
    cv2.circle(label, centre, round(radius * 16), value, -1, cv2.LINE_8, shift=4)
