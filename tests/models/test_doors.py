"""Networks of other parts: what a backbone, a head and a fusion of one's own can do, and what is said where not."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from torch import Tensor, nn

from pspnet_lightning.explain.contributions import explanation, head_shares, logit_shares, require_sum
from pspnet_lightning.export import ExportableProgram
from pspnet_lightning.models import PSPNet, build_pspnet, fold_batchnorm, prepare_for_inference
from pspnet_lightning.models.build import HEADS
from pspnet_lightning.models.fcn import FCNHead
from pspnet_lightning.models.pyramid import PyramidHead
from pspnet_lightning.models.resnet import ResNet
from pspnet_lightning.models.same_padding import SAME
from pspnet_lightning.models.timm_backbone import TimmBackbone
from pspnet_lightning.models.uper import UPerHead

SMALL: dict[str, Any] = {"depth": 18, "stem": "plain", "width": 8}


def difference(a: Tensor, b: Tensor) -> float:
    return float(((a - b).abs().max() / b.abs().max()).detach())


def trained(module: Any) -> Any:
    """BatchNorm statistics and scales as a training leaves them, none of them the identity."""
    generator = torch.Generator().manual_seed(3)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for values, low, high in (
                (part.weight, 0.5, 1.5),
                (part.bias, -0.3, 0.3),
                (part.running_mean, -0.3, 0.3),
                (part.running_var, 0.5, 2.0),
            ):
                values.data.copy_(torch.rand(values.shape, generator=generator) * (high - low) + low)
    return module.eval()


def head(fusion: str, **options: Any) -> PyramidHead:
    torch.manual_seed(0)
    return trained(PyramidHead([12], 5, head_channels=7, fusion=fusion, dropout=0.0, **options).double())


# ---------------------------------------------------------------------- fusion


@pytest.mark.parametrize("fusion", ["concat", "sum"])
@pytest.mark.parametrize("align_corners", [True, False])
def test_linear_fusions_are_convolved_exactly(fusion: str, align_corners: bool) -> None:
    exact = head(fusion, bins=(1, 2, 6), align_corners=align_corners)
    plain = copy.deepcopy(exact)
    plain.execution = "concat"
    results = []
    for each in (exact.train(), plain.train()):
        x = torch.randn(2, 12, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = each([x])
        (y * torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2))).sum().backward()
        results.append([y.detach(), x.grad, each.conv.weight.grad])
    for answered, expected in zip(*results, strict=True):
        assert difference(answered, expected) < 1e-12


def test_what_the_fusions_compute() -> None:
    """Against each formula, written out."""
    x = torch.randn(2, 12, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for name, channels in (("concat", 12), ("sum", 4), ("gate", 4), ("attention", 4)):
        network = head(name, bins=(1, 2, 5), align_corners=True)
        levels = network.pyramid(x)
        maps = [nn.functional.interpolate(each, (9, 11), mode="bilinear", align_corners=True) for each in levels]
        context = network.fusion(x, levels)
        assert network.fusion.channels == channels == context.shape[1]
        if name == "concat":
            expected = torch.cat(maps, dim=1)
        elif name == "sum":
            expected = maps[0] + maps[1] + maps[2]
        elif name == "gate":
            gates = torch.einsum("kc,nchw->nkhw", network.fusion.weights.weight[:, :, 0, 0], x)
            gates = (gates + network.fusion.weights.bias.view(1, -1, 1, 1)).softmax(dim=1)
            expected = sum(gates[:, [number]] * each for number, each in enumerate(maps))
        else:
            query = network.fusion.query(x)
            cells = [
                level[:, :, i, j] for level in levels for i in range(level.shape[2]) for j in range(level.shape[3])
            ]
            scores = torch.stack([(query * network.fusion.key(c)[:, :, None, None]).sum(1) / 2 for c in cells])
            values = torch.stack([network.fusion.value(cell) for cell in cells])
            expected = torch.einsum("snhw,snc->nchw", scores.softmax(dim=0), values)
        assert difference(context, expected) < 1e-12, name


@pytest.mark.parametrize("fusion", ["concat", "sum", "gate"])
def test_shares_of_the_scales_add_up(fusion: str) -> None:
    network = head(fusion, bins=(1, 3))
    x = torch.randn(2, 12, 9, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parts = head_shares(network, [x])
    assert parts.sources == ("backbone", "bin 1", "bin 3")
    assert difference(logit_shares(network, parts).sum(dim=0), network([x])) < 1e-12
    # Without a scale: the context without its part.
    levels = network.pyramid(x)
    levels[1] = torch.zeros_like(levels[1])
    assert difference(parts.pre_activation(without=2), network._plain(x, levels)) < 1e-12


def test_attention_is_no_sum_and_says_so() -> None:
    model = build_pspnet(4, **SMALL, fusion="attention").eval()
    with pytest.raises(ValueError, match=r"model\.fusion needs parts\(\), which Attention has not"):
        explanation(model, torch.randn(1, 3, 65, 65))


# ---------------------------------------------------------------------- heads and backbones


def require_the_same_function(network: PSPNet, tolerance: float = 1e-5) -> None:
    """Prepared, folded and as a program for files, at sizes that no stride divides."""
    others = [prepare_for_inference(network), fold_batchnorm(network), ExportableProgram(network)]
    for size in ((97, 121), (64, 33)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            expected = network(x)
            assert expected.shape == (2, network.num_classes, *size)
            for other in others:
                assert difference(other(x), expected) < tolerance


@pytest.mark.parametrize("name", HEADS)
def test_each_head(name: str) -> None:
    torch.manual_seed(0)
    network = build_pspnet(5, **SMALL, output_stride=16, head=name)
    output = network(torch.randn(2, 3, 65, 81))
    assert output.logits.shape == output.aux_logits.shape == (2, 5, 65, 81)
    output.logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.head.parameters())
    assert network.low_logits(torch.zeros(2, 3, 64, 64)).shape[-1] == (16 if name == "uper" else 4)
    require_the_same_function(trained(network))


@pytest.mark.parametrize("backbone", [None, "tf_efficientnet_lite0"])
def test_uper_down_to_stride_2(backbone: str | None) -> None:
    torch.manual_seed(0)
    small = SMALL if backbone is None else {}
    network = build_pspnet(
        5, **small, backbone=backbone, output_stride=32, head="uper", finest_stride=2, head_channels=8, auxiliary=False
    )
    assert network.backbone.strides == (2, 4, 8, 16, 32)
    assert network.low_logits(torch.zeros(2, 3, 65, 81)).shape == (2, 5, 33, 41)
    require_the_same_function(trained(network))


def test_the_pyramid_of_uper_is_convolved_exactly() -> None:
    torch.manual_seed(0)
    exact = trained(UPerHead([8, 12, 16], 5, head_channels=7)).double()
    plain = copy.deepcopy(exact)
    plain.pyramid.execution = "concat"
    features = [torch.randn(2, c, 33 // s, 40 // s, dtype=torch.float64) for c, s in ((8, 1), (12, 2), (16, 4))]
    assert difference(exact(features), plain(features)) < 1e-12


# One of each family that timm dilates and whose images are normalised as torchvision's.
DILATED = (
    "resnet18",
    "convnext_atto",
    "efficientnet_b0",
    "regnetx_002",
    "mobilenetv3_small_050",
    "resnest14d",
    "res2net50_14w_8s",
)


@pytest.mark.parametrize(
    ("name", "output_stride", "strides", "mean"),
    [
        ("tf_efficientnet_lite0", 16, (4, 8, 16, 16), 127.5),
        *(pytest.param(name, 8, (4, 8, 8, 8), 123.675, marks=pytest.mark.slow) for name in DILATED),
        pytest.param("mobilevit_xxs", 8, (4, 8, 8, 8), 0.0, marks=pytest.mark.slow),
        pytest.param("mobilevitv2_050", 8, (4, 8, 8, 8), 0.0, marks=pytest.mark.slow),
        pytest.param("swin_tiny_patch4_window7_224", 8, (4, 8, 16, 32), 123.675, marks=pytest.mark.slow),
        pytest.param("vit_tiny_patch16_224", 8, (16, 16, 16), 127.5, marks=pytest.mark.slow),
    ],
)
def test_networks_of_timm(
    name: str, output_stride: int, strides: tuple[int, ...], mean: float, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    network = build_pspnet(5, backbone=name, output_stride=output_stride)
    said = f"{name} cannot be dilated to output stride {output_stride}: it keeps its own, {strides[-1]}"
    assert (said in caplog.text) == (strides[-1] != output_stride)
    assert network.backbone.strides == strides
    assert network.backbone.mean[0] == pytest.approx(mean)
    with torch.no_grad():
        maps = network.backbone.eval()(torch.randn(1, 3, 97, 121))
    wanted = [(c, -(-97 // s), -(-121 // s)) for c, s in zip(network.backbone.channels, strides, strict=True)]
    assert [tuple(each.shape[1:]) for each in maps] == wanted
    require_the_same_function(trained(network))


def test_a_name_of_an_earlier_timm() -> None:
    assert TimmBackbone("mnasnet_b1").mean == (123.675, 116.28, 103.53)  # mnasnet_100


def test_timms_padding_in_operations_for_exporters() -> None:
    """The same values as timm's modules, also where a stride leaves out what a kernel never sees."""
    compared = 0
    for kernel, stride, dilation in itertools.product((1, 2, 3, 5), (1, 2, 4), (1, 2)):
        modules: list[Any] = [
            Conv2dSame(3, 4, kernel, stride, dilation=dilation),
            AvgPool2dSame(kernel, stride),
            MaxPool2dSame(kernel, stride, dilation=dilation),
        ]
        for module in modules:
            x = torch.randn(1, 3, 17, 12)
            expected = module(x)
            module.__class__ = SAME[type(module).__name__]
            assert torch.equal(module(x), expected)
            compared += 1
    assert compared == 72


def test_what_is_no_backbone_of_timm() -> None:
    with pytest.raises(ValueError, match=r"model\.backbone='resnet51' is no network of timm; near are: resnet51q"):
        build_pspnet(5, backbone="resnet51")
    with pytest.raises(ValueError, match="is no network of timm"):
        build_pspnet(5, backbone="hf-hub:somebody/resnet18")
    with pytest.raises(ValueError, match=r"does not take an image of 64 x 128, .*divisible"):
        build_pspnet(5, backbone="maxvit_rmlp_pico_rw_256")


# ---------------------------------------------------------------------- parts of one's own


class OneMap(nn.Module):
    """A backbone of one map, whose BatchNorm stands before its convolution."""

    in_channels, channels, strides = 3, (8,), (4,)

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 8, 7, stride=4, padding=3)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.conv(self.bn(x))]


class Swapped(OneMap):
    """Registers a convolution before its BatchNorm and calls it after."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.last = nn.Conv2d(3, 8, 7, stride=4, padding=3)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.last(self.conv(self.bn(x)))]


class Plain(nn.Module):
    """A head of one convolution."""

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.classifier = nn.Conv2d(channels[-1], num_classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.classifier(features[-1])


def test_a_network_of_own_parts() -> None:
    torch.manual_seed(0)
    network = build_pspnet(5, backbone=OneMap, head=Plain, auxiliary=False)
    x = torch.randn(2, 3, 37, 50)
    output = network(x)
    assert (output.logits.shape, output.aux_logits) == ((2, 5, 37, 50), None)
    assert len(list(network.new_parameters())) == 2
    network.eval()
    prepared = prepare_for_inference(network)
    assert isinstance(prepared.backbone.bn, nn.BatchNorm2d)  # nothing to fold it into
    assert difference(prepared(x), network(x)) < 1e-6
    with pytest.raises(
        ValueError, match=r"pspnet-explain needs sources and bn and source_values\(\).*which Plain has not"
    ):
        require_sum(network)


def test_what_is_called_in_another_order_is_not_folded() -> None:
    torch.manual_seed(0)
    network = trained(PSPNet(Swapped(), Plain([8], 3)))
    with pytest.raises(ValueError, match="BatchNorms of PSPNet cannot be folded"):
        fold_batchnorm(network)
    x = torch.randn(2, 3, 37, 50)
    assert difference(prepare_for_inference(network)(x), network(x)) < 1e-6


def test_parts_that_lack_something() -> None:
    with pytest.raises(ValueError, match="PSPNet needs in_channels and channels and strides, which Identity has not"):
        PSPNet(nn.Identity(), Plain([8], 3))
    with pytest.raises(ValueError, match="a head of a PSPNet needs num_classes, which Identity has not"):
        PSPNet(OneMap(), nn.Identity())
    with pytest.raises(ValueError, match="head answers 3 classes, the auxiliary head 4"):
        PSPNet(ResNet(18), Plain([8], 3), Plain([8], 4))
    with pytest.raises(ValueError, match=r"map -2, but it answers 1: give model\.auxiliary=false"):
        build_pspnet(3, backbone=OneMap)
    wrong = OneMap()
    wrong.channels = (9,)
    with pytest.raises(ValueError, match=r"OneMap says channels=\[9\] and answers maps of shapes \[\(1, 8, 17, 17\)\]"):
        PSPNet(wrong, Plain([8], 3)).eval()(torch.randn(1, 3, 65, 65))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "pyramids"}, r"model\.head='pyramids' must be one of 'pyramid', 'fcn'"),
        ({"fusion": "add"}, r"model\.fusion='add' must be one of 'concat', 'sum'"),
        ({"backbone": OneMap, "depth": 101}, r"model\.depth=101 says nothing to backbone=OneMap"),
        ({"head": "fcn", "bins": [1]}, r"model\.bins=\[1\] says nothing to head='fcn'"),
        ({"backbone": OneMap, "output_stride": 16}, r"model\.output_stride=16 says nothing to backbone=OneMap"),
        ({"head": Plain, "bins": [1]}, r"model\.bins=\[1\] says nothing to head=Plain"),
        ({"head": Plain, "head_channels": 8}, r"model\.head_channels=8 says nothing to head=Plain"),
        ({"head": "fcn", "fusion": "sum"}, r"model\.fusion='sum' says nothing to head='fcn'"),
        ({"finest_stride": 2}, r"model\.finest_stride=2 says nothing to head='pyramid'"),
        (
            {"backbone": OneMap, "head": "uper", "finest_stride": 2},
            r"model\.finest_stride=2 says nothing to backbone=OneMap",
        ),
        (
            {"backbone": "pvt_v2_b0", "head": "uper", "finest_stride": 2},
            r"model\.finest_stride=2: the finest map of pvt_v2_b0 has stride 4",
        ),
        ({"num_classes": 0}, "num_classes=0 must be at least 1"),
        ({"dropout": 1.0}, r"dropout=1\.0 must be a probability"),
    ],
)
def test_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_pspnet(**{"num_classes": 3, **arguments})


def test_a_head_of_another_build_in_a_subclass() -> None:
    class DeepLab(PSPNet):
        def __init__(self, num_classes: int) -> None:
            backbone = ResNet(18, width=8)
            super().__init__(backbone, FCNHead(backbone.channels, num_classes, head_channels=6))

    torch.manual_seed(0)
    network = trained(DeepLab(4))
    x = torch.randn(1, 3, 65, 81)
    assert difference(fold_batchnorm(network)(x), network(x)) < 1e-5
