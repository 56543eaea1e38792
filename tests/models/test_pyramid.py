"""The exact pyramid convolution is the same function as the plain concatenation."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from pspnet_lightning.models import build_pspnet
from pspnet_lightning.models.pyramid import PyramidHead

CASES = [
    # bins, height, width, pooling, reduction, align_corners
    ((1, 2, 3, 6), 12, 12, "average", True, True),
    ((1, 2, 3, 6), 13, 17, "average", True, False),
    ((1, 2, 3, 6), 7, 19, "max", True, True),
    ((2, 6), 9, 6, "average", False, True),
    ((1, 3, 5, 7), 7, 7, "average", True, False),
    ((7, 11), 7, 11, "max", False, False),
    ((4, 9), 5, 3, "average", True, True),  # grids finer than the features
    ((1,), 1, 1, "average", False, True),
    ((), 8, 5, "average", True, True),
]


def heads(bins: tuple[int, ...], pooling: str, reduction: bool, align_corners: bool) -> list[PyramidHead]:
    torch.manual_seed(0)
    exact = PyramidHead(
        [12],
        5,
        bins=bins,
        pooling=pooling,
        reduction=reduction,
        head_channels=7,
        dropout=0.0,
        align_corners=align_corners,
    )
    concat = copy.deepcopy(exact)
    concat.execution = "concat"
    return [exact, concat]


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("bins", "height", "width", "pooling", "reduction", "align_corners"), CASES)
def test_exact_equals_concatenation(
    bins: tuple[int, ...],
    height: int,
    width: int,
    pooling: str,
    reduction: bool,
    align_corners: bool,
    channels_last: bool,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    results = []
    for head in heads(bins, pooling, reduction, align_corners):
        head.to(dtype)
        x = torch.randn(3, 12, height, width, dtype=dtype, generator=torch.Generator().manual_seed(1))
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        y = head([x])
        # A weight for every output: a plain sum behind a BatchNorm would have zero gradients.
        weight = torch.randn(y.shape, dtype=dtype, generator=torch.Generator().manual_seed(2))
        (y * weight).sum().backward()
        gradients = {name: parameter.grad for name, parameter in head.named_parameters()}
        results.append({"output": y.detach(), "input": x.grad, **gradients})
    exact, concat = results
    assert exact.keys() == concat.keys()
    # Behind BatchNorm some gradients are sums that cancel: what is relative is relative to the largest of them.
    largest = max(float(value.norm()) for value in concat.values())
    for name, expected in concat.items():
        error = float((exact[name] - expected).norm()) / max(float(expected.norm()), 1e-3 * largest)
        assert error < tolerance, f"{name}: {error}"


def test_same_parameters_and_state_dict() -> None:
    exact, concat = (PyramidHead([12], 5, head_channels=512, execution=execution) for execution in ("exact", "concat"))
    shapes = {name: value.shape for name, value in exact.state_dict().items()}
    assert shapes == {name: value.shape for name, value in concat.state_dict().items()}
    assert shapes["conv.weight"] == (512, 12 + 4 * 3, 3, 3)


def test_under_autocast_it_is_as_near_to_float32_as_the_concatenation() -> None:
    exact, concat = heads((1, 2, 3, 6), "average", True, True)
    x = torch.randn(4, 12, 15, 15, generator=torch.Generator().manual_seed(1))
    reference = concat([x])
    with torch.autocast("cpu", torch.bfloat16):
        errors = [difference(head([x]).float(), reference) for head in (exact, concat)]
    # bfloat16 has 8 bits of mantissa: both are off by about 1 %, the exact form by no more than 1.5 times the plain.
    assert errors[1] > 1e-4
    assert errors[0] < 1.5 * errors[1] < 0.1


def test_channels_last_stays_channels_last() -> None:
    head, _ = heads((1, 2, 3, 6), "average", True, True)
    y = head([torch.randn(2, 12, 9, 9).contiguous(memory_format=torch.channels_last)])
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("execution", ["exact", "concat"])
def test_export_with_dynamic_sizes(execution: str) -> None:
    torch.manual_seed(0)
    model = build_pspnet(4, depth=18, stem="plain", width=8, execution=execution).eval()
    height, width = torch.export.Dim("height", min=33, max=257), torch.export.Dim("width", min=33, max=257)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        model, (torch.randn(2, 3, 65, 81),), dynamic_shapes=({0: batch, 2: height, 3: width},)
    ).module()
    for size in ((2, 65, 81), (1, 50, 64), (3, 97, 33)):
        x = torch.randn(size[0], 3, *size[1:])
        assert difference(program(x), model(x)) < 1e-5


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("training", [False, True])
def test_compiled_equals_eager(training: bool) -> None:
    torch.manual_seed(0)
    model = build_pspnet(4, depth=18, stem="plain", width=8, dropout=0.0).train(training)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True)
    x = torch.randn(2, 3, 65, 81)
    if not training:
        assert difference(compiled(x), model(x)) < 1e-5
        return
    expected, answered = model(x), compiled(x)
    assert difference(answered.logits, expected.logits) < 1e-4
    assert difference(answered.aux_logits, expected.aux_logits) < 1e-4


def test_one_value_per_channel_is_a_clear_error() -> None:
    model = build_pspnet(4, depth=18, stem="plain", width=8)
    with pytest.raises(ValueError, match=r"bin 1 sees one value.*batch of at least 2 images"):
        model(torch.randn(1, 3, 65, 65))
    assert model.eval()(torch.randn(1, 3, 65, 65)).shape == (1, 4, 65, 65)
    # With the pyramid's BatchNorm frozen there is nothing undefined.
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    assert model(torch.randn(1, 3, 65, 65)).logits.shape == (1, 4, 65, 65)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bins": [0, 1]}, r"bins=\[0, 1\]: 0"),
        ({"bins": [1.5]}, r"bins=\[1.5\]"),
        ({"bins": [True]}, "True"),
        ({"bins": list(range(1, 14))}, "13 bins"),
        ({"pooling": "mean"}, "pooling='mean' must be one of 'average', 'max'"),
    ],
)
def test_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PyramidHead([12], 5, head_channels=8, **arguments)
