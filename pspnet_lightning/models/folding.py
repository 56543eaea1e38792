"""BatchNorm folded into the convolutions before it: the same function in eval mode, with fewer passes over memory."""

from __future__ import annotations

import copy
from itertools import pairwise

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

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
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(norm, _BatchNorm):
                assert isinstance(conv, nn.Conv2d), f"no convolution before {norm_name}"
                dtype = conv.weight.dtype
                fused = fuse_conv_bn_eval(conv.double(), norm.double()).to(dtype)
                setattr(parent, conv_name, fused.requires_grad_(False))
                setattr(parent, norm_name, nn.Identity())
    assert not any(isinstance(module, _BatchNorm) for module in folded.modules())
    return folded
