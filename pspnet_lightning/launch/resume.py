"""Where a run goes on: the checkpoint that `ckpt_path` means, and the folder that a repeated command finds again."""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from datetime import datetime
from pathlib import Path

from omegaconf import OmegaConf

from pspnet_lightning.launch.app import relative
from pspnet_lightning.runs.checkpoint_io import latest_checkpoint

# The words of the command as the user typed them, where sys.argv has others.
typed: list[str] = []


def checkpoint_to_resume(wanted: str | None, folder: Path) -> str | None:
    """``auto``: the last whole checkpoint of this run's folder, or None: from the start.

    ``last``: the same, or else the newest below runs/; a ValueError where there is none. Anything else is a path.
    Torn files are reported and set aside.
    """
    if wanted not in ("auto", "last"):
        return wanted
    own = latest_checkpoint(folder / "checkpoints")
    if own is not None:
        print(f"resuming from {own}", flush=True)
        return str(own)
    if wanted == "auto":
        return None
    newest = sorted(Path("runs").rglob("checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    for candidate in newest:
        found = latest_checkpoint(candidate.parent)
        if found is not None:
            print(f"resuming from {found}", flush=True)
            return str(found)
    raise ValueError(f"ckpt_path=last: there is no last.ckpt in {str(folder)!r} or below runs/; give its path")


def kept_in(folder: Path, ckpt_path: str | None) -> str:
    """What there is to go on from in a run's folder, and how, for a run that ends before it is done."""
    if not any(folder.glob("checkpoints/*.ckpt")):
        return "no checkpoint had been written, the same command begins anew"
    words = "" if ckpt_path == "auto" else f" with {shlex.quote(f'hydra.run.dir={relative(folder)}')} ckpt_path=auto"
    return f"kept in {relative(folder / 'checkpoints')}; the same command{words} goes on from there"


def run_name(ckpt_path: str | None) -> str:
    """``${run_name:${ckpt_path}}``: date and time, but for ``auto`` a name made of the command line.

    The same command line, in whatever order its words stand, gives the same name: there it finds its checkpoint.
    """
    if ckpt_path != "auto":
        return datetime.now().strftime("%Y-%m-%d/%H-%M-%S")
    words = sorted(word for word in typed or sys.argv[1:] if not re.match(r"\+*(hydra\.(?!sweeper)|ckpt_path=)", word))
    return f"auto/{hashlib.sha256(chr(0).join(words).encode()).hexdigest()[:12]}"


# Cached as Hydra's own ${now:...} is: one answer for all places and all jobs of a sweep.
OmegaConf.register_new_resolver("run_name", run_name, use_cache=True, replace=True)
