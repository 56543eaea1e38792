"""The folder where the user stands: its modules can be named in a config, and its ``conf/`` is searched too."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from pspnet_lightning.config import CONFIG_DIR


class UserConfigs(SearchPathPlugin):
    """Searches ``conf/`` below the working folder after this project's own, which it therefore cannot replace."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        folder = Path.cwd() / "conf"
        if folder.is_dir() and folder.resolve() != CONFIG_DIR.resolve():
            search_path.append("the user's conf", f"file://{folder}")


def open_user_folder() -> None:
    """Puts the working folder last on Python's path, so that it hides no module, and makes its configs known."""
    if not {"", os.getcwd()} & {*sys.path}:
        sys.path.append(os.getcwd())
    if UserConfigs not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(UserConfigs)
