"""A network made ready for inference: the same function with less to do at each image."""

from __future__ import annotations

import copy
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pspnet_lightning.models.fast.convolution import exchange_convolutions
from pspnet_lightning.models.fast.folding import fold_batchnorm
from pspnet_lightning.models.fast.winograd import TWO, convolve, transform


@runtime_checkable
class SplitsConvolution(Protocol):
    """A module that convolves with a part of its weight: ``split_convolution`` makes that a module, ``own_conv``."""

    own_conv: Any

    def split_convolution(self) -> None: ...


def prepare_for_inference(model: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A copy of ``model`` for inference in channels_last: BatchNorm folded, the head's convolution split.

    Logits equal those of ``model.eval()`` up to float32 rounding. ``dtype=torch.bfloat16`` (or float16) is for running
    under autocast: weights are rounded once instead of at each call. The copy takes no gradients and is not for
    training or saving.

    Raises ValueError for a ``dtype`` that is no floating-point type.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype={dtype!r} must be a floating-point torch.dtype")
    try:
        prepared = fold_batchnorm(model)
    except ValueError:  # they stay: the same function
        prepared = copy.deepcopy(model).eval()
    for module in list(prepared.modules()):
        if isinstance(module, SplitsConvolution):
            module.split_convolution()
            if module.own_conv is not None and dtype not in (torch.float32, torch.float64):
                # Only these, a quarter of all products: in all layers the larger rounding would be felt.
                module.own_conv = HalfWinogradConv2d(module.own_conv.weight, module.own_conv.bias, dtype)
    exchange_convolutions(prepared)
    return prepared.to(dtype).to(memory_format=torch.channels_last).requires_grad_(False).eval()


class HalfWinogradConv2d(nn.Module):
    """``F.conv2d(x, weight, bias, padding=1)`` for fixed weights (O, C, 3, 3), by F(2x2, 3x3) on a CPU in ``dtype``.

    The transformed weights take 16/9 of the memory of the weights, beside them. What is not on a CPU, has another
    precision or is asked for a gradient is convolved directly: accelerators have their own kernels. The sums of the
    transforms are rounded to ``dtype`` too: in bfloat16 2.2 times the direct convolution's error.
    """

    transformed: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().to(dtype, memory_format=torch.channels_last), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(dtype), requires_grad=False)
        self.register_buffer("transformed", transform(weight.detach(), TWO).to(dtype).contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        needs_gradient = torch.is_grad_enabled() and x.requires_grad
        other = x.dtype != self.transformed.dtype or (
            torch.is_autocast_enabled("cpu") and x.dtype != torch.get_autocast_dtype("cpu")
        )
        if x.device.type != "cpu" or other or needs_gradient:
            return F.conv2d(x, self.weight, self.bias, padding=1)
        return convolve(x, self.weight, self.bias, tile=TWO, transformed=self.transformed)
