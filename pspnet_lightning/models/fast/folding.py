"""BatchNorm folded into the convolutions before it: the same function in eval mode, with fewer passes over memory."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """A copy of ``model`` for inference, without BatchNorm: each one scales and shifts the convolution before it.

    The copy is in eval mode and has no auxiliary head; its parameters take no gradients. Its convolutions have a bias,
    ``nn.Identity`` stands where a BatchNorm was. Logits equal those of ``model.eval()`` up to float32 rounding: the
    products are made in float64, so that each weight is rounded once. ``model`` itself is left as it is.

    A BatchNorm belongs to the convolution that is registered right before it; one without stays. Raises ValueError
    where the copy answers otherwise than ``model``, because its modules are called in another order.
    """
    folded = copy.deepcopy(model).eval().requires_grad_(False)
    if getattr(folded, "aux_head", None) is not None:
        folded.aux_head = None  # type: ignore[assignment]
    expected = _answer(folded)
    for parent in list(folded.modules()):
        for (_, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(norm, _BatchNorm) and _belongs(norm, conv):
                assert isinstance(conv, nn.Conv2d)
                _fold(conv, norm)
                # timm's BatchNorm has its activation inside.
                after = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
                setattr(parent, norm_name, nn.Sequential(*after) if after else nn.Identity())
    answered = _answer(folded)
    # Not-a-number on both sides is the network's own matter.
    largest = float(expected[expected.isfinite()].abs().max()) if expected.isfinite().any() else 0.0
    if not torch.allclose(answered, expected, rtol=0, atol=1e-3 * largest, equal_nan=True):
        raise ValueError(
            f"the BatchNorms of {type(model).__name__} cannot be folded: its modules are not called in the order in "
            f"which they are registered. Register each BatchNorm after its convolution, or leave it in (fold=false)"
        )
    return folded


def _belongs(norm: _BatchNorm, conv: nn.Module) -> bool:
    return isinstance(conv, nn.Conv2d) and conv.out_channels == norm.num_features and norm.running_var is not None


@torch.no_grad()
def _answer(network: nn.Module) -> Tensor:
    """To one small image."""
    weight = next((module.weight for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if weight is None or weight.dtype not in (torch.float32, torch.float64):
        return torch.zeros(1)  # nothing to fold, or half precision without its autocast
    image = torch.randn(1, weight.shape[1], 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.autocast(weight.device.type, enabled=False):
        answer: Tensor = network(image.to(weight))
    return answer


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
