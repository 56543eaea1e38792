"""BatchNorm over the ranks of a run."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn


class SyncBatchNormOnGPUs(TorchSyncBatchNorm):
    """``trainer.sync_batchnorm``: "auto" synchronises BatchNorm wherever a run has more than one GPU.

    Statistics are then over the whole batch, as in official semseg. torch's SyncBatchNorm does not run on CPUs: there
    "auto" leaves each rank its own statistics. Raises ValueError for a value that is not auto, true or false.
    """

    def __init__(self, wanted: bool | str = "auto") -> None:
        if wanted not in ("auto", True, False):
            raise ValueError(f"trainer.sync_batchnorm={wanted!r} must be auto, true or false")
        self.wanted = wanted

    def check(self, trainer: L.Trainer) -> None:
        """Raises ValueError where synchronisation is asked for and cannot be had."""
        device = trainer.strategy.root_device.type
        if self.wanted is True and trainer.world_size > 1 and device != "cuda":
            raise ValueError(
                f"trainer.sync_batchnorm=true: torch's SyncBatchNorm does not run on {device} ranks. Leave it at auto, "
                f"which takes it on GPUs only, or say false"
            )

    def active(self, trainer: L.Trainer) -> bool:
        return bool(self.wanted) and trainer.world_size > 1 and trainer.strategy.root_device.type == "cuda"

    def apply(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, L.LightningModule)
        return super().apply(model) if self.active(model.trainer) else model
