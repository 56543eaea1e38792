"""A network prepared for inference is the same function; so is each convolution by Winograd's products."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pspnet_lightning.models import PSPNet, prepare_for_inference, winograd
from pspnet_lightning.models.winograd import WinogradConv2d


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("values", [1, 3000, 2**22])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 14), (17, 5)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_winograd_is_the_convolution(
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
    dilation: int,
    bias: bool,
    values: int,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    monkeypatch.setattr(winograd, "_VALUES", values)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 7, *size, dtype=dtype, generator=generator)
    weight = torch.randn(5, 7, 3, 3, dtype=dtype, generator=generator)
    offset = torch.randn(5, dtype=dtype, generator=generator) if bias else None
    conv = WinogradConv2d(weight, offset, dilation=dilation)
    with torch.no_grad():
        expected = F.conv2d(x, weight, offset, padding=dilation, dilation=dilation)
        for image in (x, x.contiguous(memory_format=torch.channels_last)):
            answered = conv(image)
            assert difference(answered, expected) < tolerance
            assert answered.is_contiguous(memory_format=torch.channels_last)


def test_where_winograd_would_lose_or_has_no_gradient_it_is_the_direct_convolution() -> None:
    x, weight = torch.randn(2, 7, 9, 14), torch.randn(5, 7, 3, 3)
    conv = WinogradConv2d(weight, None)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv(x), F.conv2d(x, conv.weight, padding=1))
    leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    conv(leaf).square().sum().backward()
    F.conv2d(other, weight, padding=1).square().sum().backward()
    assert difference(leaf.grad, other.grad) < 1e-6
    assert conv.double()(x.double()).dtype == torch.float64


def test_its_bfloat16_error_is_about_twice_the_direct_convolutions() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(1, 512, 12, 12, generator=generator).relu(), torch.randn(32, 512, 3, 3, generator=generator)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    direct = F.conv2d(x.bfloat16(), weight.bfloat16(), padding=1)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        answered = WinogradConv2d(weight, None).bfloat16()(x.bfloat16())
    assert not torch.equal(answered, direct)
    assert difference(answered.double(), exact) < 3 * difference(direct.double(), exact) < 0.02


def test_its_float32_error_is_not_above_the_direct_convolutions() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(*shape, generator=generator) for shape in ((1, 256, 30, 30), (64, 256, 3, 3)))
    with torch.no_grad():
        exact = F.conv2d(x.double(), weight.double(), padding=2, dilation=2)
        direct = F.conv2d(x, weight, padding=2, dilation=2)
        answered = WinogradConv2d(weight, None, dilation=2)(x)
    assert difference(answered.double(), exact) < 2 * difference(direct.double(), exact) < 2e-6


def model(**options: object) -> PSPNet:
    torch.manual_seed(0)
    network = PSPNet(21, depth=18, width=32, **options)  # stage 4 has 256 channels
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return network.eval()


@pytest.mark.parametrize("options", [{}, {"execution": "concat"}, {"bins": ()}, {"align_corners": False}])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_prepared_equals_the_model(options: dict[str, object], dtype: torch.dtype, tolerance: float) -> None:
    network = model(**options).to(dtype)
    prepared = prepare_for_inference(network, dtype)
    assert any(isinstance(module, WinogradConv2d) for module in prepared.modules())
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
    assert [name for name, module in prepared.named_modules() if isinstance(module, WinogradConv2d)] == [
        "head.own_conv"
    ]
    assert {parameter.dtype for parameter in prepared.parameters()} == {torch.bfloat16}
    x = torch.randn(2, 3, 65, 81, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            plain, answered = network(x), prepared(x)
    # Rounded weights and rounded sums: about the error of autocast over the float32 network.
    assert difference(answered.float(), expected) < 1.5 * difference(plain.float(), expected) < 0.1


def test_arguments() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4, 1, 1\)"):
        WinogradConv2d(torch.zeros(4, 4, 1, 1), None)
    with pytest.raises(ValueError, match="int64"):
        prepare_for_inference(model(), torch.int64)
