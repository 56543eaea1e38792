"""Configuration: where the YAML lies, the schema of each command, and building objects from nodes with strict keys."""

from pspnet_lightning.config.building import (
    as_plain,
    build,
    build_data,
    build_eval_data,
    build_model,
    build_module,
    build_source,
    check_keys,
    network_node,
    split_data_node,
)
from pspnet_lightning.config.folder import CONFIG_DIR
from pspnet_lightning.config.nearest import nearest
from pspnet_lightning.config.precision import settle_precision
from pspnet_lightning.config.values import check_config

__all__ = [
    "CONFIG_DIR",
    "as_plain",
    "build",
    "build_data",
    "build_eval_data",
    "build_model",
    "build_module",
    "build_source",
    "check_config",
    "check_keys",
    "nearest",
    "network_node",
    "settle_precision",
    "split_data_node",
]
