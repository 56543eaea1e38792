"""What each scale of context contributes to every pixel: the head's sum, taken apart.

Up to its BatchNorm the head is a sum over its sources j, the backbone's own features and each bin (``pyramid.py``):

    y = sum_j y_j,    y_backbone = conv3x3(x, W[:, :C]),    y_b = A_b Z_b B_b^T

Behind it only the ReLU is not linear. Given its gate g = [BN(y) > 0] at a pixel, the logit of class k is a sum too,
with w, c the classifier's weights and bias and s = gamma / sqrt(var + eps), mu, beta of the BatchNorm:

    logit_k = sum_j sum_o w_ko g_o s_o (y_jo - m_jo)  +  [sum_o w_ko g_o (s_o (sum_j m_jo - mu_o) + beta_o) + c_k]

The first terms are the sources' shares, the bracket is the constant. m_j is source j's baseline: its share of y where
its input is a data set's mean, everywhere the same (``Baseline.of``), so that a share is what this image's context says
beyond the average; or zero. Up-sampling the logits is linear as well: all of this holds at every pixel of the image.

A source is removed by putting its baseline in its place. The gate then follows: that is the network itself, not an
approximation of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pspnet_lightning.models.pspnet import PSPNet
from pspnet_lightning.models.pyramid import PyramidHead, tap_matrix

BACKBONE, CONSTANT = "backbone", "constant"


def source_names(head: PyramidHead) -> tuple[str, ...]:
    """ "backbone", then "bin 1", "bin 2", ... in the head's order."""
    return (BACKBONE, *(f"bin {size}" for size in head.pyramid.bins))


@dataclass(frozen=True)
class Baseline:
    """One value a channel of each source: (C,) of the backbone's features, then (R,) of each bin's level."""

    means: tuple[Tensor, ...]

    @classmethod
    def zero(cls, head: PyramidHead) -> Baseline:
        """Nothing at all: a share is the whole of what a source adds."""
        like = head.conv.weight
        sizes = (head.in_channels, *(head.pyramid.channels_per_bin for _ in head.pyramid.bins))
        return cls(tuple(like.new_zeros(size) for size in sizes))

    @classmethod
    @torch.no_grad()
    def of(cls, model: PSPNet, batches: Iterable[Tensor]) -> Baseline:
        """The mean over normalised images (N, C, H, W), each image counting alike.

        Raises ValueError without images and for a model in training mode.
        """
        _require_eval(model)
        total, count = [value.double() for value in cls.zero(model.head).means], 0
        for images in batches:
            x = model.backbone(images)[1]
            for sums, values in zip(total, (x, *model.head.pyramid(x)), strict=True):
                sums += values.mean(dim=(2, 3)).sum(dim=0)
            count += len(images)
        if count == 0:
            raise ValueError("the baseline is a mean over images, and there are none")
        return cls(tuple((sums / count).to(model.head.conv.weight.dtype) for sums in total))


@dataclass(frozen=True)
class HeadShares:
    """The head's pre-activation as a sum: ``shares`` + ``constant`` = the input of its BatchNorm.

    ``shares``: of each source, less its baseline's, (N, O, h, w). ``constant``: what the baselines alone add up to,
    (1, O, h, w), of one value a channel but for the borders, where the 3x3 convolution sees its zero padding.
    """

    sources: tuple[str, ...]
    shares: tuple[Tensor, ...]
    constant: Tensor

    def pre_activation(self, without: int | None = None) -> Tensor:
        """(N, O, h, w); ``without`` the source of that number."""
        kept = [share for number, share in enumerate(self.shares) if number != without]
        total = self.constant.expand_as(self.shares[0])
        for share in kept:
            total = total + share
        return total


def head_shares(head: PyramidHead, x: Tensor, baseline: Baseline | None = None) -> HeadShares:
    """The shares of the head's sources for backbone features x (N, C, h, w); without ``baseline``: zero's.

    Raises ValueError for a head in training mode, where a BatchNorm's mean depends on the batch.
    """
    _require_eval(head)
    values = (x, *head.pyramid(x))
    means = (Baseline.zero(head) if baseline is None else baseline).means
    assert len(means) == len(values)
    start, shares, constant = 0, [], []
    for number, (value, mean) in enumerate(zip(values, means, strict=True)):
        kernel = head.conv.weight[:, start : start + value.shape[1]]
        start += value.shape[1]
        flat = mean.to(value.dtype).view(1, -1, 1, 1)
        constant.append(F.conv2d(flat.expand(1, -1, *x.shape[2:]), kernel, padding=1))
        share = F.conv2d(value, kernel, padding=1) if number == 0 else _level_share(value, kernel, x, head)
        shares.append(share - constant[-1])
    return HeadShares(source_names(head), tuple(shares), torch.stack(constant).sum(dim=0))


def logit_shares(head: PyramidHead, parts: HeadShares) -> Tensor:
    """(S + 1, N, K, h, w): the shares of the logits, the constant last; they add up to ``head(x)``."""
    bn, classifier = head.bn, head.classifier
    assert bn.running_mean is not None
    assert bn.running_var is not None
    assert classifier.bias is not None
    scale = (bn.weight / (bn.running_var + bn.eps).sqrt()).view(1, -1, 1, 1)
    shift = (bn.bias - bn.running_mean * scale.flatten()).view(1, -1, 1, 1)
    gate = (head.bn(parts.pre_activation()) > 0).to(scale.dtype)
    shares = [F.conv2d(gate * scale * share, classifier.weight) for share in parts.shares]
    constant = F.conv2d(gate * (scale * parts.constant + shift), classifier.weight, classifier.bias)
    return torch.stack([*shares, constant])


def logits_without(head: PyramidHead, parts: HeadShares, source: int | None) -> Tensor:
    """The logits (N, K, h, w) with the source of that number removed; None: with all of them, ``head(x)``."""
    return head.classifier(F.relu(head.bn(parts.pre_activation(without=source))))


@dataclass(frozen=True)
class Explanation:
    """Why each pixel of a batch has its class, at the images' size.

    ``prediction`` and ``runner_up``: the classes of the two highest logits, int64 (N, H, W). ``margin``: the shares of
    the difference of these two logits, (N, S + 1, H, W), the constant last; their sum over the sources is the
    difference. ``without``: the prediction with each source removed, int64 (N, S, H, W).
    """

    sources: tuple[str, ...]
    prediction: Tensor
    runner_up: Tensor
    margin: Tensor
    without: Tensor

    @property
    def decider(self) -> Tensor:
        """int64 (N, H, W): the source with the largest share of the margin, S for the constant."""
        return self.margin.argmax(dim=1)

    @property
    def flips(self) -> Tensor:
        """bool (N, S, H, W): pixels whose class another one takes when a source is removed."""
        return self.without != self.prediction[:, None]


@torch.no_grad()
def explain(model: PSPNet, images: Tensor, baseline: Baseline | None = None) -> Explanation:
    """Takes the predictions for normalised images (N, C, H, W) apart; without ``baseline``: against zero.

    Raises ValueError for a model in training mode and for one of a single class, where nothing is decided.
    """
    _require_eval(model)
    if model.num_classes < 2:
        raise ValueError("a network of one class decides nothing: there is no runner-up to explain a class against")
    size = images.shape[-2:]
    parts = head_shares(model.head, model.backbone(images)[1], baseline)
    top = _up(model, logits_without(model.head, parts, None), size).topk(2, dim=1).indices
    margins = []
    for share in logit_shares(model.head, parts):
        first, second = _up(model, share, size).gather(1, top).unbind(dim=1)
        margins.append(first - second)
    without = [
        _up(model, logits_without(model.head, parts, source), size).argmax(dim=1)
        for source in range(len(parts.sources))
    ]
    return Explanation(parts.sources, top[:, 0], top[:, 1], torch.stack(margins, dim=1), torch.stack(without, dim=1))


def _up(model: PSPNet, values: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(values, size, mode="bilinear", align_corners=model.align_corners)


def _level_share(level: Tensor, kernel: Tensor, x: Tensor, head: PyramidHead) -> Tensor:
    """A_b Z_b B_b^T: one level (N, R, b, b) through its part of the 3x3 convolution, (N, O, h, w)."""
    size, (height, width) = level.shape[-1], x.shape[2:]
    rows = tap_matrix(size, height, head.align_corners, level)
    columns = tap_matrix(size, width, head.align_corners, level)
    values = torch.einsum("ncij,ocyx->noyixj", level, kernel).flatten(4, 5).flatten(2, 3)
    return rows @ values @ columns.T


def _require_eval(module: torch.nn.Module) -> None:
    if any(part.training for part in module.modules()):
        raise ValueError("the shares are those of a network in eval mode: call model.eval() first")
