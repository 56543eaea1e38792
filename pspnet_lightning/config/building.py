"""Configuration: where the YAML lies, and building objects from nodes with strict keys."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from pspnet_lightning.config.nearest import nearest
from pspnet_lightning.config.targets import construct
from pspnet_lightning.config.values import checked_node, target_of

# Networks, data and training are imported by what builds them: a word on the command line is answered without.
if TYPE_CHECKING:
    from torch import nn

    from pspnet_lightning.data import DataSpec, Progress, Source
    from pspnet_lightning.training.datamodule import SegmentationDataModule
    from pspnet_lightning.training.module import SegmentationModule

_log = logging.getLogger(__name__)
# Keys of the `data` node that belong to the data module; all others go to the source behind `_target_`.
LOADER_KEYS = ("batch_size", "val_batch_size", "num_workers", "check", "overfit")
FOLD_KEYS = ("folds", "fold", "group")
REVIEW_KEYS = ("exclude", "fix")
# Keys of the `data` node that other nodes interpolate: a data set's own recipe.
RECIPE_KEYS = ("crop_size", "epochs", "lr", "recipe")
# Keys of the `model` node that may be nodes with a `_target_` of their own.
PARTS = ("backbone", "head", "fusion", "auxiliary")
_NETWORK = "pspnet_lightning.models.build_pspnet"
_EARLIER_NETWORK = "pspnet_lightning.models.PSPNet"  # what checkpoints of version 0.1 call it


def as_plain(node: Any) -> Any:
    """An OmegaConf node, resolved, as plain Python dicts, lists and scalars; plain values pass through."""
    return OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig | ListConfig) else node


def build(node: Mapping[str, Any], where: str, *, offered: Mapping[str, Any] | None = None, **extra: Any) -> Any:
    """Calls ``node['_target_']`` with the node's keys, which are checked against its signature first.

    ``where`` is the node's place in the config ("model"), for messages. ``extra`` are arguments that the
    wiring supplies, ``offered`` those that it supplies to a target which names them. Raises ValueError for a node
    without ``_target_``, for a key that the target does not take (with the nearest one that it does), for a value
    outside what the signature says, and for a target that cannot be imported.

    The node may name anything: it is the user's own, or has passed ``trusted.check_trusted``.
    """
    plain = as_plain(node)
    extra.update(_taken(plain, where, offered or {}))
    check_keys(plain, where, extra=extra)
    return construct(checked_node(plain, where), where, **extra)


def _taken(node: Any, where: str, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``offered`` that a node's target names in its signature."""
    if not offered or not isinstance(node, Mapping) or "_target_" not in node:
        return {}
    parameters = inspect.signature(target_of(node, where)).parameters
    return {name: value for name, value in offered.items() if name in parameters}


def check_keys(node: Mapping[str, Any], where: str, *, extra: Mapping[str, Any] | None = None) -> None:
    """The checks of ``build`` without building."""
    parameters = inspect.signature(target_of(node, where)).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    # Arguments that the wiring supplies cannot be overridden by a config.
    allowed = set(parameters) - set(extra or ())
    for key in node:
        if key not in allowed and not key.startswith("_"):
            raise ValueError(f"{where}.{key}: unknown key; {nearest(key, allowed)}")


def split_data_node(node: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ``data`` node as (source node, loader arguments); the folds are ``build_source``'s."""
    plain = dict(as_plain(node))
    loader = {key: plain.pop(key) for key in LOADER_KEYS if key in plain}
    folds, _, group = (plain.pop(key, None) for key in FOLD_KEYS)
    for key in (*RECIPE_KEYS, *REVIEW_KEYS):
        plain.pop(key, None)
    target = target_of(plain, "data")
    parameters = set(inspect.signature(target).parameters) - {"split"}
    others = {*LOADER_KEYS, *RECIPE_KEYS, *FOLD_KEYS, *REVIEW_KEYS}
    if "group" in parameters:
        plain["group"] = group
    if folds and "val_fraction" in parameters:
        plain["val_fraction"] = None  # the folds are of all images
    for key in plain:
        if key not in parameters and not key.startswith("_"):
            raise ValueError(f"data.{key}: unknown key; {nearest(key, parameters | others)}")
    missing = [key for key, value in plain.items() if value == "???"]
    if missing:
        told = f"data.{missing[0]} is required: give data.{missing[0]}=... on the command line"
        raise ValueError(told if missing[0] != "root" else f"{told}. {_remedy(target, plain)}".rstrip(" ."))
    checked = checked_node({**plain, **loader}, "data")
    return {key: checked[key] for key in plain}, {key: checked[key] for key in loader}


def _remedy(target: Callable[..., Any], node: Mapping[str, Any]) -> str:
    """What a data set says of a folder that is not there: how its files have to lie, where they are to be had."""
    required = [
        name
        for name, parameter in inspect.signature(target).parameters.items()
        if parameter.default is parameter.empty and name in node
    ]
    try:
        target("train", **{name: node[name] for name in required})
    except FileNotFoundError as error:
        return str(error).partition(" is not a folder. ")[2]
    except Exception:  # of a function that is not ours nothing is known
        pass
    return ""


def build_source(node: Mapping[str, Any]) -> Source:
    """The function that opens the splits of a ``data`` node, a review of its labels and folds taken into account."""
    from pspnet_lightning.data.folds import FoldSource
    from pspnet_lightning.data.reviewed import ReviewedSource

    source: Source = construct({**split_data_node(node)[0], "_partial_": True}, "data")
    review = {key: str(value) for key in REVIEW_KEYS if (value := as_plain(node).get(key)) is not None}
    if review:
        source = ReviewedSource(source, **review)
    folds, fold, group = (as_plain(node).get(key) for key in FOLD_KEYS)
    if folds:
        # Not by the run's seed: seeds and folds are separate dimensions of a sweep.
        return FoldSource(source, folds=folds, fold=fold, group=group)
    if fold:
        raise ValueError(f"data.fold={fold} has no meaning without data.folds; give the number of folds too")
    return source


def build_data(cfg: Any) -> SegmentationDataModule:
    """The data module of a training config; its transforms know the data set's mean and ignored value."""
    from pspnet_lightning.data.transforms import EvalTransform
    from pspnet_lightning.training.datamodule import SegmentationDataModule

    _, loader = split_data_node(cfg["data"])
    source = build_source(cfg["data"])
    spec: DataSpec = source("train").spec
    transform = build(cfg["augment"], "augment", mean=spec.mean, ignore_index=spec.ignore_index)
    return SegmentationDataModule(
        source, transform=transform, eval_transform=EvalTransform(), seed=cfg["seed"], **loader
    )


def build_eval_data(node: Mapping[str, Any], trained: DataSpec, *, seed: int) -> SegmentationDataModule:
    """The data module of a ``data`` node for a checkpoint, whose spec is ``trained``: nothing is augmented."""
    from pspnet_lightning.data.transforms import EvalTransform
    from pspnet_lightning.training.datamodule import SegmentationDataModule

    plain = dict(as_plain(node))
    if "mean" in plain:
        # The checkpoint knows them; computing them again would need the training images.
        plain.update(mean=list(trained.mean), std=list(trained.std))
    return SegmentationDataModule(
        build_source(plain),
        transform=EvalTransform(),
        eval_transform=EvalTransform(),
        seed=seed,
        **split_data_node(plain)[1],
    )


def build_model(node: Mapping[str, Any], spec: DataSpec, *, pretrained: bool = True) -> nn.Module:
    """The network of a ``model`` node for a data set's classes.

    At ``PARTS`` the node may have nodes with a ``_target_`` of their own: what makes a part of the network, called
    with what else it names (``models.build_pspnet``). ``model.pretrained`` may be false, true (ImageNet weights from
    torchvision) or a file's path; it is passed over with ``pretrained=False``, when a checkpoint's weights follow.
    """
    from pspnet_lightning.models.pretrained import load_imagenet_weights

    plain = network_node(node)
    weights = as_plain(node).get("pretrained", False)
    known = {*plain, *inspect.signature(target_of(plain, "model")).parameters}
    if "in_channels" in known and plain.get("in_channels") is None:
        plain["in_channels"] = len(spec.mean)
    check_keys(plain, "model", extra={"num_classes": spec.num_classes})
    arguments = {key: value for key, value in checked_node(plain, "model").items() if key != "_target_"}
    for name in PARTS:
        if isinstance(arguments.get(name), Mapping):
            arguments[name] = _part(arguments[name], f"model.{name}")
    model: nn.Module = target_of(plain, "model")(num_classes=spec.num_classes, **arguments)
    if pretrained and weights not in (None, False):
        load_imagenet_weights(model, file=None if weights is True else str(weights))
    return model


def _normalised_for(network: nn.Module, spec: DataSpec) -> DataSpec:
    """The spec with the mean and standard deviation that the backbone's weights want, where it says any.

    ``data.mean``, where a user gives it, is not overruled; nor are images of other channels than the weights know.
    """
    from pspnet_lightning.models.backbone import Normalised
    from pspnet_lightning.models.pspnet import Composed

    backbone = network.backbone if isinstance(network, Composed) else network
    if not isinstance(backbone, Normalised) or len(backbone.mean) != len(spec.mean):
        return spec
    mean, std = tuple(backbone.mean), tuple(backbone.std)
    if (mean, std) != (spec.mean, spec.std):
        _log.info("images are normalised as the backbone's weights want: mean %s, std %s", list(mean), list(std))
    return replace(spec, mean=mean, std=std)


def network_node(node: Mapping[str, Any]) -> dict[str, Any]:
    """A ``model`` node without what the wiring takes out of it, as this version names things."""
    # How a convolution is computed is no part of a network; checkpoints of version 0.1 have a key for it.
    plain = {key: value for key, value in as_plain(node).items() if key not in ("pretrained", "init", "winograd")}
    if plain.get("_target_") == _EARLIER_NETWORK:
        plain["_target_"] = _NETWORK
    return plain


def _part(node: Mapping[str, Any], where: str) -> Callable[..., Any]:
    check_keys(node, where)
    return partial(target_of(node, where), **{k: v for k, v in node.items() if k != "_target_"})


def build_module(
    cfg: Any,
    spec: DataSpec,
    *,
    data: SegmentationDataModule | None = None,
    for_training: bool = True,
    progress: Progress | None = None,
) -> SegmentationModule:
    """The LightningModule of a training config.

    ``data`` is needed only where ``loss.class_weights`` names a method: the weights are computed
    from its training split (``progress`` wraps that loop). ``for_training=False`` leaves out optimiser and
    pretrained weights.
    """
    from pspnet_lightning.training.losses import class_weights_from_counts
    from pspnet_lightning.training.module import SegmentationModule

    config = as_plain(cfg)
    loss = dict(config["loss"])
    aux_weight = loss.pop("aux_weight", 0.4)
    reduction = loss.pop("reduction", "global")
    method = loss.get("class_weights")
    if isinstance(method, str):
        counts = None
        if for_training and data is not None:
            counts = data.class_counts() if progress is None else data.class_counts(progress)
        loss["class_weights"] = None if counts is None else class_weights_from_counts(counts, method)
    network = build_model(config["model"], spec, pretrained=for_training)
    if for_training:
        if config.get("data", {}).get("mean") is None:
            spec = _normalised_for(network, spec)
        if data is not None:
            data.transform = build(config["augment"], "augment", mean=spec.mean, ignore_index=spec.ignore_index)
    return SegmentationModule(
        network,
        build(loss, "loss", offered={"ignore_index": spec.ignore_index, "num_classes": spec.num_classes}),
        num_classes=spec.num_classes,
        mean=spec.mean,
        std=spec.std,
        ignore_index=spec.ignore_index,
        aux_weight=aux_weight,
        reduction=reduction,
        optimizer=build(config["optimizer"], "optimizer") if for_training else None,
        scheduler=build(config["scheduler"], "scheduler") if for_training else None,
        seed=config["seed"],
        channels_last=config["channels_last"],
        fast=config.get("fast", True),
        description={"format": 1, "config": config, "spec": spec.to_dict()},
    )
