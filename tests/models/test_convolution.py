"""The network's 3x3 convolutions: when they go by Winograd's products, and that nothing but the time tells."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pspnet_lightning.models import PSPNet, build_pspnet, exchange_convolutions
from pspnet_lightning.models.fast import convolution, restore_convolutions
from pspnet_lightning.models.fast.convolution import FastConv2d, _Convolution, _WeightGradient, conv3x3
from pspnet_lightning.models.fast.depthwise import WidenedConv2d, WidenedSameConv
from pspnet_lightning.models.same_padding import SameConv
from pspnet_lightning.training.losses import CrossEntropy, segmentation_loss


def difference(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def values(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def image(*shape: int) -> Tensor:
    return values(*shape).contiguous(memory_format=torch.channels_last)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that were convolved by Winograd's products."""
    seen: list[tuple[int, ...]] = []
    plain = convolution.convolve

    def watched(x: Tensor, *args: object, **options: object) -> Tensor:
        seen.append(tuple(x.shape))
        return plain(x, *args, **options)

    monkeypatch.setattr(convolution, "convolve", watched)
    return seen


# ---------------------------------------------------------------------- derivatives


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("dilation", [1, 2])
def test_first_second_and_forward_derivatives(dilation: int, mirrored: bool) -> None:
    x = values(2, 2 if mirrored else 3, 4, 3, dtype=torch.float64).requires_grad_()
    weight = values(2, 3, 3, 3, dtype=torch.float64, seed=1).requires_grad_()
    bias = None if mirrored else values(2, dtype=torch.float64, seed=2).requires_grad_()

    def function(*inputs: Tensor) -> Tensor:
        return _Convolution.apply(*inputs, *([None] if mirrored else []), dilation, mirrored)

    inputs = (x, weight) if bias is None else (x, weight, bias)
    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, inputs)
    y = values(2, 2, 4, 3, dtype=torch.float64, seed=3).requires_grad_()
    if not mirrored:
        pair = lambda *inputs: _WeightGradient.apply(*inputs, dilation)  # noqa: E731
        assert torch.autograd.gradcheck(pair, (x, y), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(pair, (x, y))


def test_functional_transforms(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FEW_CHANNELS", "_MANY_CHANNELS", "_POSITIONS"):
        monkeypatch.setattr(convolution, name, 1)
    x, weight = image(3, 4, 6, 6), values(5, 4, 3, 3, seed=1)

    def loss(weight: Tensor, x: Tensor, winograd: bool) -> Tensor:
        y = conv3x3(x, weight) if winograd else F.conv2d(x, weight, padding=1)
        return y.square().sum()

    for transform in (
        lambda winograd: torch.func.grad(loss)(weight, x, winograd),
        lambda winograd: torch.func.jvp(lambda w: loss(w, x, winograd), (weight,), (values(5, 4, 3, 3, seed=2),))[1],
        # A gradient for each image.
        lambda winograd: torch.vmap(torch.func.grad(loss), in_dims=(None, 0, None))(weight, x[:, None], winograd),
    ):
        assert difference(transform(True), transform(False)) < 1e-5


# ---------------------------------------------------------------------- where it is taken


def test_it_is_taken_for_large_float32_convolutions_on_a_cpu_only(calls: list[tuple[int, ...]]) -> None:
    x, weight = image(1, 256, 32, 33), values(128, 256, 3, 3, seed=1) / 48

    def direct(x: Tensor, weight: Tensor, **options: int) -> Tensor:
        dilation = options.get("dilation", 1)
        return F.conv2d(x, weight, padding=dilation, dilation=dilation)

    for inputs, options in (
        ((x.contiguous(memory_format=torch.contiguous_format), weight), {}),
        ((x.double(), weight.double()), {}),
        ((x.bfloat16(), weight.bfloat16()), {}),
        ((x[:, :, :20], weight), {}),  # few positions
        ((x, weight[:100]), {}),  # few channels
        ((x[:, :128], weight[:, :128]), {}),
        ((x, weight), {"dilation": 16}),  # tiles of 48 x 48
    ):
        assert torch.equal(conv3x3(*inputs, **options), direct(*inputs, **options))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv3x3(x, weight), direct(x, weight))
    assert torch.equal(torch.jit.trace(lambda x: conv3x3(x, weight), (x,), check_trace=False)(x), direct(x, weight))
    program = torch.export.export(exchange_convolutions(nn.Conv2d(256, 128, 3, padding=1)), (x,))
    assert "aten.conv2d" in str(program.graph)
    assert calls == []
    answered = conv3x3(x, weight)
    assert calls == [tuple(x.shape)]
    assert not torch.equal(answered, direct(x, weight))
    assert difference(answered, direct(x, weight)) < 3e-6


def test_a_gradient_asked_for_under_autocast_is_that_of_the_precision_it_was_computed_in() -> None:
    x, weight = image(1, 256, 32, 33), (values(256, 256, 3, 3, seed=1) / 48).requires_grad_()
    loss = conv3x3(x, weight).square().sum()
    (outside,) = torch.autograd.grad(loss, weight, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        (inside,) = torch.autograd.grad(loss, weight)
    assert torch.equal(inside, outside)


def test_the_exchange_takes_large_convolutions_that_keep_the_size_and_leaves_all_else() -> None:
    large = nn.Conv2d(128, 256, 3, padding=2, dilation=2)
    others = [
        nn.Conv2d(128, 256, 3, padding=1, stride=2),
        nn.Conv2d(128, 256, 3),
        nn.Conv2d(128, 256, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(256, 256, 3, padding=1, groups=2),
        nn.Conv2d(128, 256, (3, 1), padding=(1, 0)),
        nn.Conv2d(128, 256, 1),
        nn.Conv2d(128, 128, 3, padding=1),
        nn.Conv2d(64, 256, 3, padding=1),
        nn.ConvTranspose2d(256, 256, 3, padding=1),
    ]
    network = nn.Sequential(large, *others)
    before = network.state_dict()
    assert exchange_convolutions(network) is network
    assert type(network[0]) is FastConv2d
    assert [type(module) for module in network[1:]] == [nn.Conv2d] * 8 + [nn.ConvTranspose2d]
    assert all(
        value is before[name] or torch.equal(value, before[name]) for name, value in network.state_dict().items()
    )
    assert network.state_dict().keys() == before.keys()
    assert type(restore_convolutions(network)[0]) is nn.Conv2d


# ---------------------------------------------------------------------- depthwise ones


@pytest.mark.parametrize("kind", [nn.Conv2d, SameConv])
def test_depthwise_ones_train_in_float32_under_bfloat16_autocast(kind: type[nn.Conv2d]) -> None:
    torch.manual_seed(0)
    plain = kind(24, 24, 5, stride=2, groups=24, bias=True)
    network = exchange_convolutions(nn.Sequential(copy.deepcopy(plain)))
    x = image(2, 24, 33, 40).bfloat16()
    leaf = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        answered = network(leaf)
        with torch.no_grad():
            assert torch.equal(network(x), plain(x))  # nothing but training differs
    assert answered.dtype == torch.bfloat16
    answered.float().square().sum().backward()
    exact = plain.double()
    reference = x.double().requires_grad_()
    expected = exact(reference)
    expected.backward(2 * answered.detach().double())
    assert difference(answered.detach(), expected.detach()) < 3e-3  # one rounding to bfloat16
    # In bfloat16 all the way the weight's gradient is rounded to 8 bits; here only what goes in is.
    assert difference(network[0].weight.grad, exact.weight.grad) < 1e-6
    assert difference(network[0].bias.grad, exact.bias.grad) < 1e-6
    assert leaf.grad is not None
    assert difference(leaf.grad, reference.grad) < 3e-3


def test_which_are_widened() -> None:
    network = nn.Sequential(
        nn.Conv2d(8, 8, 3, groups=8), SameConv(8, 16, 3, groups=8), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(1, 8, 3)
    )
    before = [type(each) for each in network]
    exchange_convolutions(network)
    widened = [WidenedConv2d, WidenedSameConv, nn.Conv2d, nn.Conv2d]
    assert [type(each) for each in network] == widened
    assert [type(each) for each in restore_convolutions(copy.deepcopy(network))] == before
    assert [type(each) for each in network] == widened
    program = torch.export.export(network[0], (torch.zeros(1, 8, 9, 9),))
    assert "float" not in "".join(str(node.target) for node in program.graph.nodes)


# ---------------------------------------------------------------------- the network


@pytest.fixture(scope="module")
def networks() -> tuple[PSPNet, PSPNet]:
    """With Winograd's products and without; stage 4 has 256 channels, stage 3 has 128."""
    found = []
    for winograd in (True, False):
        torch.manual_seed(0)
        network = build_pspnet(21, depth=18, width=32, head_channels=128, dropout=0.0)
        found.append((exchange_convolutions(network) if winograd else network).to(memory_format=torch.channels_last))
    return found[0], found[1]


def step(network: PSPNet, dtype: torch.dtype = torch.float32) -> tuple[Tensor, dict[str, Tensor]]:
    network = copy.deepcopy(network).to(dtype).train()
    target = torch.randint(0, 21, (2, 185, 185), generator=torch.Generator().manual_seed(0))
    output = network(image(2, 3, 185, 185).to(dtype), upsample=False)
    loss = segmentation_loss(output, target, CrossEntropy(), 0.4).total
    loss.backward()
    return loss.detach(), {name: value.grad for name, value in network.named_parameters() if value.grad is not None}


def whole(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten().double() for value in gradients.values()])


def test_a_training_step_is_the_direct_ones(networks: tuple[PSPNet, PSPNet], calls: list[tuple[int, ...]]) -> None:
    fast, direct = networks
    assert list(fast.state_dict()) == list(direct.state_dict())
    true_loss, true_gradients = step(direct, torch.float64)
    direct_loss, direct_gradients = step(direct)
    assert calls == []
    loss, gradients = step(fast)
    # Stage 4's first with 128 channels in and three more, the head's own; each again for the gradient of its input.
    assert len(calls) == 2 * (4 + 1)
    assert difference(loss, direct_loss) < 1e-6 > difference(loss, true_loss)
    # With random weights a float32 gradient is a percent off what float64 has, for gates that open or not; no more so.
    off = difference(whole(direct_gradients), whole(true_gradients))
    assert difference(whole(gradients), whole(true_gradients)) < 1.2 * off < 0.05
    assert difference(whole(gradients), whole(direct_gradients)) < off
    for name, gradient in gradients.items():
        # In the parameter's own layout: an optimiser need not rearrange it.
        assert gradient.stride() == dict(fast.named_parameters())[name].stride(), name


def test_the_same_bits_on_each_run(networks: tuple[PSPNet, PSPNet]) -> None:
    loss, gradients = step(networks[0])
    again, more = step(networks[0])
    assert torch.equal(loss, again)
    assert all(torch.equal(gradients[name], more[name]) for name in gradients)


def test_hooks_and_frozen_parts(networks: tuple[PSPNet, PSPNet], calls: list[tuple[int, ...]]) -> None:
    network = copy.deepcopy(networks[0]).train()
    network.backbone.requires_grad_(False)
    shapes = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    network(image(2, 3, 185, 185)).logits.sum().backward()
    # Without a gradient into the backbone nothing is convolved backwards.
    assert len(calls) == 4 + 1
    assert len(shapes) == sum(isinstance(module, nn.Conv2d) for module in network.modules()) - 1  # the head's, split
    assert network.backbone.layer4[1].conv1.weight.grad is None
    assert network.head.conv.weight.grad is not None


def test_products_are_less_than_half(networks: tuple[PSPNet, PSPNet]) -> None:
    x, weight = image(1, 256, 60, 60), values(256, 256, 3, 3, seed=1).requires_grad_()
    counts = []
    for winograd in (True, False):
        with FlopCounterMode(display=False) as counter:
            y = conv3x3(x.requires_grad_(), weight) if winograd else F.conv2d(x.requires_grad_(), weight, padding=1)
            y.sum().backward()
        counts.append(counter.get_total_flops())
    assert 0.30 < counts[0] / counts[1] < 0.33
