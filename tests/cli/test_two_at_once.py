"""Two commands that would write the same files: the second is told which process is at work, and writes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import SMALL, Run, list_arguments
from small_checkpoint import write_checkpoint
from sweep_folder import write_run

from pspnet_lightning.launch import locks

CHECKPOINT = ["checkpoint=best.ckpt", "device=cpu"]


def test_a_second_run_in_a_folder(command: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra" / "config.yaml").write_text("the first one's")
    with locks.locked(run, "it"):
        done = command("train", *SMALL, "hydra.run.dir=run")
        assert done.returncode == 1
        assert re.search(
            r"^error: run folder run is in use by process \d+ on .*; wait for it, or end it, or give another "
            r"hydra\.run\.dir=\.\.\.$",
            done.stderr,
            re.MULTILINE,
        ), done.stderr
    assert [path.relative_to(run).as_posix() for path in sorted(run.rglob("*"))] == [".hydra", ".hydra/config.yaml"]
    assert (run / ".hydra" / "config.yaml").read_text() == "the first one's"


@pytest.mark.parametrize(
    ("name", "target", "arguments"),
    [
        ("predict", "out", [*CHECKPOINT, "input=set/images", "output=out"]),
        pytest.param(
            "evaluate",
            "out",
            ["checkpoint=best.ckpt", "trainer.accelerator=cpu", "hydra.run.dir=out"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "explain", "out", [*CHECKPOINT, "input=set/images", "baseline=zero", "output=out"], marks=pytest.mark.slow
        ),
        ("export", "best.safetensors", ["checkpoint=best.ckpt", "format=safetensors"]),
        pytest.param(
            "inspect",
            "out",
            ["data=list", "data.root=set", "data.train=train.txt", "data.val=val.txt"],
            marks=pytest.mark.slow,
        ),
        ("report", "run/report", ["folder=run"]),
    ],
)
def test_a_second_command_with_one_output(
    command: Run, small_list: Path, tmp_path: Path, name: str, target: str, arguments: list[str]
) -> None:
    if name == "inspect":
        arguments = [*arguments, "data.classes=[a,b,c]", "hydra.run.dir=out"]
    elif name == "report":
        write_run(tmp_path / "run", ["seed=0"], [0.5, 0.5])
    else:
        write_checkpoint(tmp_path / "best.ckpt", *list_arguments(small_list))
    (tmp_path / "out").mkdir()
    with locks.locked(tmp_path / target, "it"):
        before = {path for path in tmp_path.rglob("*") if ".hydra" not in path.parts}
        done = command(name, *arguments)
        assert done.returncode == 1
        assert re.search(r"^error: .* is in use by process \d+ on .*; wait for it, or end it", done.stderr, re.M), (
            done.stderr
        )
        after = {path for path in tmp_path.rglob("*") if ".hydra" not in path.parts and path.suffix != ".log"}
        assert after == before
    done = command(name, *arguments)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*.lock"))
