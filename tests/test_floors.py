"""Imports go down the floors of the design only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "pspnet_lightning"
FLOORS = {
    "models": 0,
    "data": 0,
    "losses": 0,
    "metrics": 0,
    "context": 0,
    "optim": 0,
    "inference": 0,
    "visualize": 0,
    "upsampling": 0,
    "sweeps": 0,
    "terminal": 0,
    "export": 0,
    "network": 1,
    "report": 0,
    "module": 1,
    "datamodule": 1,
    "batchnorm": 1,
    "callbacks": 1,
    "config": 2,
    "schemas": 2,
    "checkpoint": 2,
    "predict": 2,
    "checkpoint_io": 2,
    "record": 2,
    "cli": 3,
}
FORBIDDEN = {
    0: {"lightning", "hydra", "omegaconf", "wandb"},
    1: {"hydra", "omegaconf", "wandb", "wandb_workspaces"},
    2: {"wandb", "wandb_workspaces"},
    3: {"wandb", "wandb_workspaces"},
}
# Floor 1: what each may take from floor 0.
ALLOWED = {
    "network": {"models", "inference", "upsampling"},
    "module": {"network", "losses", "metrics", "inference", "upsampling"},
    "datamodule": {"data"},
    "batchnorm": set(),
    "callbacks": {"visualize", "metrics", "data", "sweeps", "terminal"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports(path: Path) -> None:
    own = part(path)
    if own == "__init__":
        return
    floor = FLOORS[own]  # a new file names its floor here
    found = imports(path)
    outside = {name.split(".")[0] for name in found}
    assert not outside & (FORBIDDEN[floor] - ({"wandb", "wandb_workspaces"} if own == "callbacks" else set()))
    for name in found:
        if not name.startswith("pspnet_lightning."):
            continue
        other = name.split(".")[1]
        if other == own:
            continue
        assert FLOORS[other] <= floor, f"{own} imports {other} from above"
        if floor == 1:
            assert other in ALLOWED[own]
        assert {own, other} != {"models", "data"}


def test_commands_do_not_import_each_other() -> None:
    for path in (PACKAGE / "cli").glob("*.py"):
        others = {name.split(".")[2] for name in imports(path) if name.startswith("pspnet_lightning.cli.")}
        # Parts of a command: what train looks for first, the processes and the sweep that it runs in, what benchmark
        # measures, how evaluate and predict predict.
        assert others <= {
            "app",
            "preflight",
            "job",
            "ranks",
            "rank_processes",
            "repeat",
            "resume",
            "sweep",
            "sweep_job",
            "locks",
            "optuna_sweeper",
            "benchmark_input",
            "benchmark_memory",
            "benchmark_model",
            "benchmark_ways",
            "protocol",
            "export_check",
        }
