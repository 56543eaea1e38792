"""Outputs of one image: index PNG or TIFF, overlay, probabilities; each written beside its target and renamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pspnet_lightning.data import DataSpec
from pspnet_lightning.data.rasters import Georeference, regrouped, write_label_tiff
from pspnet_lightning.disk import replacing
from pspnet_lightning.visualize import overlay_with_legend, save_png

# Long side of the overlay of an image that streams.
_OVERVIEW = 2048


@dataclass(frozen=True)
class Outputs:
    """What is wanted of each image. Raises ValueError if that is nothing."""

    index: bool = True
    overlay: bool = True
    probabilities: bool = False
    opacity: float = 0.5

    def __post_init__(self) -> None:
        if not (self.index or self.overlay or self.probabilities):
            raise ValueError("index=false overlay=false probabilities=false leaves nothing to write")
        if not 0 <= self.opacity <= 1:
            raise ValueError(f"opacity={self.opacity} must lie in 0..1")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Writer:
    """Writes below ``folder``: ``index/``, ``overlay/`` and ``probabilities/``, named like the inputs.

    Methods answer the files, relative to ``folder``. Index maps hold class indices, with the palette; those of
    images with a georeference are TIFFs that keep it.
    """

    def __init__(self, folder: Path, spec: DataSpec, outputs: Outputs) -> None:
        self.folder, self.spec, self.outputs = folder, spec, outputs

    def image(
        self,
        stem: Path,
        image: np.ndarray,
        labels: np.ndarray,
        probabilities: np.ndarray | None,
        tags: Georeference,
    ) -> list[Path]:
        """The outputs of an image (H, W, C) with labels (H, W) and, if wanted, probabilities (K, H, W)."""
        files = []
        if self.outputs.index:
            files.append(self._path("index", stem, ".tif" if tags else ".png"))
            if tags:
                height, width = labels.shape
                write_label_tiff(self.folder / files[-1], [labels], height, width, self.spec.palette, tags)
            else:
                save_png(labels, self.folder / files[-1], self.spec.palette)
        if self.outputs.overlay:
            files.append(self._path("overlay", stem, ".png"))
            save_png(overlay_with_legend(image, labels, self.spec, self.outputs.opacity), self.folder / files[-1])
        if probabilities is not None:
            files.append(self._path("probabilities", stem, ".npz"))
            self._save_probabilities(probabilities, self.folder / files[-1])
        return files

    def stream(
        self,
        stem: Path,
        rows: Callable[[int, int], np.ndarray],
        bands: Iterable[np.ndarray],
        height: int,
        width: int,
        *,
        tiff: bool,
        tags: Georeference,
    ) -> list[Path]:
        """The outputs of an image whose labels arrive in bands of rows from top to bottom.

        A TIFF is written as they arrive, a PNG at the end. The overlay is reduced to at most ``_OVERVIEW`` pixels.
        """
        overview = _Overview(rows, height, width) if self.outputs.overlay else None
        seen = bands if overview is None else overview.watch(bands)
        files = []
        if self.outputs.index and tiff:
            files.append(self._path("index", stem, ".tif"))
            write_label_tiff(self.folder / files[-1], seen, height, width, self.spec.palette, tags)
        elif self.outputs.index:
            files.append(self._path("index", stem, ".png"))
            save_png(np.concatenate(list(seen)), self.folder / files[-1], self.spec.palette)
        else:
            for _ in seen:
                pass
        if overview is not None:
            files.append(self._path("overlay", stem, ".png"))
            picture = overlay_with_legend(overview.image, overview.labels, self.spec, self.outputs.opacity)
            save_png(picture, self.folder / files[-1])
        return files

    def _path(self, kind: str, stem: Path, suffix: str) -> Path:
        path = Path(kind, f"{stem}{suffix}")
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        return path

    def _save_probabilities(self, probabilities: np.ndarray, path: Path) -> None:
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, probabilities=probabilities.astype(np.float16), classes=np.array(self.spec.classes))


class _Overview:
    """A reduced image with its labels, put together while the labels pass by."""

    def __init__(self, rows: Callable[[int, int], np.ndarray], height: int, width: int) -> None:
        self._rows, self._width = rows, width
        self._step = -(-max(height, width) // _OVERVIEW)
        self._images: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def watch(self, bands: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        top, step = 0, self._step
        for band in regrouped(bands, 64 * step):
            yield band
            pixels = np.ascontiguousarray(self._rows(top, top + len(band))[..., :3])
            size = (-(-self._width // step), -(-len(band) // step))
            reduced = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            self._images.append(reduced.reshape(size[1], size[0], -1))
            self._labels.append(band[::step, ::step])
            top += len(band)

    @property
    def image(self) -> np.ndarray:
        return np.concatenate(self._images)

    @property
    def labels(self) -> np.ndarray:
        return np.concatenate(self._labels)
