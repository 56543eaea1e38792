"""BatchNorm folded into the convolutions before it: the same function in eval mode, with fewer passes over memory."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pspnet_lightning.models.pspnet import PSPNet


def fold_batchnorm(model: PSPNet) -> PSPNet:
    """A copy of ``model`` for inference, without BatchNorm: each one scales and shifts the convolution before it.

    The copy is in eval mode and has no auxiliary head; its parameters take no gradients. Its convolutions have a bias,
    ``nn.Identity`` stands where a BatchNorm was. Logits equal those of ``model.eval()`` up to float32 rounding: the
    products are made in float64, so that each weight is rounded once. ``model`` itself is left as it is.
    """
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    folded.aux_head = None
    for parent in folded.modules():
        # This package registers every BatchNorm right after the convolution that it follows.
        for (_, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(norm, _BatchNorm):
                assert isinstance(conv, nn.Conv2d), f"no convolution before {norm_name}"
                _fold(conv, norm)
                setattr(parent, norm_name, nn.Identity())
    assert not any(isinstance(module, _BatchNorm) for module in folded.modules())
    return folded


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: _BatchNorm) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    if conv.bias is not None:
        shift += conv.bias.double() * scale
    # Part by part: all in float64 at once would be the most memory that the network ever takes.
    for weight, factor in zip(conv.weight.split(32), scale.split(32), strict=True):
        weight.copy_(weight.double() * factor.view(-1, 1, 1, 1))
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)
