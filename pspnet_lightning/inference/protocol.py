"""How an image is predicted: window, scales, mirroring. The numbers that a published score depends on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SlidingWindow:
    """A protocol: the arguments of ``sliding_window`` that do not belong to an image or a network.

    ``crop_size`` is one number or (height, width); None: one window that holds the whole resized image. ``base_size``
    is the long side that scale 1 resizes to; None: the image's own. ``batch_size``: the crops in one forward pass
    (twice as many images with ``flip``).

    Raises ValueError for sizes and rates that make no window.
    """

    crop_size: int | tuple[int, int] | None
    base_size: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = True
    stride_rate: float = 2 / 3
    batch_size: int = 4
    crop: tuple[int, int] | None = field(init=False)

    def __post_init__(self) -> None:
        size = self.crop_size
        crop = (size, size) if isinstance(size, int) else size
        if crop is not None:
            if len(crop) != 2 or min(crop) < 1:
                raise ValueError(f"crop_size={size!r} must be a positive number, (height, width) or None")
            crop = (int(crop[0]), int(crop[1]))
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales={list(self.scales)} must name at least one factor above 0")
        if not 0 < self.stride_rate <= 1:
            raise ValueError(f"stride_rate={self.stride_rate} must lie in 0..1, above 0: crops must not leave gaps")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1")
        if self.base_size is not None and self.base_size < 1:
            raise ValueError(f"base_size={self.base_size} must be at least 1, or None")
        object.__setattr__(self, "crop", crop)

    @property
    def is_one_pass(self) -> bool:
        """Whether this is the network's own answer: the whole image at its own size, not mirrored."""
        return self.crop is None and self.base_size is None and self.scales == (1.0,) and not self.flip

    def scaled_size(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """The size that an image is resized to for a scale: its long side is ``round(scale * base_size)``."""
        if self.base_size is None and scale == 1:
            return height, width
        long_side = round(scale * (self.base_size or max(height, width)))
        if height > width:
            return long_side, max(1, round(long_side / height * width))
        return max(1, round(long_side / width * height)), long_side

    def to_dict(self) -> dict[str, Any]:
        """All numbers, as plain types, for a record of results."""
        return {
            "crop_size": "whole" if self.crop is None else list(self.crop),
            "base_size": self.base_size,
            "scales": list(self.scales),
            "flip": self.flip,
            "stride_rate": self.stride_rate,
            "batch_size": self.batch_size,
        }
