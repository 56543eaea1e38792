"""What spoils most attempts to reproduce a published mIoU, looked for before any time is spent."""

from __future__ import annotations

from typing import Any

from pspnet_lightning.data.inspection import label_warnings
from pspnet_lightning.training.datamodule import SegmentationDataModule

# The official recipe (hszhao/semseg): 16 crops over all devices at this learning rate of the backbone.
RECIPE_BATCH, RECIPE_LR = 16, 0.01
# Below this many values a channel, BatchNorm's statistics are mostly noise.
FEW_VALUES = 4


def preflight(
    config: dict[str, Any], data: SegmentationDataModule, *, devices: int, synchronized: bool = False
) -> list[str]:
    """Sentences about a training config and its data: the batch and rate beside the recipe's first, then warnings.

    ``config`` is the plain, resolved training config, ``devices`` the number of ranks, ``synchronized`` whether
    BatchNorm is over all of them. Raises ValueError where the labels cannot be trained on at all.
    """
    batch = data.batch_size
    effective = batch * int(config["trainer"].get("accumulate_grad_batches") or 1)
    rate = config["optimizer"].get("lr")
    lines = [f"effective batch {effective} on {devices} device{'s' if devices > 1 else ''}"]
    if rate is not None and config["optimizer"]["_target_"].rsplit(".", 1)[-1] == "sgd":
        lines[0] += f", lr {rate:g} (the paper's: {RECIPE_BATCH} and {RECIPE_LR:g})"
        matching = RECIPE_LR * effective / RECIPE_BATCH
        if not matching / 4 <= rate <= matching * 4:
            lines.append(
                f"warning: for a batch of {effective} the paper's rate scales to {matching:g}, lr={rate:g} is far from "
                f"it: data.lr={matching:g}, or data.batch_size={max(1, round(RECIPE_BATCH * rate / RECIPE_LR))}"
            )
    if devices > 1 and not synchronized:
        declined = config["trainer"].get("sync_batchnorm") is False
        reason = "trainer.sync_batchnorm=false" if declined else "torch's SyncBatchNorm runs on GPUs only"
        lines.append(
            f"BatchNorm is not synchronised ({reason}): each of {devices} devices normalises over its own "
            f"{batch // devices} of {batch} images"
        )
    smallest = min(config["model"].get("bins") or [0])
    values = batch // (1 if synchronized else devices) * smallest**2
    if 0 < values < FEW_VALUES:
        lines.append(
            f"warning: BatchNorm of the pyramid's bin {smallest} sees {values} values a channel; take a larger "
            f"data.batch_size, GPUs, which synchronise BatchNorm, or model.bins without {smallest}"
        )
    if data.check and not data.overfit:
        lines += [f"warning: {text}" for text in label_warnings(data.split("train"), limit=max(64, data.check))]
    return lines
