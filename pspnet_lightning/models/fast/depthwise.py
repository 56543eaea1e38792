"""Depthwise convolutions that train in float32 where bfloat16 is slower: under autocast on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pspnet_lightning.models.same_padding import SameConv


class WidenedConv2d(nn.Conv2d):
    """A depthwise ``nn.Conv2d``; in training under bfloat16 autocast on a CPU it computes in float32.

    oneDNN's bfloat16 gradients of a depthwise convolution take three times as long as float32's: 450 ms instead of 152
    for all of EfficientNet-Lite0 with 4 images of 360 x 480 (1 thread, avx512_bf16). The answer is bfloat16 again.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not _trains_in_bfloat16(input, weight):
            return super()._conv_forward(input, weight, bias)
        with torch.autocast("cpu", enabled=False):
            bias = None if bias is None else bias.float()
            return super()._conv_forward(input.float(), weight.float(), bias).bfloat16()


class WidenedSameConv(WidenedConv2d, SameConv):
    """The same of one with TensorFlow's padding."""


WIDENED: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: WidenedConv2d, SameConv: WidenedSameConv}


def is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels


def _trains_in_bfloat16(x: Tensor, weight: Tensor) -> bool:
    # Compilers and exporters have kernels of their own, and write down what they see.
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and torch.is_grad_enabled()
        and (x.requires_grad or weight.requires_grad)
    )
