"""How far a pixel sees: the theoretical receptive field, and the one that a network's gradients show.

The figure behind section 3.1 of the paper: "the empirical receptive field of CNN is much smaller than the theoretical
one, especially on high-level layers" (Zhou et al., ICLR 2015). Measured by gradients as in Luo et al., "Understanding
the effective receptive field in deep convolutional neural networks", NeurIPS 2016.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil

import torch
from torch import Tensor, nn

from pspnet_lightning.explain.contributions import head_shares, logits_without
from pspnet_lightning.models.pspnet import PSPNet
from pspnet_lightning.models.pyramid import PyramidHead, tap_matrix
from pspnet_lightning.models.resnet import ResNet


def theoretical_receptive_field(backbone: ResNet) -> tuple[int, int]:
    """(side, stride) of one value of stage 4: it depends on side x side input pixels, and on no others.

    From kernel sizes, strides and dilations along the longest path: each adds (kernel - 1) x dilation x the stride
    so far. Feature i is centred on input pixel i x stride.
    """
    side, stride = 1, 1
    for layer in _longest_path(backbone):
        side += (_one(layer.kernel_size) - 1) * _one(layer.dilation) * stride
        stride *= _one(layer.stride)
    return side, stride


def network_receptive_field(model: PSPNet, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the input pixels, bottom and right excluded, that the centre's logits depend on.

    ``size``: (H, W) of the input. Beyond the backbone and the head's 3x3 convolution the pyramid adds every feature
    that is pooled into a grid cell of which the centre's up-sampling takes a share; with bin 1 all of them.
    """
    side, stride = theoretical_receptive_field(model.backbone)
    ranges = []
    for length in size:
        features = ceil(length / stride)
        first, last = _feature_range(model.head, features)
        reach = side // 2
        ranges += [max(first * stride - reach, 0), min(last * stride + reach + 1, length)]
    return ranges[0], ranges[1], ranges[2], ranges[3]


@dataclass(frozen=True)
class ReceptiveField:
    """A measured field, (H, W): mean absolute gradient of the centre's value, as a share of all of it (sum 1).

    ``centre`` is (row, column) of the input pixel that the value is centred on, ``theoretical`` (top, bottom, left,
    right) of the pixels it can depend on, cut off at the image.
    """

    field: Tensor
    centre: tuple[int, int]
    theoretical: tuple[int, int, int, int]

    def side_holding(self, share: float) -> int:
        """The side of the smallest square around the centre that holds ``share`` of the field.

        It may pass the edge of what was measured.
        """
        rows, columns = (
            (torch.arange(length) - middle).abs() for length, middle in zip(self.field.shape, self.centre, strict=True)
        )
        distance = torch.maximum(rows[:, None], columns[None])
        held = torch.bincount(distance.flatten(), self.field.flatten().double()).cumsum(0)
        radius = int(torch.searchsorted(held, share * float(held[-1])))
        return 2 * min(radius, len(held) - 1) + 1


def default_side(backbone: ResNet) -> int:
    """The side to measure a field at: the theoretical one fits, but at most 769 pixels for memory's sake."""
    side, stride = theoretical_receptive_field(backbone)
    return min(side + 2 * stride, 769)


def effective_receptive_fields(
    model: PSPNet, images: Iterable[Tensor], *, side: int | None = None
) -> dict[str, ReceptiveField]:
    """The fields of the centre pixel over normalised images (C, H, W), each brought to ``side`` x ``side`` pixels.

    A larger image is cut around its centre, a smaller one mirrored at its edges; None: ``default_side``.

    "backbone": of the sum of stage 4's features at the centre. "network without context": of the predicted class's
    logit there, through the backbone's own features alone, the pyramid's values held fast. "network": of the same
    logit through everything; for a network without bins there is only this one.

    Gradients are taken with respect to the normalised input, their absolute values summed over its channels and
    averaged over the images, each image counting alike.

    Raises ValueError without images, for a side below the stride, and for a model in training mode.
    """
    if any(part.training for part in model.modules()):
        raise ValueError("the receptive field is measured in eval mode: call model.eval() first")
    side = default_side(model.backbone) if side is None else side
    _, stride = theoretical_receptive_field(model.backbone)
    if side < stride:
        raise ValueError(f"a receptive field on {side} x {side} pixels: take at least the backbone's stride, {stride}")
    size = side, side
    # Feature i looks at input pixel i * stride.
    at = [(ceil(side / stride) - 1) // 2] * 2
    centre = (at[0] * stride, at[1] * stride)
    count = 0
    fields: dict[str, Tensor] = {}
    for image in images:
        count += 1
        for name, gradient in _gradients(model, _fit(image, side)[None], at).items():
            field = gradient.abs().sum(dim=(0, 1)).double()
            share = field / field.sum().clamp_min(1e-300)
            fields[name] = fields[name] + share if name in fields else share
    if count == 0:
        raise ValueError("a receptive field is a mean over images, and there are none")
    boxes = {
        "backbone": _box(model.backbone, size, at, 0),
        "network without context": _box(model.backbone, size, at, 1),
        "network": network_receptive_field(model, size),
    }
    return {name: ReceptiveField(field.cpu() / count, centre, boxes[name]) for name, field in fields.items()}


def _gradients(model: PSPNet, image: Tensor, at: Sequence[int]) -> dict[str, Tensor]:
    row, column = at
    with torch.enable_grad():
        image = image.detach().clone().requires_grad_()
        x = model.backbone(image)[1]
        values = {"backbone": x[0, :, row, column].sum()}
        head = model.head
        logits = head(x)[0, :, row, column]
        chosen = int(logits.argmax())
        if head.pyramid.bins:
            # Only the convolution's own view of x passes gradients on.
            parts = head_shares(head, x)
            held = replace(parts, shares=(parts.shares[0], *(share.detach() for share in parts.shares[1:])))
            values["network without context"] = logits_without(head, held, None)[0, chosen, row, column]
        values["network"] = logits[chosen]
        return {
            name: torch.autograd.grad(value, image, retain_graph=True)[0].detach() for name, value in values.items()
        }


def _box(backbone: ResNet, size: tuple[int, int], at: Sequence[int], more: int) -> tuple[int, int, int, int]:
    """Where the features within ``more`` of the centre look, cut off at the image."""
    side, stride = theoretical_receptive_field(backbone)
    reach = side // 2 + more * stride
    ranges = []
    for position, length in zip(at, size, strict=True):
        ranges += [max(position * stride - reach, 0), min(position * stride + reach + 1, length)]
    return ranges[0], ranges[1], ranges[2], ranges[3]


def _feature_range(head: PyramidHead, features: int) -> tuple[int, int]:
    """The first and the last feature of an axis that the head's value at its centre depends on."""
    middle = (features - 1) // 2
    first, last = max(middle - 1, 0), min(middle + 1, features - 1)
    for size in head.pyramid.bins:
        taps = tap_matrix(size, features, head.align_corners, torch.zeros(1))[middle].view(3, size)
        cells = taps.abs().sum(dim=0).nonzero().flatten().tolist()
        # Adaptive pooling: cell i holds features floor(i n / b) to ceil((i + 1) n / b).
        first = min(first, cells[0] * features // size)
        last = max(last, ceil((cells[-1] + 1) * features / size) - 1)
    return first, last


def _longest_path(backbone: ResNet) -> list[nn.Conv2d | nn.MaxPool2d]:
    """Every layer with a kernel but the shortcuts', whose 1x1 sees no more than the block beside it."""
    return [
        module
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Conv2d | nn.MaxPool2d) and "downsample" not in name
    ]


def _fit(image: Tensor, side: int) -> Tensor:
    """(C, H, W) cut or mirrored to (C, side, side), the centre staying where it is."""
    for axis in (1, 2):
        length = image.shape[axis]
        position = torch.arange((length - side) // 2, (length - side) // 2 + side, device=image.device) % (2 * length)
        image = image.index_select(axis, torch.minimum(position, 2 * length - 1 - position))
    return image


def _one(value: int | tuple[int, ...]) -> int:
    """Kernels here are square."""
    return value if isinstance(value, int) else value[0]
