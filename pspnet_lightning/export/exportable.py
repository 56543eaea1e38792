"""A network as one program for files: the same function, in operations that carry dynamic sizes and no device."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pspnet_lightning.models.abilities import demand
from pspnet_lightning.models.fast import restore_convolutions
from pspnet_lightning.models.normalized import normalized
from pspnet_lightning.models.portable import PortableHead, portable
from pspnet_lightning.models.pspnet import Composed


class ExportableProgram(nn.Module):
    """A network from images to logits or labels, for ``torch.export``, ``torch.onnx`` and ``torch.jit.trace``.

    ``program(image)``: (N, C, H, W) of sides of twice the output stride or more; answers logits (N, K, H, W), float32,
    or with ``labels`` the label map (N, H, W), uint8. Equal to ``model.eval()`` up to float32 rounding. Images are
    normalised, or with ``mean`` and ``std`` (each channel's, in the images' units) any number type as in their files.

    With ``bfloat16`` the backbone is computed in it, and the large convolution of the paper's head, all else in
    float32; the model's BatchNorms must have been folded. ``temperature`` divides the logits.
    Raises ValueError where a network has no backbone and head.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        labels: bool = False,
        channels_last: bool = True,
        bfloat16: bool = False,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        # Files are run by other kernels, and so is their check while they are written.
        self.network = portable(restore_convolutions(copy.deepcopy(model)))
        self.labels = labels
        self.temperature = temperature
        self.normalize = mean is not None
        self.channels_last = channels_last
        if mean is not None and std is not None:
            device = next(model.parameters()).device
            self.register_buffer("mean", torch.tensor(mean, device=device).view(1, -1, 1, 1))
            self.register_buffer("std", torch.tensor(std, device=device).view(1, -1, 1, 1))
        self.in_bfloat16 = bfloat16
        if bfloat16:
            demand(self.network, Composed, "precision=bfloat16")
            self.network.get_submodule("backbone").to(torch.bfloat16)
            head = self.network.get_submodule("head")
            if isinstance(head, PortableHead) and head.fusion is None:
                head.features.to(torch.bfloat16)
            else:
                self.network.head = _InFloat32(head)
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        x = image
        if self.normalize:
            x = normalized(x, self.get_buffer("mean"), self.get_buffer("std"))
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        if self.in_bfloat16:
            x = x.to(torch.bfloat16)
        logits = self.network(x)
        if self.temperature != 1 and not self.labels:
            logits = logits / self.temperature
        return logits.argmax(dim=1).to(torch.uint8) if self.labels else logits


class _InFloat32(nn.Module):
    """A head whose features arrive in another precision."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.head([each.to(torch.float32) for each in features])
