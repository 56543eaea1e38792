"""Imports go down the floors of the house only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "pspnet_lightning"
# From the top floor down. A room imports from those below it only; a new room names its floor here.
ROOMS = (
    "cli",
    "benchmark",
    "launch",
    "report",
    "explain",
    "callbacks",
    "loggers",
    "runs",
    "config",
    "training",
    "inference",
    "export",
    "visualize",
    "metrics",
    "models",
    "data",
    "disk",  # one file: what is written whole or not at all
    "sizes",  # one file: the sizes that configs name, with their ranges
    "terminal",  # one file: whether a bar has somebody who looks at it
)
GROUND = {"metrics", "models", "data"}  # know nothing of each other
COMPOSITION = {"hydra", "omegaconf"}
LIGHTNING = {"lightning", "pytorch_lightning"}
WANDB = {"wandb", "wandb_workspaces"}
FORBIDDEN = {
    **dict.fromkeys((*GROUND, "visualize", "export", "inference", "explain", "report"), COMPOSITION | LIGHTNING),
    **dict.fromkeys(("training", "callbacks", "loggers"), COMPOSITION),
}
# A network is a LightningModule so that it knows its device; nothing here knows a trainer.
EXCEPTIONS = {"inference/network.py": LIGHTNING}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports(path: Path) -> None:
    own = room_of(path)
    if own == "__init__":
        return
    assert own in ROOMS, f"{own}: the package consists of rooms; this file needs one"
    found = imports(path)
    outside = {name.split(".")[0] for name in found}
    forbidden = FORBIDDEN.get(own, set()) | (set() if own == "loggers" else WANDB)
    assert not outside & (forbidden - EXCEPTIONS.get(str(path.relative_to(PACKAGE)), set()))
    others = {name.split(".")[1] for name in found if name.startswith("pspnet_lightning.")} & set(ROOMS)
    for other in others - {own}:
        assert ROOMS.index(other) > ROOMS.index(own), f"{own} imports {other} from above"
        assert not {own, other} <= GROUND, f"{own} and {other} know nothing of each other"


def test_commands_do_not_import_each_other() -> None:
    for path in (PACKAGE / "cli").glob("*.py"):
        others = {name.split(".")[2] for name in imports(path) if name.startswith("pspnet_lightning.cli.")}
        assert others <= {"export_check"}, f"{path.name} imports {others}"  # the second half of export
