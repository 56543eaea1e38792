"""The loss of a validation: of all its images, however they lie in batches and ranks."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from pspnet_lightning.models.upsampling import LowLogits, images_of
from pspnet_lightning.training.losses.criterion import Criterion, SumsOverPixels, as_sums


class ValidationLoss(Metric):
    """Adds up each image's sums; the value is that of all valid pixels as one batch.

    For a mean over pixels and for overlaps that is exact. Lovasz-softmax sorts each image for itself, and a criterion
    that can only be called is averaged over images by their numbers of valid pixels. Raises ValueError where the
    criterion does not fit ``num_classes``.
    """

    full_state_update = False
    total: Tensor
    _criterion: SumsOverPixels

    def __init__(self, criterion: Criterion, num_classes: int, *, ignore_index: int = 255) -> None:
        super().__init__()
        # Beside the module that owns it: no parameter or buffer of the criterion may appear twice in a state dict.
        object.__setattr__(self, "_criterion", as_sums(criterion, ignore_index))
        with torch.no_grad():
            # A rank without an image must know the shapes too.
            blank = self._criterion.sums(
                torch.zeros(1, num_classes, 1, 1), torch.full((1, 1, 1), ignore_index, dtype=torch.long)
            )
        self._shapes = {name: value.shape for name, value in blank.items()}
        size = sum(shape.numel() for shape in self._shapes.values())
        self.add_state("total", torch.zeros(size), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, logits: Tensor | LowLogits, target: Tensor) -> None:
        """Logits (N, K, H, W) or ``LowLogits`` and target int64 (N, H, W): of each image for itself."""
        for i, image in enumerate(images_of(logits)):
            sums = self._criterion.sums(image, target[i : i + 1])
            self.total += torch.cat([value.flatten() for value in sums.values()]).to(self.total.dtype)

    def compute(self) -> Tensor:
        pieces = self.total.split([shape.numel() for shape in self._shapes.values()])
        return self._criterion.value(
            {name: piece.view(shape) for (name, shape), piece in zip(self._shapes.items(), pieces, strict=True)}
        )
