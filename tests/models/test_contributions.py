"""The shares of the backbone and of each bin add up: to the head's pre-activation, and to the logits of every pixel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pspnet_lightning.explain.contributions import (
    Baseline,
    explanation,
    head_shares,
    logit_shares,
    logits_without,
)
from pspnet_lightning.models import PSPNet, build_pspnet
from pspnet_lightning.models.pyramid import PyramidHead

TOLERANCES = [(torch.float64, 1e-12), (torch.float32, 1e-5)]
CASES = [
    # bins, height, width
    ((1, 2, 3, 6), 12, 12),
    ((1, 2, 3, 6), 13, 17),
    ((4, 9), 5, 3),  # grids finer than the features
    ((1,), 1, 1),
    ((), 8, 5),
]


def trained(module: nn.Module, dtype: torch.dtype) -> None:
    """Statistics and affine parameters as after training, in eval mode."""
    generator = torch.Generator().manual_seed(3)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values, low, high in (
                (part.weight, 0.5, 1.5),
                (part.bias, -0.5, 0.5),
                (part.running_mean, -0.3, 0.3),
                (part.running_var, 0.5, 2.0),
            ):
                assert values is not None
                values.data.copy_(torch.rand(values.shape, generator=generator) * (high - low) + low)
    module.to(dtype).eval()


def random_baseline(head: PyramidHead) -> Baseline:
    generator = torch.Generator().manual_seed(5)
    sizes = (head.in_channels, *(head.pyramid.channels_per_bin for _ in head.pyramid.bins))
    return Baseline(tuple(torch.rand(size, generator=generator).to(head.conv.weight) for size in sizes))


def error(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max()).detach())


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("execution", ["exact", "concat"])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("reduction", [True, False])
@pytest.mark.parametrize("pooling", ["average", "max"])
@pytest.mark.parametrize(("bins", "height", "width"), CASES)
def test_shares_add_up(
    bins: tuple[int, ...],
    height: int,
    width: int,
    pooling: str,
    reduction: bool,
    align_corners: bool,
    execution: str,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    torch.manual_seed(0)
    head = PyramidHead(
        [12],
        5,
        bins=bins,
        pooling=pooling,
        reduction=reduction,
        head_channels=7,
        align_corners=align_corners,
        execution=execution,
    )
    trained(head, dtype)
    x = torch.randn(2, 12, height, width, dtype=dtype, generator=torch.Generator().manual_seed(1))
    seen: list[Tensor] = []
    head.bn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    logits = head([x])
    for baseline in (None, random_baseline(head)):
        parts = head_shares(head, [x], baseline)
        assert parts.sources == head.sources == ("backbone", *(f"bin {size}" for size in bins))
        assert error(parts.pre_activation(), seen[0]) < tolerance
        shares = logit_shares(head, parts)
        assert shares.shape == (len(bins) + 2, *logits.shape)
        assert error(shares.sum(dim=0), logits) < tolerance
        assert error(logits_without(head, parts, None), logits) < tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("pooling", ["average", "max"])
@pytest.mark.parametrize("source", range(4))
def test_removing_a_source_is_the_network_with_its_input_replaced(
    source: int, pooling: str, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    head = PyramidHead([12], 5, bins=(1, 2, 6), pooling=pooling, head_channels=7)
    trained(head, dtype)
    x = torch.randn(2, 12, 9, 11, dtype=dtype, generator=torch.Generator().manual_seed(1))
    baseline = random_baseline(head)
    mean = baseline.means[source].view(1, -1, 1, 1)
    if source == 0:  # the convolution sees the mean instead of x, the pyramid still pools x
        levels = head.pyramid(x)
        y = head._plain(mean.expand_as(x), levels)
    else:
        levels = head.pyramid(x)
        levels[source - 1] = mean.expand_as(levels[source - 1])
        y = head._plain(x, levels)
    expected = head.classifier(head.relu(head.bn(y)))
    assert error(logits_without(head, head_shares(head, [x], baseline), source), expected) < tolerance


def network(**arguments: object) -> PSPNet:
    torch.manual_seed(0)
    model = build_pspnet(4, depth=18, stem="plain", width=8, **arguments)  # type: ignore[arg-type]
    trained(model, torch.float64)
    return model


@pytest.mark.parametrize("bins", [(1, 2, 3, 6), ()])
@pytest.mark.parametrize("align_corners", [True, False])
def test_an_explanation_adds_up_at_every_pixel(bins: tuple[int, ...], align_corners: bool) -> None:
    model = network(bins=bins, align_corners=align_corners)
    images = torch.randn(2, 3, 65, 81, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    baseline = Baseline.of(model, [images])
    found = explanation(model, images, baseline)
    logits = model(images)
    first, second = logits.topk(2, dim=1).values.unbind(dim=1)
    assert torch.equal(found.prediction, logits.argmax(dim=1))
    assert not (found.prediction == found.runner_up).any()
    assert float((found.margin.sum(dim=1) - (first - second)).abs().max()) < 1e-12 * float(logits.abs().max())
    assert torch.equal(found.decider, found.margin.argmax(dim=1))
    assert found.margin.shape == (2, len(bins) + 2, 65, 81)
    assert found.without.shape == found.flips.shape == (2, len(bins) + 1, 65, 81)
    assert torch.equal(found.flips[:, 0], found.without[:, 0] != found.prediction)


def test_the_baseline_is_the_mean_of_what_each_source_sees() -> None:
    model = network(bins=(1, 3), reduction=False)
    images = torch.randn(5, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    baseline = Baseline.of(model, [images[:2], images[2:]])
    x = model.backbone(images)[-1]
    assert error(baseline.means[0], x.mean(dim=(0, 2, 3))) < 1e-12
    # Unreduced average pooling: the level's mean is the features' own, 8 x 8 features divided by 1; by 3 unevenly.
    assert error(baseline.means[1], x.mean(dim=(0, 2, 3))) < 1e-12
    # A source at its baseline says nothing: bin 1 of an image that is its own mean.
    alone = head_shares(model.head, [x[:1]], Baseline.of(model, [images[:1]]))
    assert float(alone.shares[1].detach().abs().max()) < 1e-12 * float(alone.shares[0].detach().abs().max())


def test_what_cannot_be_explained() -> None:
    model = network()
    with pytest.raises(ValueError, match="there are none"):
        Baseline.of(model, [])
    model.train()
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        explanation(model, torch.randn(2, 3, 65, 65, dtype=torch.float64))
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="one class decides nothing"):
        explanation(build_pspnet(1, depth=18, stem="plain", width=8).eval(), torch.randn(1, 3, 65, 65))
