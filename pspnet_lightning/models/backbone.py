"""What a backbone is: a module that answers feature maps, and says their channels and strides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Backbone(Protocol):
    """An ``nn.Module``: ``backbone(x)`` takes normalised images x (N, in_channels, H, W) of any height and width.

    It answers a list or tuple of feature maps, the finest first: map i is (N, channels[i], ceil(H / strides[i]),
    ceil(W / strides[i])). The head works on the last, the auxiliary head on the one before it. At least one map.
    """

    @property
    def in_channels(self) -> int: ...

    @property
    def channels(self) -> Sequence[int]: ...

    @property
    def strides(self) -> Sequence[int]: ...

    def __call__(self, x: Tensor) -> Sequence[Tensor]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


@runtime_checkable
class Normalised(Protocol):
    """A backbone whose weights want images normalised in their own way: of each channel, in 0..255."""

    @property
    def mean(self) -> Sequence[float]: ...

    @property
    def std(self) -> Sequence[float]: ...


@runtime_checkable
class Pretrainable(Protocol):
    """A backbone that is part of a published classifier."""

    def imagenet_weights(self) -> Mapping[str, Tensor]:
        """The classifier's state dict, downloaded once. Raises ValueError, with the remedy, where it cannot be had."""
        ...

    def of_classifier(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """A classifier's tensors under the backbone's names, and the classifier's own keys, which are left out."""
        ...


@runtime_checkable
class KnowsReceptiveField(Protocol):
    """A backbone that knows its theoretical receptive field, by which pspnet-explain measures the real one."""

    def receptive_field(self) -> tuple[int, int]:
        """(side, stride): a value of the last map depends on side x side pixels, value i is centred on i * stride."""
        ...
