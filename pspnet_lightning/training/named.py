"""A network that knows the names and colours of its classes."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from annotated_types import Interval

from pspnet_lightning.data.specs import Colour, DataSpec
from pspnet_lightning.inference.given import Given
from pspnet_lightning.inference.network import SegmentationNetwork
from pspnet_lightning.visualize.sheets import as_rgb, overlay


class NamedNetwork(SegmentationNetwork):
    """``description`` holds what a checkpoint says of its data set."""

    description: dict[str, Any] | None = None

    @property
    def spec(self) -> DataSpec:
        """The data set that it was trained on. Raises ValueError for a module that was made without a description."""
        if self.description is None:
            raise ValueError("this module was made without description=: it knows no names and colours of its classes")
        return DataSpec.from_dict(self.description["spec"])

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels that ``predict`` answers."""
        return self.spec.classes

    @property
    def palette(self) -> tuple[Colour, ...]:
        """The colour (red, green, blue) of each class, 0..255."""
        return self.spec.palette

    def overlay(
        self, image: Given, labels: np.ndarray, opacity: Annotated[float, Interval(ge=0, le=1)] = 0.5
    ) -> np.ndarray:
        """The classes' colours over an image, uint8 (H, W, 3), without a legend.

        ``image`` is what ``predict`` takes, ``labels`` (H, W) what it answers. Raises ValueError where their sizes
        differ.
        """
        picture = as_rgb(self._checked(image))
        if labels.shape != picture.shape[:2]:
            raise ValueError(
                f"labels of shape {labels.shape} for an image of {picture.shape[:2]}: (H, W) must be alike"
            )
        return overlay(picture, labels, self.palette, opacity)
