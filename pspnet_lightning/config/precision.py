"""The precision that runs, where it is not the one that was asked for."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

_FLOAT16 = ("16-mixed", "16", 16)


def settle_precision(cfg: DictConfig) -> None:
    """Writes ``bf16-mixed`` into ``cfg.trainer.precision`` where Lightning would take it for 16-mixed, and says so.

    On a CPU it does: the record of a run then holds what ran.
    """
    asked = OmegaConf.select(cfg, "trainer.precision")
    if asked not in _FLOAT16 or not _on_cpu(OmegaConf.select(cfg, "trainer.accelerator")):
        return
    OmegaConf.update(cfg, "trainer.precision", "bf16-mixed")
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    rank_zero_only(print)(
        f"note: trainer.precision={asked} is for GPUs; on this CPU bf16-mixed runs, and is recorded", flush=True
    )


def _on_cpu(accelerator: object) -> bool:
    if accelerator != "auto":
        return accelerator == "cpu"
    import torch

    return not torch.cuda.is_available() and not torch.backends.mps.is_available()
