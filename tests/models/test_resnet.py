"""The backbones are torchvision's ResNets, dilated."""

from __future__ import annotations

import pytest
import torch
import torchvision.models

from pspnet_lightning.models.resnet import ResNet


def without_classifier(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value for key, value in network.state_dict().items() if not key.startswith("fc.")}


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_key_names_and_shapes_are_torchvisions(depth: int) -> None:
    theirs = without_classifier(getattr(torchvision.models, f"resnet{depth}")(weights=None))
    own = ResNet(depth).state_dict()
    assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in theirs.items()}


@pytest.mark.parametrize(
    ("depth", "output_stride", "replaced"),
    [(18, 32, None), (50, 32, None), (50, 16, [False, False, True]), (50, 8, [False, True, True])],
)
def test_features_equal_torchvisions(depth: int, output_stride: int, replaced: list[bool] | None) -> None:
    torch.manual_seed(0)
    options = {} if replaced is None else {"replace_stride_with_dilation": replaced}
    theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None, **options).eval()
    own = ResNet(depth, output_stride=output_stride, dilation="first_previous").eval()
    own.load_state_dict(without_classifier(theirs))
    x = torch.randn(1, 3, 75, 98)
    with torch.no_grad():
        y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        answers = own(x)
        for number, answered in enumerate(answers, start=1):
            y = getattr(theirs, f"layer{number}")(y)
            torch.testing.assert_close(answered, y, rtol=1e-5, atol=1e-5)
    assert answers[-1].shape[-2:] == (-(-75 // output_stride), -(-98 // output_stride))
    assert own.channels == tuple(each.shape[1] for each in answers)
    assert own.strides == tuple(min(stride, output_stride) for stride in (4, 8, 16, 32))


def test_the_official_pattern_dilates_every_block() -> None:
    def rates(dilation: str) -> list[int]:
        network = ResNet(50, dilation=dilation)
        return [block.conv2.dilation[0] for stage in (network.layer3, network.layer4) for block in stage]

    assert rates("every") == [2] * 6 + [4] * 3
    assert rates("first_previous") == [1] + [2] * 5 + [2] + [4] * 2


def test_of_a_basic_block_mmseg_dilates_the_first_convolution_only() -> None:
    def rates(dilation: str) -> list[tuple[int, int]]:
        network = ResNet(18, dilation=dilation)
        blocks = (*network.layer3, *network.layer4)
        return [(block.conv1.dilation[0], block.conv2.dilation[0]) for block in blocks]

    assert rates("every") == [(2, 2), (2, 2), (4, 4), (4, 4)]
    assert rates("first_previous") == [(1, 1), (2, 1), (2, 1), (4, 1)]


def test_stride_on_the_first_convolution_is_caffes() -> None:
    network = ResNet(50, stride_on="1x1")
    assert (network.layer2[0].conv1.stride, network.layer2[0].conv2.stride) == ((2, 2), (1, 1))
    assert (ResNet(50).layer2[0].conv1.stride, ResNet(50).layer2[0].conv2.stride) == ((1, 1), (2, 2))


def test_resnet_269_and_the_deep_stem() -> None:
    network = ResNet(269, stem="deep", stem_widths=(32, 32, 64))
    assert [len(stage) for stage in (network.layer1, network.layer2, network.layer3, network.layer4)] == [
        3,
        30,
        48,
        8,
    ]
    assert [tuple(layer.weight.shape[:2]) for layer in (network.conv1, network.conv2, network.conv3)] == [
        (32, 3),
        (32, 32),
        (64, 32),
    ]
    # 3 convolutions of the stem and 3 in each of 89 blocks; the 269th layer is the classifier.
    assert sum(3 for stage in (3, 30, 48, 8) for _ in range(stage)) + 1 + 1 == 269


@pytest.mark.parametrize("stem", ["plain", "deep"])
def test_the_stems_map_is_the_finest(stem: str) -> None:
    torch.manual_seed(0)
    four = ResNet(18, stem=stem, stem_widths=(4, 6, 10), width=8, output_stride=32).eval()
    five = ResNet(18, stem=stem, stem_widths=(4, 6, 10), width=8, output_stride=32, finest_stride=2).eval()
    five.load_state_dict(four.state_dict())
    assert five.strides == (2, 4, 8, 16, 32)
    assert five.channels == (8 if stem == "plain" else 10, 8, 16, 32, 64)
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        finest, *others = five(x)
        assert finest.shape == (1, five.channels[0], 33, 49)
        assert all(torch.equal(a, b) for a, b in zip(others, four(x), strict=True))
        # What is pooled is what is answered: nothing later changed it in place.
        assert torch.equal(five.layer1(five.maxpool(finest)), others[0])


@pytest.mark.parametrize(
    "arguments",
    [
        {"depth": 49},
        {"stem": "v1c"},
        {"output_stride": 4},
        {"dilation": "none"},
        {"stride_on": "5x5"},
        {"finest_stride": 1},
        {"width": 0},
    ],
)
def test_arguments(arguments: dict[str, object]) -> None:
    (name, value), *_ = arguments.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}"):
        ResNet(**arguments)
