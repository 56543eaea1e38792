"""What spoils most attempts to reproduce a published mIoU, looked for before any time is spent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pspnet_lightning.data.folds import shared_groups
from pspnet_lightning.data.inspection import label_warnings
from pspnet_lightning.data.pairing import listing
from pspnet_lightning.training.datamodule import SegmentationDataModule

# The official recipe (hszhao/semseg): 16 crops over all devices at this learning rate of the backbone, by SGD.
PAPER = {"batch_size": 16, "lr": 0.01}
# The linear rule (Goyal et al. 2017, section 2.1): a batch k times as large takes a rate k times as large. How far a
# rate may be from it, either way, before there is a warning.
RATE_FACTOR = 2
# Below this many values a channel, BatchNorm's statistics are mostly noise.
FEW_VALUES = 4


def check_rate(config: Mapping[str, Any], overrides: Iterable[str]) -> None:
    """Raises ValueError where ``data.lr`` was typed and is not the rate of the optimiser: it would have no effect.

    The rule: the rate is ``optimizer.lr``. The data set's recipe proposes one for SGD, ``data.lr``, and optimizer=sgd
    takes it; other optimisers have a rate of their own.
    """
    wanted = config["data"].get("lr")
    used = [*config["optimizer"].values(), *config["scheduler"].values()]
    typed = any(word.lstrip("+").startswith("data.lr=") for word in overrides)
    if typed and wanted not in used and "lr" in config["optimizer"]:
        raise ValueError(
            f"data.lr={wanted} has no effect: it is the recipe's rate for optimizer=sgd, and this optimizer has a rate "
            f"of its own, optimizer.lr={config['optimizer']['lr']}; give optimizer.lr={wanted} instead"
        )


def preflight(
    config: Mapping[str, Any],
    data: SegmentationDataModule,
    *,
    devices: int,
    rates: Mapping[str, float],
    synchronized: bool = False,
) -> list[str]:
    """Sentences about a training config and its data: the batch and rates beside the recipe's first, then warnings.

    ``config`` is the plain, resolved training config, ``devices`` the number of ranks, ``rates`` those of the
    optimiser's groups of parameters, ``synchronized`` whether BatchNorm is over all of them. Raises ValueError where
    the labels cannot be trained on at all.
    """
    batch = data.batch_size
    effective = batch * int(config["trainer"].get("accumulate_grad_batches") or 1)
    in_force = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
    lines = [f"effective batch {effective} on {devices} device{'s' if devices > 1 else ''}, lr: {in_force}"]
    rate = config["optimizer"].get("lr")
    if rate is not None and config["optimizer"]["_target_"].rsplit(".", 1)[-1] == "sgd":
        lines += _beside_the_recipe(effective, rate, config["data"].get("recipe") or PAPER)
    elif rate is not None and rate != config["data"].get("lr"):
        lines.append(f"lr is optimizer.lr={rate:g}; data.lr={config['data'].get('lr')} is for SGD and not used")
    if devices > 1 and not synchronized:
        declined = config["trainer"].get("sync_batchnorm") is False
        reason = "trainer.sync_batchnorm=false" if declined else "torch's SyncBatchNorm runs on GPUs only"
        lines.append(
            f"BatchNorm is not synchronised ({reason}): each of {devices} devices normalises over its own "
            f"{batch // devices} of {batch} images"
        )
    pooled = config["model"].get("head", "pyramid") in ("pyramid", "uper")
    smallest = min(config["model"].get("bins") or [0]) if pooled else 0
    values = batch // (1 if synchronized else devices) * smallest**2
    if 0 < values < FEW_VALUES:
        lines.append(
            f"warning: BatchNorm of the pyramid's bin {smallest} sees {values} values a channel; take a larger "
            f"data.batch_size, GPUs, which synchronise BatchNorm, or model.bins without {smallest}"
        )
    group = config["data"].get("group")
    if group is not None and (shared := shared_groups(data.split("train"), data.split("val"), group)):
        lines.append(
            f"warning: {len(shared)} groups of data.group={group!r} have images in train and in val: "
            f"{listing(shared, 3)}. Validation knows them from training; data.folds keeps each in one fold"
        )
    if data.check and not data.overfit:
        lines += [f"warning: {text}" for text in label_warnings(data.split("train"), limit=max(64, data.check))]
    return lines


def _beside_the_recipe(batch: int, rate: float, recipe: Mapping[str, Any]) -> list[str]:
    whose = "the paper's" if dict(recipe) == PAPER else "the data set's recipe"
    lines = [f"{whose}: batch {recipe['batch_size']} and lr {recipe['lr']:g}"]
    matching = recipe["lr"] * batch / recipe["batch_size"]
    if not matching / RATE_FACTOR <= rate <= matching * RATE_FACTOR:
        fitting = max(1, round(recipe["batch_size"] * rate / recipe["lr"]))
        lines.append(
            f"warning: for a batch of {batch} that rate scales to {matching:g}, in proportion, and lr={rate:g} is far "
            f"from it: data.lr={matching:g}, or data.batch_size={fitting}"
        )
    return lines
