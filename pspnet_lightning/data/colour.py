"""Colour jitter and random erasing, on the crop."""

from __future__ import annotations

from typing import Annotated, TypedDict

import cv2
import numpy as np
from annotated_types import Interval


class JitterStrengths(TypedDict, total=False):
    """The arguments of ``ColourJitter``."""

    brightness: Annotated[float, Interval(ge=0, le=1)]
    contrast: Annotated[float, Interval(ge=0, le=1)]
    saturation: Annotated[float, Interval(ge=0, le=1)]
    hue: Annotated[float, Interval(ge=0, le=0.5)]


class ColourJitter:
    """Brightness, contrast, saturation and hue, each by a uniform factor or shift, as torchvision's ColorJitter.

    Args:
        brightness, contrast, saturation: the factor is uniform in 1 - v .. 1 + v, v in 0..1.
        hue: the shift is uniform in +-hue of the colour circle, 0..0.5.

    8-bit RGB images only; others get brightness and contrast alone.
    """

    def __init__(
        self, *, brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4, hue: float = 0.05
    ) -> None:
        for name, value, highest in (
            ("brightness", brightness, 1.0),
            ("contrast", contrast, 1.0),
            ("saturation", saturation, 1.0),
            ("hue", hue, 0.5),
        ):
            if not 0 <= value <= highest:
                raise ValueError(f"colour_jitter.{name}={value} must lie in 0..{highest}")
        self.brightness, self.contrast, self.saturation, self.hue = brightness, contrast, saturation, hue

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        draws = 2 * rng.random(4) - 1
        rgb = image.dtype == np.uint8 and image.shape[2] == 3
        gain, contrast = 1 + draws[0] * self.brightness, 1 + draws[1] * self.contrast
        # y = contrast * (gain x - mean) + mean: one linear map, by table for 8 bits.
        grey = gain * float(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] if rgb else image.mean())
        scale, shift = contrast * gain, (1 - contrast) * grey
        if image.dtype != np.uint8:
            return image * np.float32(scale) + np.float32(shift)
        table = np.clip(np.arange(256) * scale + shift, 0, 255).round().astype(np.uint8)
        image = cv2.LUT(image, table)
        if not rgb:
            return image.reshape(image.shape[0], image.shape[1], -1)
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)  # 8-bit hue counts in steps of two degrees
        values = np.arange(256)
        tables = np.stack(
            [
                (values + round(draws[3] * self.hue * 180)) % 180,
                np.clip(values * (1 + draws[2] * self.saturation), 0, 255).round(),
                values,
            ],
            axis=-1,
        ).astype(np.uint8)
        return cv2.cvtColor(cv2.LUT(hsv, tables[None]), cv2.COLOR_HSV2RGB)


def erase(image: np.ndarray, fill: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """A rectangle of 2 to 20 % of the area, aspect 0.3 to 3.3, filled with ``fill`` (Zhong et al. 2020).

    The label stays: what is hidden must be concluded from the surroundings.
    """
    area, aspect, y, x = rng.random(4)
    pixels = (0.02 + 0.18 * area) * image.shape[0] * image.shape[1]
    ratio = float(np.exp((2 * aspect - 1) * np.log(3.3)))
    height = min(image.shape[0], max(1, round(float(np.sqrt(pixels * ratio)))))
    width = min(image.shape[1], max(1, round(float(np.sqrt(pixels / ratio)))))
    top, left = int(y * (image.shape[0] - height + 1)), int(x * (image.shape[1] - width + 1))
    image[top : top + height, left : left + width] = fill
    return image
