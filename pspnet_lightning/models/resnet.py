"""Dilated ResNets with torchvision's key names: 18, 34, 50, 101, 152 and the paper's 269."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn

# Blocks of the four stages; ResNet-269 is the paper's (Zhao et al., CVPR 2017, section 5.2).
STAGE_BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    269: (3, 30, 48, 8),
}
_TORCHVISION_DEPTHS = (18, 34, 50, 101, 152)
STEMS = ("plain", "deep")
DILATIONS = ("every", "first_previous")
STRIDES_ON = ("3x3", "1x1")


def one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raises ValueError naming the argument, its value and what is allowed."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, allowed))}")


def conv3x3(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps the size, but for its stride."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and 34); ``every``: the second is dilated too."""

    expansion = 1

    def __init__(
        self,
        inputs: int,
        planes: int,
        stride: int,
        dilation: int,
        downsample: nn.Module | None,
        stride_on: str,
        every: bool,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, planes, stride=stride, dilation=dilation)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(planes, planes, dilation=dilation if every else 1)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        # In place: neither convolution nor BatchNorm keeps its output for the gradient.
        x += shortcut
        return self.relu(x)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut (ResNet-50 and deeper)."""

    expansion = 4

    def __init__(
        self,
        inputs: int,
        planes: int,
        stride: int,
        dilation: int,
        downsample: nn.Module | None,
        stride_on: str,
        every: bool,
    ) -> None:
        super().__init__()
        first, second = (1, stride) if stride_on == "3x3" else (stride, 1)
        self.conv1 = nn.Conv2d(inputs, planes, 1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes, stride=second, dilation=dilation)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        x += shortcut
        return self.relu(x)


class ResNet(nn.Module):
    """A ResNet without classifier whose last stages are dilated instead of strided.

    A ``Backbone``: ``forward(x)`` takes (N, in_channels, H, W) and answers the four stages, (N, channels[i], h, w) with
    h = ceil(H / strides[i]) of each; with ``finest_stride=2`` the stem's map before them.

    Args:
        depth: 18, 34, 50, 101, 152 or 269.
        stem: "plain", one 7x7 (torchvision), or "deep", three 3x3 (the official PSPNet).
        stem_widths: channels of the deep stem's convolutions: 64-64-128 official, 32-32-64 V1c.
        width: channels of stage 1 before expansion; 64 in all published networks.
        output_stride: 8, 16 or 32: of stage 4, relative to the input.
        finest_stride: 4, or 2: the map before max-pooling is answered too.
        dilation: "every": all 3x3 of a dilated stage have its rate (official semseg); "first_previous": the
            first block keeps the rate of the stage before (torchvision, mmseg), and of the two 3x3 of a
            ResNet-18 or 34's block only the first is dilated (mmseg; torchvision dilates none of them).
        stride_on: where a bottleneck strides: its "3x3" (PyTorch) or its first "1x1" (Caffe).

    Raises ValueError for any value outside these.
    """

    def __init__(
        self,
        depth: int = 50,
        *,
        stem: str = "plain",
        stem_widths: Sequence[int] = (64, 64, 128),
        width: int = 64,
        in_channels: int = 3,
        output_stride: int = 8,
        finest_stride: int = 4,
        dilation: str = "every",
        stride_on: str = "3x3",
    ) -> None:
        super().__init__()
        one_of("depth", depth, tuple(STAGE_BLOCKS))
        one_of("stem", stem, STEMS)
        one_of("output_stride", output_stride, (8, 16, 32))
        one_of("finest_stride", finest_stride, (2, 4))
        one_of("dilation", dilation, DILATIONS)
        one_of("stride_on", stride_on, STRIDES_ON)
        if width < 1 or in_channels < 1:
            raise ValueError(f"width={width} and in_channels={in_channels} must be at least 1")
        self.depth = depth
        self.stem = stem
        self.in_channels = in_channels
        self._dilation = dilation
        self._stride_on = stride_on
        self._block: type[BasicBlock] | type[Bottleneck] = BasicBlock if depth < 50 else Bottleneck

        self.relu = nn.ReLU(inplace=True)
        if stem == "plain":
            self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self._inputs = width
        else:
            if len(stem_widths) != 3 or min(stem_widths) < 1:
                raise ValueError(f"stem_widths={list(stem_widths)} must be three positive channel counts")
            first, second, third = stem_widths
            self.conv1 = conv3x3(in_channels, first, stride=2)
            self.bn1 = nn.BatchNorm2d(first)
            self.conv2 = conv3x3(first, second)
            self.bn2 = nn.BatchNorm2d(second)
            self.conv3 = conv3x3(second, third)
            self.bn3 = nn.BatchNorm2d(third)
            self._inputs = third
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.finest_stride, stem_channels = finest_stride, self._inputs

        self._rate, self._stride = 1, 4
        blocks = STAGE_BLOCKS[depth]
        strides = []

        def stage(number: int) -> nn.Sequential:
            made = self._stage(width * 2**number, blocks[number], 1 if number == 0 else 2, output_stride)
            strides.append(self._stride)
            return made

        self.layer1, self.layer2, self.layer3, self.layer4 = (stage(number) for number in range(4))
        self.channels = tuple(width * 2**number * self._block.expansion for number in range(4))
        self.strides = tuple(strides)
        if finest_stride == 2:
            self.channels, self.strides = (stem_channels, *self.channels), (2, *self.strides)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stage(self, planes: int, blocks: int, stride: int, output_stride: int) -> nn.Sequential:
        previous = self._rate
        if stride > 1 and self._stride * stride > output_stride:
            self._rate *= stride
            stride = 1
        self._stride *= stride
        first_rate = self._rate if self._dilation == "every" else previous
        outputs = planes * self._block.expansion
        downsample = None
        if stride != 1 or self._inputs != outputs:
            downsample = nn.Sequential(
                nn.Conv2d(self._inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
        options = self._stride_on, self._dilation == "every"
        stage = [self._block(self._inputs, planes, stride, first_rate, downsample, *options)]
        self._inputs = outputs
        stage += [self._block(outputs, planes, 1, self._rate, None, *options) for _ in range(1, blocks)]
        return nn.Sequential(*stage)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.relu(self.bn1(self.conv1(x)))
        if self.stem == "deep":
            x = self.relu(self.bn2(self.conv2(x)))
            x = self.relu(self.bn3(self.conv3(x)))
        stage1 = self.layer1(self.maxpool(x))
        stage2 = self.layer2(stage1)
        stage3 = self.layer3(stage2)
        stages = stage1, stage2, stage3, self.layer4(stage3)
        return (x, *stages) if self.finest_stride == 2 else stages

    def imagenet_weights(self) -> Mapping[str, Tensor]:
        """torchvision's IMAGENET1K_V1, downloaded into torch's hub folder and checked against their hash."""
        if self.stem != "plain" or self.depth not in _TORCHVISION_DEPTHS:
            raise ValueError(
                f"model.pretrained=true: torchvision has no ImageNet weights for depth {self.depth} with the "
                f"{self.stem} stem; take model.stem=plain with depth {', '.join(map(str, _TORCHVISION_DEPTHS))}, or "
                f"give a file: model.pretrained=PATH"
            )
        # Imported here: torchvision takes a second to import, and only this needs it.
        from torchvision.models import get_model_weights

        url = get_model_weights(f"resnet{self.depth}")["IMAGENET1K_V1"].url
        try:
            return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
        except (URLError, OSError) as error:
            raise ValueError(
                f"model.pretrained=true: cannot download {url} ({error}). Fetch this file where there is a network and "
                f"put it into {Path(torch.hub.get_dir()) / 'checkpoints'}, or give it with model.pretrained=PATH"
            ) from error

    def of_classifier(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        skipped = [key for key in tensors if key.startswith("fc.")]
        return {key: value for key, value in tensors.items() if key not in skipped}, skipped

    def receptive_field(self) -> tuple[int, int]:
        """(side, stride) of one value of stage 4: it depends on side x side input pixels, and on no others.

        From kernel sizes, strides and dilations along the longest path: each adds (kernel - 1) x dilation x the stride
        so far. Feature i is centred on input pixel i x stride.
        """

        def one(value: int | tuple[int, ...]) -> int:
            return value if isinstance(value, int) else value[0]  # kernels here are square

        side, stride = 1, 1
        for name, layer in self.named_modules():
            # A shortcut's 1x1 sees no more than the block beside it.
            if isinstance(layer, nn.Conv2d | nn.MaxPool2d) and "downsample" not in name:
                side += (one(layer.kernel_size) - 1) * one(layer.dilation) * stride
                stride *= one(layer.stride)
        return side, stride
