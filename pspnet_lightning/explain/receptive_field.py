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
from torch import Tensor

from pspnet_lightning.explain.contributions import head_shares, logits_without
from pspnet_lightning.models.backbone import KnowsReceptiveField
from pspnet_lightning.models.pspnet import Composed


def network_receptive_field(model: Composed, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the input pixels, bottom and right excluded, that the centre's logits depend on.

    ``size``: (H, W) of the input. Beyond the backbone and the head's 3x3 convolution the pyramid adds every feature
    that is pooled into a grid cell of which the centre's up-sampling takes a share; with bin 1 all of them
    (``SumOfSources.features_seen``).
    """
    side, stride = model.backbone.receptive_field()
    ranges = []
    for length in size:
        features = ceil(length / stride)
        first, last = model.head.features_seen(features)
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


def default_side(backbone: KnowsReceptiveField) -> int:
    """The side to measure a field at: the theoretical one fits, but at most 769 pixels for memory's sake."""
    side, stride = backbone.receptive_field()
    return min(side + 2 * stride, 769)


def effective_receptive_fields(
    model: Composed, images: Iterable[Tensor], *, side: int | None = None
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
    assert isinstance(model, torch.nn.Module)
    if any(part.training for part in model.modules()):
        raise ValueError("the receptive field is measured in eval mode: call model.eval() first")
    side = default_side(model.backbone) if side is None else side
    _, stride = model.backbone.receptive_field()
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


def _gradients(model: Composed, image: Tensor, at: Sequence[int]) -> dict[str, Tensor]:
    row, column = at
    with torch.enable_grad():
        image = image.detach().clone().requires_grad_()
        features = model.backbone(image)
        values = {"backbone": features[-1][0, :, row, column].sum()}
        head = model.head
        logits = head(features)[0, :, row, column]
        chosen = int(logits.argmax())
        if len(head.sources) > 1:
            # Only the convolution's own view of x passes gradients on.
            parts = head_shares(head, features)
            held = replace(parts, shares=(parts.shares[0], *(share.detach() for share in parts.shares[1:])))
            values["network without context"] = logits_without(head, held, None)[0, chosen, row, column]
        values["network"] = logits[chosen]
        return {
            name: torch.autograd.grad(value, image, retain_graph=True)[0].detach() for name, value in values.items()
        }


def _box(
    backbone: KnowsReceptiveField, size: tuple[int, int], at: Sequence[int], more: int
) -> tuple[int, int, int, int]:
    """Where the features within ``more`` of the centre look, cut off at the image."""
    side, stride = backbone.receptive_field()
    reach = side // 2 + more * stride
    ranges = []
    for position, length in zip(at, size, strict=True):
        ranges += [max(position * stride - reach, 0), min(position * stride + reach + 1, length)]
    return ranges[0], ranges[1], ranges[2], ranges[3]


def _fit(image: Tensor, side: int) -> Tensor:
    """(C, H, W) cut or mirrored to (C, side, side), the centre staying where it is."""
    for axis in (1, 2):
        length = image.shape[axis]
        position = torch.arange((length - side) // 2, (length - side) // 2 + side, device=image.device) % (2 * length)
        image = image.index_select(axis, torch.minimum(position, 2 * length - 1 - position))
    return image
