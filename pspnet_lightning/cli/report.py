"""`pspnet-report RUN_OR_SWEEP_FOLDER`: what came out, as a page, a text to quote, and a table."""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from pspnet_lightning.config import check_config
from pspnet_lightning.launch.app import run
from pspnet_lightning.launch.locks import locked
from pspnet_lightning.launch.words import command_words
from pspnet_lightning.report import gather, headline, write_report

_MODES = {"maximize": "max", "minimize": "min", None: None}


def main() -> None:
    """The console script."""
    _, sys.argv[1:] = command_words("report", sys.argv[1:])
    run("report", report)


def report(cfg: DictConfig) -> None:
    """Reads the folder and writes the three files; prints the outcome and where they are.

    Raises ValueError for a folder that is missing or holds no run, an unknown metric or direction.
    """
    check_config(cfg, "report")
    content = gather(cfg.folder, metric=cfg.metric, mode=_MODES[cfg.direction], pictures=cfg.pictures)
    print(headline(content))
    folder = Path(cfg.output or cfg.folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Not the folder itself: a report of a run that is at work is welcome.
    with locked(folder / "report", f"the report in {str(folder)!r}", "give another output=..."):
        for path in write_report(content, folder):
            print(path)
