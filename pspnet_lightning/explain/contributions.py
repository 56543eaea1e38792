"""What each scale of context contributes to every pixel: the head's sum, taken apart.

Up to its BatchNorm the head is a sum over its sources j (``SumOfSources``); the paper's over the backbone's own
features and each bin (``models/pyramid.py``):

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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pspnet_lightning.models.abilities import demand
from pspnet_lightning.models.head import SumOfSources
from pspnet_lightning.models.pspnet import Composed

BACKBONE, CONSTANT = "backbone", "constant"


def require_sum(model: torch.nn.Module) -> None:
    """Raises ValueError, naming the class and what it lacks, for a network that cannot be taken apart."""
    demand(model, Composed, "pspnet-explain")
    demand(model.head, SumOfSources, "to take the head apart pspnet-explain")


@dataclass(frozen=True)
class Baseline:
    """One value a channel of each source, (C_j,): what a source is compared with, and replaced by."""

    means: tuple[Tensor, ...]

    @classmethod
    @torch.no_grad()
    def of(cls, model: Composed, batches: Iterable[Tensor]) -> Baseline:
        """The mean over normalised images (N, C, H, W), each image counting alike.

        Raises ValueError without images and for a model in training mode.
        """
        _require_eval(model)
        total: list[Tensor] = []
        dtype, count = torch.float32, 0
        for images in batches:
            values = model.head.source_values(model.backbone(images))
            sums = [value.double().mean(dim=(2, 3)).sum(dim=0) for value in values]
            total = [a + b for a, b in zip(total, sums, strict=True)] if total else sums
            dtype, count = values[0].dtype, count + len(images)
        if count == 0:
            raise ValueError("the baseline is a mean over images, and there are none")
        return cls(tuple((sums / count).to(dtype) for sums in total))


@dataclass(frozen=True)
class HeadShares:
    """The head's pre-activation as a sum: ``shares`` + ``constant`` = the input of its BatchNorm.

    ``shares``: of each source, less its baseline's, (N, O, h, w). ``constant``: what the baselines alone add up to,
    (1, O, h, w), of one value a channel but for the borders, where the 3x3 convolution sees its zero padding; behind a
    gate (N, O, h, w).
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


def head_shares(head: SumOfSources, features: Sequence[Tensor], baseline: Baseline | None = None) -> HeadShares:
    """The shares of the head's sources for a backbone's maps; ``baseline``: None is zero.

    Raises ValueError for a head in training mode, where a BatchNorm's mean depends on the batch.
    """
    _require_eval(head)
    values = head.source_values(features)
    shares = head.source_shares(values, features)
    if baseline is None:
        return HeadShares(head.sources, shares, torch.zeros_like(shares[0][:1]))
    means = [
        mean.to(value.dtype).view(1, -1, 1, 1).expand(1, -1, *value.shape[2:])
        for value, mean in zip(values, baseline.means, strict=True)
    ]
    constant = head.source_shares(means, features)
    parts = tuple(share - mean for share, mean in zip(shares, constant, strict=True))
    return HeadShares(head.sources, parts, torch.stack(torch.broadcast_tensors(*constant)).sum(dim=0))


def logit_shares(head: SumOfSources, parts: HeadShares) -> Tensor:
    """(S + 1, N, K, h, w): the shares of the logits, the constant last; they add up to ``head(x)``."""
    bn: Any = head.bn
    classifier: Any = head.classifier
    scale = (bn.weight / (bn.running_var + bn.eps).sqrt()).view(1, -1, 1, 1)
    shift = (bn.bias - bn.running_mean * scale.flatten()).view(1, -1, 1, 1)
    gate = (head.bn(parts.pre_activation()) > 0).to(scale.dtype)
    shares = [F.conv2d(gate * scale * share, classifier.weight) for share in parts.shares]
    constant = F.conv2d(gate * (scale * parts.constant + shift), classifier.weight, classifier.bias)
    return torch.stack([*shares, constant])


def logits_without(head: SumOfSources, parts: HeadShares, source: int | None) -> Tensor:
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
def explanation(model: Composed, images: Tensor, baseline: Baseline | None = None) -> Explanation:
    """Takes the predictions for normalised images (N, C, H, W) apart; without ``baseline``: against zero.

    Raises ValueError for a model in training mode and for one of a single class, where nothing is decided.
    """
    _require_eval(model)
    if model.head.num_classes < 2:
        raise ValueError("a network of one class decides nothing: there is no runner-up to explain a class against")
    size = images.shape[-2:]
    parts = head_shares(model.head, model.backbone(images), baseline)
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


def _up(model: Composed, values: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(values, size, mode="bilinear", align_corners=model.align_corners)


def _require_eval(module: Any) -> None:
    if any(part.training for part in module.modules()):
        raise ValueError("the shares are those of a network in eval mode: call model.eval() first")
