"""What PSPNet answers, for any size; which parameters are new."""

from __future__ import annotations

import pytest
import torch

from pspnet_lightning.models import PSPNetOutput, build_pspnet


@pytest.mark.parametrize("size", [(33, 33), (48, 65), (97, 50), (40, 121)])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_full_size_logits(size: tuple[int, int], output_stride: int) -> None:
    model = build_pspnet(5, depth=18, stem="plain", width=8, output_stride=output_stride)
    x = torch.randn(2, 3, *size)
    output = model(x)
    assert isinstance(output, PSPNetOutput)
    assert output.logits.shape == output.aux_logits.shape == (2, 5, *size)
    with torch.no_grad():
        assert model.eval()(x).shape == (2, 5, *size)


def test_without_auxiliary_head() -> None:
    model = build_pspnet(5, depth=18, stem="plain", width=8, auxiliary=False)
    assert model(torch.randn(2, 3, 33, 33)).aux_logits is None
    assert not any(key.startswith("aux_head") for key in model.state_dict())


def test_parameters_are_shared_out_completely() -> None:
    model = build_pspnet(5, depth=18, stem="plain", width=8)
    old, new = set(model.backbone_parameters()), set(model.new_parameters())
    assert not old & new
    assert old | new == set(model.parameters())


def test_widths_are_the_papers() -> None:
    with torch.device("meta"):
        model = build_pspnet(150)
    assert model.head.conv.weight.shape == (512, 4096, 3, 3)
    assert model.head.classifier.weight.shape == (150, 512, 1, 1)
    assert model.aux_head.conv.weight.shape == (256, 1024, 3, 3)
    assert [branch[0].weight.shape[0] for branch in model.head.pyramid.branches] == [512] * 4


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 33, 33), r"shape \(3, 33, 33\).*\(N, 3, H, W\)"),
        (torch.zeros(1, 4, 33, 33), r"\(1, 4, 33, 33\)"),
        (torch.zeros(1, 3, 33, 33, dtype=torch.uint8), "torch.uint8"),
    ],
)
def test_wrong_inputs(x: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_pspnet(5, depth=18, stem="plain", width=8).eval()(x)
