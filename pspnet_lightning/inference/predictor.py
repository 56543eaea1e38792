"""A network with a protocol: from an image, read or streamed, to labels and probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
import torch

from pspnet_lightning.inference import SlidingWindow, label_rows
from pspnet_lightning.inference.network import SegmentationNetwork

_PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def device_of(name: str) -> torch.device:
    """A device by its name, "auto" for the accelerator if there is one. Raises ValueError where it cannot be used."""
    if name == "auto":
        name = str(torch.accelerator.current_accelerator() or "cpu") if torch.accelerator.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


class Predictor:
    """Predicts with ``module`` by ``protocol`` on ``device`` ("auto", "cpu", "cuda", "cuda:1", "mps", ...).

    ``crop`` is the window for images that are predicted row by row where the protocol takes images whole. Raises
    ValueError for a device or precision that there is not.
    """

    def __init__(
        self,
        module: SegmentationNetwork,
        protocol: SlidingWindow,
        crop: tuple[int, int],
        *,
        device: str = "auto",
        precision: str = "32-true",
    ) -> None:
        if precision not in _PRECISIONS:
            raise ValueError(f"precision={precision!r} must be one of {', '.join(_PRECISIONS)}")
        self.device = device_of(device)
        self.module = module.eval().to(self.device)
        self.protocol = protocol
        self.window = protocol if protocol.crop is not None else replace(protocol, crop_size=crop)
        self._dtype = _PRECISIONS[precision]

    def labels(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W) of an image (H, W, C)."""
        with self._autocast():
            return self.module.predict(image, self.protocol)

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """float32 (K, H, W) of an image (H, W, C)."""
        with self._autocast():
            return self.module.predict_probabilities(image, self.protocol)

    def stream(self, rows: Callable[[int, int], np.ndarray], height: int, width: int) -> Iterator[np.ndarray]:
        """Bands of labels uint8 (r, W), from top to bottom, of an image that ``rows(top, bottom)`` answers."""
        mean, std = (self.module.get_buffer(name).flatten().tolist() for name in ("mean", "std"))
        bands = label_rows(self.module.model, rows, height, width, self.window, mean=mean, std=std, device=self.device)
        while True:
            # The consumer runs between two bands: it must not be under autocast.
            with self._autocast():
                band = next(bands, None)
            if band is None:
                return
            yield band[1]

    def _autocast(self) -> AbstractContextManager[object]:
        return nullcontext() if self._dtype is None else torch.autocast(self.device.type, dtype=self._dtype)
