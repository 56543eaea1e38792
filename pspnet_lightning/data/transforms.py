"""Training augmentation: one affine warp does scale, rotation, flip and crop, on the uint8 crop window alone.

Official code (hszhao/semseg) resizes the whole float image, rotates it, blurs it, flips it, pads it and then cuts
the crop out. All but the blur are affine, so one warp from the source to the crop gives the same picture for
a fraction of the work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from annotated_types import Gt, Interval, Len

from pspnet_lightning.data.colour import ColourJitter, JitterStrengths, erase
from pspnet_lightning.data.mixing import Mixer
from pspnet_lightning.sizes import CropSize

Canvas = tuple[slice, slice]  # rows and columns
Probability = Annotated[float, Interval(ge=0, le=1)]


class TrainTransform:
    """Random scale, rotation, Gaussian blur, horizontal flip and crop, with semseg's parameters as defaults.

    ``transform(image, label, rng)``: uint8 (H, W, C) and uint8 (H, W) to the same of ``crop_size`` (one number or
    height, width). Images are interpolated linearly, labels to the nearest. What lies outside the
    source is filled with ``mean`` (0..255, as the network's normalisation has it) and ``ignore_index``.

    Args:
        scale: range of the uniform factor.
        rotation: degrees, uniform in +-rotation, applied with ``rotation_probability``.
        blur_probability: of a 5 x 5 Gaussian blur.
        flip_probability: of a mirrored image.
        colour_jitter: strengths as ``ColourJitter`` takes them; None: none.
        erasing_probability: of a rectangle filled with the mean, see ``erase``.
        mix: "cutmix", "classmix" or "copy_paste" with a second image, see ``Mixer``; None: none.
        mix_probability, mix_classes: of ``mix``.

    Raises ValueError for sizes below 1, scales not above 0, and probabilities outside 0..1.
    """

    def __init__(
        self,
        crop_size: CropSize,
        *,
        mean: Sequence[float],
        ignore_index: int = 255,
        scale: Annotated[Sequence[Annotated[float, Gt(0)]], Len(2, 2)] = (0.5, 2.0),
        rotation: Annotated[float, Interval(ge=0, le=180)] = 10.0,
        rotation_probability: Probability = 0.5,
        blur_probability: Probability = 0.5,
        flip_probability: Probability = 0.5,
        colour_jitter: JitterStrengths | None = None,
        erasing_probability: Probability = 0.0,
        mix: Literal["cutmix", "classmix", "copy_paste"] | None = None,
        mix_probability: Probability = 0.5,
        mix_classes: Sequence[Annotated[int, Interval(ge=0, le=254)]] = (),
    ) -> None:
        self.height, self.width = as_size(crop_size)
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale={list(scale)} must be [low, high] with 0 < low <= high")
        for name, value in (
            ("rotation_probability", rotation_probability),
            ("blur_probability", blur_probability),
            ("flip_probability", flip_probability),
            ("erasing_probability", erasing_probability),
        ):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} must lie in 0..1")
        self.scale = (float(scale[0]), float(scale[1]))
        self.rotation = rotation
        self.rotation_probability = rotation_probability
        self.blur_probability = blur_probability
        self.flip_probability = flip_probability
        self.fill = tuple(float(round(value)) for value in mean)
        self.ignore_index = ignore_index
        self.colour_jitter = None if colour_jitter is None else ColourJitter(**colour_jitter)
        self.erasing_probability = erasing_probability
        self.mixer = (
            None
            if mix is None
            else Mixer(mix, probability=mix_probability, classes=tuple(mix_classes), ignore_index=ignore_index)
        )

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        # Always the same number of draws in the same order: changing one probability leaves the others' draws alone.
        scale, rotate, angle, blur, flip, top, left = rng.random(7)
        matrix, canvas = crop_matrix(
            label.shape[0],
            label.shape[1],
            self.height,
            self.width,
            scale=self.scale[0] + (self.scale[1] - self.scale[0]) * scale,
            angle=(2 * angle - 1) * self.rotation if rotate < self.rotation_probability else 0.0,
            flip=bool(flip < self.flip_probability),
            top=top,
            left=left,
        )
        size = (self.width, self.height)
        image = _warp_image(image, matrix, size, self.fill, canvas)
        label = cv2.warpAffine(
            label,
            matrix,
            size,
            flags=cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=self.ignore_index,
        )
        _blank_outside(label, canvas, self.ignore_index)
        if blur < self.blur_probability:
            image = cv2.GaussianBlur(image, (5, 5), 0).reshape(image.shape)
        if self.colour_jitter is not None:
            image = self.colour_jitter(image, rng)
        if self.erasing_probability > 0 and rng.random() < self.erasing_probability:
            image = erase(image, self.fill, rng)
        return image, label


class EvalTransform:
    """The image as it is: validation sees whole images at their own size."""

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return image, label


def crop_matrix(
    height: int,
    width: int,
    crop_height: int,
    crop_width: int,
    *,
    scale: float,
    angle: float,
    flip: bool,
    top: float,
    left: float,
) -> tuple[np.ndarray, Canvas]:
    """The 2 x 3 matrix from source to crop pixel centres that equals semseg's sequence of operations, and the canvas.

    ``angle`` in degrees, counter-clockwise; ``top`` and ``left`` in 0..1 choose the crop among all that fit. The
    canvas is the resized image's frame in the crop: what a rotation turns out of it is lost.
    """
    scaled_height, scaled_width = round(height * scale), round(width * scale)
    # Rotation about the scaled image's centre, as cv2.getRotationMatrix2D has it.
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    middle_x, middle_y = scaled_width / 2, scaled_height / 2
    # cv2.resize keeps the image's outer edges in place, which lie half a pixel outside the first centre.
    shift = 0.5 * scale - 0.5
    matrix = np.array(
        [
            [cos * scale, sin * scale, (cos + sin) * shift + (1 - cos) * middle_x - sin * middle_y],
            [-sin * scale, cos * scale, (cos - sin) * shift + sin * middle_x + (1 - cos) * middle_y],
        ]
    )
    if flip:
        matrix[0] *= -1
        matrix[0, 2] += scaled_width - 1
    # Padding is shared by both sides, the smaller half first; a crop is any window of the padded image.
    pad_height, pad_width = max(crop_height - scaled_height, 0), max(crop_width - scaled_width, 0)
    y = _offset(top, scaled_height + pad_height - crop_height) - pad_height // 2
    x = _offset(left, scaled_width + pad_width - crop_width) - pad_width // 2
    matrix[:, 2] -= (x, y)
    canvas = (slice(max(-y, 0), max(scaled_height - y, 0)), slice(max(-x, 0), max(scaled_width - x, 0)))
    return matrix, canvas


def _warp_image(
    image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], fill: tuple[float, ...], canvas: Canvas
) -> np.ndarray:
    """OpenCV's warp for any number of channels; what lies outside ``canvas`` is ``fill``."""
    if image.shape[2] == 3 and image.dtype == np.uint8:
        # Four channels are warped twice as fast as three, with the same values, and blanked as one number a pixel.
        warped = _warp_four(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), matrix, size, (*fill, 255))
        pixel = np.array([*fill, 255], np.uint8).view(np.uint32)[0]
        _blank_outside(warped.view(np.uint32)[..., 0], canvas, pixel)
        return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)
    # A border colour has four values at most.
    parts = [
        _warp_four(image[..., first : first + 4], matrix, size, fill[first : first + 4])
        for first in range(0, image.shape[2], 4)
    ]
    joined = np.concatenate([part.reshape(size[1], size[0], -1) for part in parts], axis=2)
    _blank_outside(joined, canvas, np.array(fill, joined.dtype))
    return joined


def _warp_four(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], fill: tuple[float, ...]) -> np.ndarray:
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=fill)


def _blank_outside(picture: np.ndarray, canvas: Canvas, value: Any) -> None:
    rows, columns = canvas
    picture[: rows.start] = value
    picture[rows.stop :] = value
    picture[:, : columns.start] = value
    picture[:, columns.stop :] = value


def _offset(draw: float, room: int) -> int:
    """A whole number in 0..room, uniform for a uniform draw in [0, 1)."""
    return min(int(draw * (room + 1)), room)


def as_size(size: CropSize) -> tuple[int, int]:
    """One number or (height, width) as (height, width). Raises ValueError for anything else or below 1."""
    values = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, Sequence) else ()
    if len(values) != 2 or not all(isinstance(value, int) and value >= 1 for value in values):
        raise ValueError(f"crop_size={size!r} must be a positive whole number or [height, width]")
    return values[0], values[1]
