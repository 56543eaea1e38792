"""A network with its normalisation: images in their files' units in, logits, labels or probabilities out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, overload

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from pspnet_lightning.data.description import image_reader
from pspnet_lightning.inference import SlidingWindow, predict_probabilities
from pspnet_lightning.inference.ensemble import Ensemble
from pspnet_lightning.inference.finite import require_finite
from pspnet_lightning.inference.given import Given, Several, as_image
from pspnet_lightning.models import exchange_convolutions, prepare_for_inference
from pspnet_lightning.models.normalized import normalized


class SegmentationNetwork(L.LightningModule):
    """What a trained network needs to answer images.

    ``model(x)`` answers logits (N, K, H, W) in eval mode. Images arrive as uint8 (N, C, H, W) and are normalised on
    the device with ``mean`` and ``std`` (0..255 units). Where the network takes ``upsample=False``, labels are found
    without full-size logits. ``fast``: large 3x3 convolutions in float32 on a CPU by fewer products
    (``models.exchange_convolutions``).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        channels_last: bool = True,
        fast: bool = True,
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = (exchange_convolutions(model) if fast else model).to(memory_format=self.memory_format)
        self._answers_low_logits = "upsample" in inspect.signature(model.forward).parameters
        # How files are read as the network was trained on them; a checkpoint's config may choose bands.
        self.reader = image_reader(len(mean), None)
        # Not part of the state dict: they come from the data set's spec, which the checkpoint holds too.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        # What logits are divided by where probabilities are asked for; labels are the same for any.
        self.temperature = 1.0

    def normalize(self, image: Tensor) -> Tensor:
        """uint8 or float (N, C, H, W) in 0..255 -> float32, zero mean and unit variance, channels_last."""
        values = normalized(image, self.get_buffer("mean"), self.get_buffer("std"))
        return values.contiguous(memory_format=self.memory_format)

    def forward(self, image: Tensor) -> Any:
        """uint8 images (N, C, H, W) -> what the network answers: full-size logits (N, K, H, W) in eval mode."""
        return self.model(self.normalize(image))

    def prepare_for_inference(self) -> Self:
        """Exchanges the network for one that answers the same faster, and cannot be trained or saved; returns itself.

        See ``pspnet_lightning.models.prepare_for_inference``.
        """
        self.model = prepare_for_inference(self.model).to(memory_format=self.memory_format)
        return self

    def join(self, others: Sequence[SegmentationNetwork]) -> Self:
        """From now on the mean probability of this network and ``others``, which normalise alike; returns itself."""
        members: list[SegmentationNetwork] = [self, *others]
        self.model = Ensemble([each.model for each in members], [each.temperature for each in members])
        self.temperature = 1.0
        self._answers_low_logits = False
        return self

    @overload
    def predict(self, image: Given, protocol: SlidingWindow | None = None) -> np.ndarray: ...

    @overload
    def predict(self, image: Several, protocol: SlidingWindow | None = None) -> list[np.ndarray]: ...

    def predict(self, image: Given | Several, protocol: SlidingWindow | None = None) -> Any:
        """The label map uint8 (H, W) of an image at its own size; of a list of images a list.

        ``image``: a path, an array (H, W, C), a Pillow image or a tensor (C, H, W), in its file's own units, see
        ``given.as_image``: uint8 for networks of photographs. ``protocol`` says how; None: the whole image in one
        pass. Raises ValueError for what would be misread, and where the answer holds values that are no finite
        numbers.
        """
        if isinstance(image, list | tuple):
            return [self._predict(one, protocol) for one in image]
        return self._predict(image, protocol)

    @torch.inference_mode()
    def _predict(self, image: Given, protocol: SlidingWindow | None) -> np.ndarray:
        pixels = torch.from_numpy(np.ascontiguousarray(self._checked(image))).permute(2, 0, 1).to(self.device)
        with self._in_eval_mode():
            if protocol is None or protocol.is_one_pass:
                labels = self._labels(pixels[None])[0]
            else:
                labels = self._slide(pixels, protocol).argmax(dim=0)
        return labels.to(torch.uint8).cpu().numpy()

    @torch.inference_mode()
    def predict_probabilities(self, image: Given, protocol: SlidingWindow | None = None) -> np.ndarray:
        """Class probabilities float32 (K, H, W) of one image; see ``predict``."""
        pixels = torch.from_numpy(np.ascontiguousarray(self._checked(image))).permute(2, 0, 1)
        with self._in_eval_mode():
            found = self._slide(pixels, protocol or SlidingWindow(None, flip=False))
            return self.calibrated(found).cpu().numpy()

    def calibrated(self, probabilities: Tensor) -> Tensor:
        """Probabilities (K, ...) by the network's temperature: of one pass, as if its logits were divided by it.

        After windows, scales and mirror images were averaged, so that the most likely class stays the same.
        """
        if self.temperature == 1:
            return probabilities
        tiny = torch.finfo(probabilities.dtype).tiny
        return probabilities.clamp_min(tiny).log_().div_(self.temperature).softmax(dim=0)

    def _labels(self, images: Tensor) -> Tensor:
        """Labels (N, H, W) of whole images (N, C, H, W) in one pass."""
        if self._answers_low_logits:
            low = self.model(self.normalize(images), upsample=False)
            require_finite(low.values)
            return low.labels()
        logits = self(images)
        require_finite(logits)
        return logits.argmax(dim=1)

    def _slide(self, image: Tensor, protocol: SlidingWindow) -> Tensor:
        """Probabilities (K, H, W) of an image (C, H, W)."""
        mean, std = (self.get_buffer(name).flatten().tolist() for name in ("mean", "std"))
        return predict_probabilities(
            self.model, image.permute(1, 2, 0), protocol, mean=mean, std=std, device=self.device
        )

    def _checked(self, image: Given) -> np.ndarray:
        return as_image(image, self.get_buffer("mean").shape[1], self.reader)

    @contextmanager
    def _in_eval_mode(self) -> Iterator[None]:
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)
