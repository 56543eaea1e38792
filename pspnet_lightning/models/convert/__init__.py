"""State dicts of other code bases as PSPNets of this one: names and shapes tell the architecture. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from pspnet_lightning.models.build import build_pspnet
from pspnet_lightning.models.convert.architecture import architecture, unwrapped
from pspnet_lightning.models.convert.caffe import Caffe
from pspnet_lightning.models.convert.caffemodel import read_caffemodel
from pspnet_lightning.models.convert.mmseg import MMSeg
from pspnet_lightning.models.convert.semseg import SemSeg
from pspnet_lightning.models.pspnet import PSPNet
from pspnet_lightning.models.resnet import one_of

__all__ = ["SOURCES", "Converted", "convert", "from_state_dict", "read_caffemodel"]

SOURCES: dict[str, type[SemSeg] | type[MMSeg] | type[Caffe]] = {"semseg": SemSeg, "mmseg": MMSeg, "caffe": Caffe}


class Converted(NamedTuple):
    """A network with its weights, in eval mode, and what belongs to it.

    ``arguments``: PSPNet's. ``mean``, ``std``: of R, G, B in 0..255, that its input is normalised with.
    """

    model: PSPNet
    arguments: dict[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def from_state_dict(
    state_dict: Mapping[str, Any], *, source: str = "semseg", bins: Sequence[int] | None = None
) -> PSPNet:
    """The PSPNet that a state dict describes, with its weights, in eval mode. It takes RGB.

    ``source``: "semseg" (hszhao/semseg), "mmseg" (mmsegmentation: ResNet and ResNetV1c with PSPHead), or "caffe"
    (hszhao/PSPNet; names as ``read_caffemodel`` makes them). Caffe's networks take B, G, R less the mean: here the
    first convolution's channels are turned round; the mean and the standard deviation (of Caffe's: one) that go with
    the weights are ``convert``'s. The backbone alone, under torchvision's names: ``load_imagenet_weights``.

    Depth, stem, widths, number of classes and the auxiliary head are read from names and shapes; a ``state_dict``
    wrapper and ``module.`` prefixes are taken off. The bins' sizes are in no tensor, but for Caffe's names; they are
    given in the order of the file's branches, by default (1, 2, 3, 6).

    Raises ValueError that lists every key that is missing, unknown or of another shape than the architecture
    has, and for an unknown ``source`` or bins whose number is not that of the file's branches.
    """
    return convert(state_dict, source=source, bins=bins).model


def convert(state_dict: Mapping[str, Any], *, source: str = "semseg", bins: Sequence[int] | None = None) -> Converted:
    """``from_state_dict`` with what a checkpoint needs beside the network."""
    one_of("source", source, tuple(SOURCES))
    theirs = unwrapped(state_dict)
    code_base = SOURCES[source](theirs, bins)
    if code_base.branches != len(code_base.bins):
        raise ValueError(
            f"bins={code_base.bins} has {len(code_base.bins)} sizes, but the state dict has {code_base.branches} "
            f"pyramid branches of {source}; its keys begin with {', '.join(sorted(theirs)[:3])}"
        )
    keys = {name: key for key in theirs if (name := code_base.own_name(key)) is not None}
    tensors = {name: theirs[key] for name, key in keys.items()}
    arguments = {
        **architecture(tensors, list(theirs), code_base.their_name),
        **code_base.conventions,
        "bins": list(code_base.bins),
    }
    model = build_pspnet(**arguments)
    _require_equal(model, tensors, theirs, keys, code_base.their_name, f"a {source} PSPNet with bins {code_base.bins}")
    adapted = code_base.adapted(tensors)
    # Caffe does not count its batches.
    counters = {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
    model.load_state_dict({**counters, **adapted})
    return Converted(model.eval(), arguments, code_base.mean, code_base.std)


def _require_equal(
    model: PSPNet,
    tensors: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    keys: Mapping[str, str],
    their_name: Any,
    what: str,
) -> None:
    own = {name: value for name, value in model.state_dict().items() if their_name(name) is not None}
    problems = [f"missing: {their_name(name)}" for name in own if name not in tensors]
    known = {key for name, key in keys.items() if name in own}
    problems += [f"unknown: {key}" for key in theirs if key not in known]
    problems += [
        f"shape of {keys[name]}: {tuple(tensors[name].shape)}, expected {tuple(value.shape)}"
        for name, value in own.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if problems:
        raise ValueError(
            f"the state dict is not that of {what} ({len(problems)} differences):\n  " + "\n  ".join(problems)
        )
