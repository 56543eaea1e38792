"""A folded network answers what its original answers in eval mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pspnet_lightning.models import PSPNet, build_pspnet, fold_batchnorm

SMALL = {"depth": 18, "stem": "plain", "width": 8}


def trained(**arguments: Any) -> PSPNet:
    """A network whose BatchNorms are far from the identity."""
    torch.manual_seed(0)
    model = build_pspnet(7, **{**SMALL, **arguments})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.3, 3)
    return model.eval()


def difference(model: PSPNet, folded: PSPNet, x: torch.Tensor) -> float:
    with torch.no_grad():
        expected, answered = model(x), folded(x)
    return float((answered - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"execution": "concat"},
        {"stem": "deep", "stem_widths": (4, 6, 8), "auxiliary": False},
        {"depth": 50, "stem": "deep", "output_stride": 16},
        {"depth": 50, "stride_on": "1x1", "align_corners": False},
        {"bins": ()},
        {"bins": (1, 4), "reduction": False},
        {"pooling": "max"},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(64, 64), (49, 83)])
def test_the_same_function(arguments: dict[str, Any], size: tuple[int, int]) -> None:
    model = trained(**arguments)
    folded = fold_batchnorm(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert difference(model, folded, torch.randn(2, 3, *size)) < 2e-6


def test_in_float64_it_is_exact_to_float64() -> None:
    model = trained().double()
    assert difference(model, fold_batchnorm(model), torch.randn(2, 3, 49, 83, dtype=torch.float64)) < 1e-14


def test_the_original_is_left_alone() -> None:
    model = trained().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold_batchnorm(model)
    assert model.training
    assert model.aux_head is not None
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not folded.training
    assert folded.aux_head is None
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_layout_and_type_are_kept() -> None:
    model = trained(depth=50).to(torch.bfloat16, memory_format=torch.channels_last)
    weight = fold_batchnorm(model).head.conv.weight
    assert weight.dtype == torch.bfloat16
    assert weight.is_contiguous(memory_format=torch.channels_last)
