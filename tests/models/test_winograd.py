"""Winograd's products are the convolution and its gradients, for every size, dilation, layout and way of cutting up."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pspnet_lightning.models.fast import winograd
from pspnet_lightning.models.fast.winograd import THREE, TWO, Tile, convolve, transform, weight_gradient

TILES = pytest.mark.parametrize("tile", [TWO, THREE], ids=["2x2", "3x3"])


def difference(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def direct_gradients(gradient: Tensor, x: Tensor, weight: Tensor, dilation: int) -> tuple[Tensor, Tensor]:
    geometry = (1, 1), (dilation, dilation), (dilation, dilation), False, (0, 0), 1
    return torch.ops.aten.convolution_backward(gradient, x, weight, None, *geometry, (True, True, False))[:2]


def example(
    channels: int, outputs: int, size: tuple[int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias and the gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    shapes = (2, channels, *size), (outputs, channels, 3, 3), (outputs,), (2, outputs, *size)
    x, weight, bias, gradient = (torch.randn(*shape, dtype=dtype, generator=generator) for shape in shapes)
    return x, weight, bias, gradient


@TILES
@pytest.mark.parametrize("values", [1, 3000, 2**22])
@pytest.mark.parametrize(("channels", "outputs"), [(70, 5), (5, 70)])
@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 14), (17, 5)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 2e-6)])
def test_it_is_the_convolution_and_its_gradients(
    monkeypatch: pytest.MonkeyPatch,
    tile: Tile,
    size: tuple[int, int],
    dilation: int,
    channels: int,
    outputs: int,
    values: int,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    monkeypatch.setattr(winograd, "_PART", values)
    monkeypatch.setattr(winograd, "_KEPT", values)
    x, weight, bias, gradient = example(channels, outputs, size, dtype)
    expected = F.conv2d(x, weight, bias, padding=dilation, dilation=dilation)
    of_x, of_weight = direct_gradients(gradient, x, weight, dilation)
    options = {"dilation": dilation, "tile": tile}
    transformed = transform(weight, tile)
    for image in (x, x.contiguous(memory_format=torch.channels_last)):
        answered = convolve(image, weight, bias, **options)
        assert difference(answered, expected) < tolerance
        assert answered.is_contiguous(memory_format=torch.channels_last)
        assert difference(convolve(image, weight, bias, transformed=transformed, **options), expected) < tolerance
        assert difference(weight_gradient(image, gradient, **options), of_weight) < tolerance
    assert difference(convolve(gradient, weight, mirrored=True, **options), of_x) < tolerance


@pytest.mark.parametrize(("channels", "outputs", "dilation"), [(256, 96, 2), (96, 256, 4), (512, 64, 1)])
def test_float32_errors_are_of_the_direct_convolutions_size(channels: int, outputs: int, dilation: int) -> None:
    x, weight, _, gradient = example(channels, outputs, (36, 36), torch.float32)
    x, gradient = (value.relu().contiguous(memory_format=torch.channels_last) for value in (x, gradient))
    exact = (
        F.conv2d(x.double(), weight.double(), padding=dilation, dilation=dilation),
        *direct_gradients(gradient.double(), x.double(), weight.double(), dilation),
    )
    direct = F.conv2d(x, weight, padding=dilation, dilation=dilation), *direct_gradients(gradient, x, weight, dilation)
    answered = (
        convolve(x, weight, dilation=dilation),
        convolve(gradient, weight, dilation=dilation, mirrored=True),
        weight_gradient(x, gradient, dilation=dilation),
    )
    for name, true, plain, ours in zip(("output", "input", "weight"), exact, direct, answered, strict=True):
        # How the direct one sums, and so its error, is the machine's affair: 0.2 to 1.1e-6 here.
        assert difference(ours, true) < 2e-6, name
        assert difference(plain, true) < 2e-6, name


def test_the_smaller_tiles_float32_error_is_less_than_half() -> None:
    x, weight, *_ = example(256, 64, (36, 36), torch.float32)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    small, large = (difference(convolve(x, weight, tile=tile), exact) for tile in (TWO, THREE))
    assert small < large / 2 < 1e-6


def test_work_is_cut_into_bands_and_parts_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of the allocator at once does not grow with the map: inputs and outputs apart."""
    largest = 0
    plain = torch.bmm

    def watched(a: Tensor, b: Tensor) -> Tensor:
        nonlocal largest
        answer = plain(a, b)
        largest = max(largest, a.numel(), answer.numel())
        return answer

    monkeypatch.setattr(winograd.torch, "bmm", watched)
    x, weight, _, gradient = example(64, 64, (300, 300), torch.float32)
    convolve(x, weight)
    weight_gradient(x, gradient)
    assert 2**20 < largest <= winograd._KEPT
