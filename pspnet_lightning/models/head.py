"""What a head is: a module that answers logits at a resolution of its own, which the network up-samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Head(Protocol):
    """An ``nn.Module``: ``head(features)`` takes a backbone's maps, the finest first (see ``Backbone``).

    It answers logits (N, num_classes, h, w), h and w as they come: the network up-samples them to the images' size.
    """

    @property
    def num_classes(self) -> int: ...

    def __call__(self, features: Sequence[Tensor]) -> Tensor: ...


@runtime_checkable
class Portable(Protocol):
    """A module that exporters would write down for one size or device: ``portable`` is the same function without."""

    def portable(self) -> nn.Module: ...


@runtime_checkable
class SumOfSources(Protocol):
    """A head that is ``classifier(relu(bn(y)))`` of a sum y over sources, for pspnet-explain to take apart.

    ``source_values(features)``: what each source sees, (N, C_j, h_j, w_j). ``source_shares(values, features)``: each
    one's share of y, (N, O, h, w), linear in its value; ``features``, of the images, decide what is not linear.
    """

    @property
    def sources(self) -> tuple[str, ...]: ...

    @property
    def bn(self) -> nn.Module: ...

    @property
    def classifier(self) -> nn.Module: ...

    def source_values(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]: ...

    def source_shares(self, values: Sequence[Tensor], features: Sequence[Tensor]) -> tuple[Tensor, ...]: ...

    def features_seen(self, length: int) -> tuple[int, int]:
        """Along an axis of so many features the first and the last that the logits at its centre depend on."""
        ...
