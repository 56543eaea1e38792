"""What a configuration names, as types with their ranges: sizes of images and of the pyramid's grids, scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from annotated_types import Interval, Len, Predicate

Pixels = Annotated[int, Interval(ge=1, le=32767)]  # OpenCV's largest
CropSize = Pixels | Annotated[Sequence[Pixels], Len(2, 2)]  # a square's side, or height and width


def distinct(values: Sequence[int]) -> bool:
    """No two alike."""
    return len(set(values)) == len(values)


Bins = Annotated[
    Sequence[Annotated[int, Interval(ge=1, le=512)]], Predicate(distinct)
]  # the pyramid's grid sizes; empty: no pyramid

Further = Literal["boundary", "surface", "calibration", "auc"]  # scores that take longer; see ``metrics.further``
