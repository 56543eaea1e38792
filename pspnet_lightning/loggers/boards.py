"""What a logger that shows more than curves is asked to show, and which of the trainer's loggers do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import lightning as L
import numpy as np

from pspnet_lightning.data import DataSpec
from pspnet_lightning.visualize import SheetItem, as_rgb

# Curves whose best value counts, not the last one, and which value that is.
BEST_VALUES = {"val/miou": "max", "val/loss": "min", "train/loss": "min"}
# Columns of the table of classes that are none.
NO_CLASS = ("epoch", "step", "mIoU")
# Pictures are sent so wide at most: a panel shows no more, and they are sent every epoch.
PICTURE_WIDTH = 768


@dataclass(frozen=True)
class Picture:
    """An image uint8 (H, W, 3) at most ``PICTURE_WIDTH`` wide, truth and prediction (H, W), and a caption."""

    rgb: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    caption: str


def as_pictures(items: Sequence[SheetItem], ignore_index: int) -> list[Picture]:
    """The rows of a sheet made small enough to be sent, all of one size: narrower ones get a margin that is ignored."""
    pictures = [_small(item) for item in items]
    height = max((picture.label.shape[0] for picture in pictures), default=0)
    width = max((picture.label.shape[1] for picture in pictures), default=0)

    def padded(array: np.ndarray, value: int) -> np.ndarray:
        below, right = height - array.shape[0], width - array.shape[1]
        return np.pad(array, ((0, below), (0, right), (0, 0))[: array.ndim], constant_values=value)

    return [
        replace(
            picture,
            rgb=padded(picture.rgb, 255),
            label=padded(picture.label, ignore_index),
            prediction=padded(picture.prediction, ignore_index),
        )
        for picture in pictures
    ]


def _small(item: SheetItem) -> Picture:
    scale = min(1.0, PICTURE_WIDTH / item.label.shape[1])
    size = (round(item.label.shape[1] * scale), max(1, round(item.label.shape[0] * scale)))

    def small(array: np.ndarray, interpolation: int) -> np.ndarray:
        return array if scale == 1 else cv2.resize(array, size, interpolation=interpolation)

    return Picture(
        rgb=small(as_rgb(item.image), cv2.INTER_AREA),
        label=small(item.label.astype(np.uint8), cv2.INTER_NEAREST),
        prediction=small(item.prediction.astype(np.uint8), cv2.INTER_NEAREST),
        caption="/".join(Path(item.name).parts[-2:]),  # not where the files lie on this machine
    )


class Board(ABC):
    """A logger that shows pictures, tables and the confusion matrix beside the scalars. Rank 0 only."""

    @abstractmethod
    def show_pictures(self, key: str, items: Sequence[SheetItem], sheet: np.ndarray, spec: DataSpec, step: int) -> None:
        """``sheet`` shows the same ``items``, in the data set's colours."""

    @abstractmethod
    def show_classes(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """``rows`` are those of all validations so far, the newest last; None where a class is absent."""

    @abstractmethod
    def show_confusion(
        self, key: str, shares: np.ndarray, picture: np.ndarray, classes: Sequence[str], step: int
    ) -> None:
        """``shares`` (K, K), each row (truth) sums to 1, and a picture of them."""

    @abstractmethod
    def show_config(self, config: Mapping[str, Any]) -> None:
        """The resolved config."""

    @abstractmethod
    def show_best(self, values: Mapping[str, float], step: int) -> None:
        """The scores of the best checkpoint."""

    @abstractmethod
    def state(self) -> dict[str, Any] | None:
        """Puts all that was logged on the disk; what a checkpoint shall hold of it, plain types."""

    @abstractmethod
    def resume_from(self, state: Mapping[str, Any] | None, checkpoint: Path, step: int) -> None:
        """Before the first row: goes on after ``checkpoint``, of optimiser step ``step``, which holds ``state``."""

    @abstractmethod
    def end(self, *, failed: bool) -> None:
        """After the last row."""


def boards(trainer: L.Trainer) -> list[Board]:
    """The trainer's loggers that show pictures; none on other ranks than 0."""
    return [logger for logger in trainer.loggers if isinstance(logger, Board)] if trainer.is_global_zero else []


def logged_step(trainer: L.Trainer) -> int:
    """The step under which Lightning logs scalars now: the last optimiser step's number, counted from 0."""
    # The trainer's own counter is ahead of it by one, but not in `trainer.validate`.
    return trainer.fit_loop.epoch_loop._batches_that_stepped
