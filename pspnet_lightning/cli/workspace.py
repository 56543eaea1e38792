"""`pspnet-workspace project=...`: saves a sweep's page, bins against mIoU, in a W&B project."""

from __future__ import annotations

from omegaconf import DictConfig

from pspnet_lightning.config import check_config
from pspnet_lightning.launch.app import run
from pspnet_lightning.loggers.workspace import save_workspace


def main() -> None:
    """The console script."""
    run("workspace", workspace)


def workspace(cfg: DictConfig) -> None:
    """Saves the workspace and prints its address; needs a login."""
    check_config(cfg, "workspace")
    print(save_workspace(cfg.project, cfg.entity, group=cfg.group, name=cfg.name), flush=True)
