"""3x3 convolutions that keep the size, in training and inference: by Winograd's products where those are faster.

That is in float32 on a CPU, in channels_last, of many channels and positions; everywhere else they are torch's own.
"""

from __future__ import annotations

from functools import partial, reduce
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pspnet_lightning.models.fast.depthwise import WIDENED, is_depthwise
from pspnet_lightning.models.fast.winograd import THREE, convolve, weight_gradient

# Below, the transforms cost what the products save (forward and both gradients, 2 x 60 x 60: 128 channels in and out
# 1.09 times as fast, 128 and 512 1.4, 256 1.6, 512 1.8, 2048 and 512 2.3; 256 channels at 30 x 30 1.3, 20 x 20 0.96).
_FEW_CHANNELS, _MANY_CHANNELS, _POSITIONS = 128, 256, 1000
# Whole tiles may cover so much more than the positions there are: with a large dilation of a small map they do.
_COVERED = 1.5

_Module = TypeVar("_Module", bound=nn.Module)


class FastConv2d(nn.Conv2d):
    """An ``nn.Conv2d`` of kernel 3 that keeps the size, computed by ``conv3x3``; see ``exchange_convolutions``."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # Also what the pyramid's head calls with a part of the weight.
        return conv3x3(input, weight, bias, dilation=self.dilation[0])


def exchange_convolutions(model: _Module) -> _Module:
    """Has all large 3x3 convolutions of ``model`` computed by ``conv3x3``, in place, and returns it.

    Depthwise ones are widened in training under bfloat16 autocast on a CPU (``WidenedConv2d``).

    Call it once, before training or prediction. Parameters, hooks and the state dict are the same objects as before.
    """
    for module in model.modules():
        # The object stays, with whatever refers to it; only what it computes is computed otherwise.
        if type(module) is nn.Conv2d and _is_large(module):
            module.__class__ = FastConv2d
        elif type(module) in WIDENED and is_depthwise(module):
            module.__class__ = WIDENED[type(module)]
    return model


def restore_convolutions(model: _Module) -> _Module:
    """Takes ``exchange_convolutions`` back: for programs in files, which other kernels run."""
    plain = {fast: own for own, fast in WIDENED.items()} | {FastConv2d: nn.Conv2d}
    for module in model.modules():
        if type(module) in plain:
            module.__class__ = plain[type(module)]
    return model


def _is_large(conv: nn.Conv2d) -> bool:
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and conv.dilation[0] == conv.dilation[1]
        and conv.padding == conv.dilation
        and conv.padding_mode == "zeros"
        and conv.groups == 1
        and _has_many_channels(conv.weight)
    )


def _has_many_channels(weight: Tensor) -> bool:
    return min(weight.shape[:2]) >= _FEW_CHANNELS and max(weight.shape[:2]) >= _MANY_CHANNELS


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, dilation: int = 1) -> Tensor:
    """``F.conv2d(x, weight, bias, padding=dilation, dilation=dilation)`` of a weight (O, C, 3, 3).

    By fewer products where that is faster, and so are its gradients: the same up to rounding, which is 1.0 to 1.5e-6
    of the result in float32 where the direct convolution's is 0.4 to 1.1e-6. Any order of derivatives, ``torch.func``
    too; the same bits on each run.
    """
    if _is_faster_transformed(x, weight, dilation):
        return _Convolution.apply(x, weight, bias, dilation, False)
    return F.conv2d(x, weight, bias, padding=dilation, dilation=dilation)


def _is_faster_transformed(x: Tensor, weight: Tensor, dilation: int) -> bool:
    # Compilers and exporters have kernels of their own, and write down what they see.
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.ndim == 4
        and _has_many_channels(weight)
        and not torch.is_autocast_enabled("cpu")
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.shape[0] * x.shape[2] * x.shape[3] >= _POSITIONS
        and _covered(x.shape[2], dilation) * _covered(x.shape[3], dilation) <= _COVERED * x.shape[2] * x.shape[3]
    )


def _covered(length: int, dilation: int) -> int:
    pitch = THREE.size * dilation
    return -(-length // pitch) * pitch


class _Convolution(torch.autograd.Function):
    """conv(x, w) + b; ``mirrored``: the transposed convolution of x. Each is the gradient of the other's input."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, mirrored: bool) -> Tensor:
        # A gradient may be asked for under autocast, of what was computed outside.
        with torch.autocast("cpu", enabled=False):
            return convolve(x, weight, bias, dilation=dilation, mirrored=mirrored)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, ctx.dilation, ctx.mirrored = inputs
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = _Convolution.apply(gradient, weight, None, ctx.dilation, not ctx.mirrored)
        if ctx.needs_input_grad[1]:
            of_weight = _WeightGradient.apply(*((gradient, x) if ctx.mirrored else (x, gradient)), ctx.dilation)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum(dim=(0, 2, 3))
        return of_x, of_weight, of_bias, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = tangents[:3]
        shares = [
            _Convolution.apply(a, b, None, ctx.dilation, ctx.mirrored)
            for a, b in ((of_x, weight), (x, of_weight))
            if a is not None and b is not None
        ]
        if of_bias is not None:
            everywhere = of_bias.view(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])
            shares.append(everywhere.contiguous(memory_format=torch.channels_last))
        return reduce(torch.add, shares)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Any, weight: Any, bias: Any, dilation: int, mirrored: bool) -> Any:
        direct = F.conv_transpose2d if mirrored else F.conv2d
        call = partial(direct, padding=dilation, dilation=dilation)
        return torch.vmap(call, in_dims=in_dims[:3], randomness=info.randomness)(x, weight, bias), 0


class _WeightGradient(torch.autograd.Function):
    """The gradient of conv(x, w)'s weight, from x and the output's gradient: linear in both."""

    @staticmethod
    def forward(x: Tensor, gradient: Tensor, dilation: int) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return weight_gradient(x, gradient, dilation=dilation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, gradient, ctx.dilation = inputs
        ctx.save_for_backward(x, gradient)
        ctx.save_for_forward(x, gradient)

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        x, gradient = ctx.saved_tensors
        of_x = _Convolution.apply(gradient, weight, None, ctx.dilation, True) if ctx.needs_input_grad[0] else None
        of_gradient = _Convolution.apply(x, weight, None, ctx.dilation, False) if ctx.needs_input_grad[1] else None
        return of_x, of_gradient, None

    @staticmethod
    def jvp(ctx: Any, of_x: Tensor | None, of_gradient: Tensor | None, _: None) -> Tensor:
        x, gradient = ctx.saved_tensors
        shares = [
            _WeightGradient.apply(a, b, ctx.dilation)
            for a, b in ((of_x, gradient), (x, of_gradient))
            if a is not None and b is not None
        ]
        return reduce(torch.add, shares)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, gradient: Tensor, dilation: int) -> Any:
        def direct(x: Tensor, gradient: Tensor) -> Tensor:
            weight = x.new_zeros(gradient.shape[1], x.shape[1], 3, 3)
            pairs = (1, 1), (dilation, dilation), (dilation, dilation), False, (0, 0), 1, (False, True, False)
            answer: Tensor = torch.ops.aten.convolution_backward(gradient, x, weight, None, *pairs)[1]
            return answer

        return torch.vmap(direct, in_dims=in_dims[:2], randomness=info.randomness)(x, gradient), 0
