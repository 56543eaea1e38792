"""A network prepared for inference is the same function; so is each convolution by Winograd's products."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pspnet_lightning.models import PSPNet, build_pspnet, prepare_for_inference
from pspnet_lightning.models.fast import convolution
from pspnet_lightning.models.fast.prepared import HalfWinogradConv2d


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_in_half_precision_where_it_would_lose_or_has_no_gradient_it_is_the_direct_convolution() -> None:
    x, weight = torch.randn(2, 7, 9, 14).bfloat16(), torch.randn(5, 7, 3, 3)
    conv = HalfWinogradConv2d(weight, None, torch.bfloat16)
    with torch.inference_mode(), torch.autocast("cpu", torch.float16):
        assert torch.equal(conv(x), F.conv2d(x, conv.weight, padding=1))
    leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    conv(leaf).float().sum().backward()
    F.conv2d(other, weight.bfloat16(), padding=1).float().sum().backward()
    assert torch.equal(leaf.grad, other.grad)


def test_its_bfloat16_error_is_about_twice_the_direct_convolutions() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(1, 512, 12, 12, generator=generator).relu(), torch.randn(32, 512, 3, 3, generator=generator)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    direct = F.conv2d(x.bfloat16(), weight.bfloat16(), padding=1)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        answered = HalfWinogradConv2d(weight, None, torch.bfloat16)(x.bfloat16())
    assert not torch.equal(answered, direct)
    assert difference(answered.double(), exact) < 3 * difference(direct.double(), exact) < 0.02


def model(**options: object) -> PSPNet:
    torch.manual_seed(0)
    network = build_pspnet(21, depth=18, width=32, **options)  # stage 4 has 256 channels
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return network.eval()


@pytest.mark.parametrize("options", [{}, {"execution": "concat"}, {"bins": ()}, {"align_corners": False}])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_prepared_equals_the_model(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, object], dtype: torch.dtype, tolerance: float
) -> None:
    # Small maps too by Winograd's products, in float32.
    monkeypatch.setattr(convolution, "_POSITIONS", 1)
    monkeypatch.setattr(convolution, "_COVERED", 9)
    network = model(**options).to(dtype)
    prepared = prepare_for_inference(network, dtype)
    x = torch.randn(2, 3, 65, 81, dtype=dtype, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, answered = network(x), prepared(x)
        # Alone, so that an in-place operation cannot have changed what the next call sees.
        assert torch.equal(prepared(x), answered)
        assert difference(answered, expected) < tolerance
        labels = prepared(x, upsample=False).labels()
    top = expected.topk(2, dim=1).values
    clear = (top[:, 0] - top[:, 1]) > 1e-4
    assert (labels == expected.argmax(1))[clear].all()
    assert clear.float().mean() > 0.99
    assert not any(parameter.requires_grad for parameter in prepared.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_half_precision_under_autocast() -> None:
    network = model()
    prepared = prepare_for_inference(network, torch.bfloat16)
    assert isinstance(prepared.head.own_conv, HalfWinogradConv2d)
    assert {parameter.dtype for parameter in prepared.parameters()} == {torch.bfloat16}
    x = torch.randn(2, 3, 65, 81, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            plain, answered = network(x), prepared(x)
    # Rounded weights and rounded sums: about the error of autocast over the float32 network.
    assert difference(answered.float(), expected) < 1.5 * difference(plain.float(), expected) < 0.1


def test_arguments() -> None:
    with pytest.raises(ValueError, match="int64"):
        prepare_for_inference(model(), torch.int64)
