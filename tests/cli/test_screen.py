"""What a person sees of commands that take time: a bar on a terminal, readable without colour; nothing elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import Run, list_arguments
from small_checkpoint import write_checkpoint

COLOUR = re.compile(r"\x1b\[[0-9;]*(?:3[0-7]|4[0-7]|9[0-7]|38|48)[;0-9]*m")
# Movements of the cursor and lines written over: what a log file cannot show.
MOTION = re.compile(r"\x1b\[\d*[A-HJK]|\x1b\[\?25|\r(?!\n)")

COMMANDS = {
    "evaluate": (["checkpoint=best.ckpt", "hydra.run.dir=run"], "validation", r"mIoU 0\.\d{4}"),
    "predict": (["checkpoint=best.ckpt", "input=set/images", "output=out"], r"\d\.png", r"9 predicted; out"),
    "inspect": ([], "reading train", "written: run/inspect.json"),
    "explain": (
        ["checkpoint=best.ckpt", "output=out", "pictures=1", "receptive_field=0"],
        "mean of each source.*explaining",
        "written: out",
    ),
    "export": (["checkpoint=best.ckpt", "format=torchscript"], "checking best.pt", "written: best.pt"),
    "train": ([], "counting the classes", "best checkpoint: "),
}


@pytest.fixture
def arguments(small_list: Path, tmp_path: Path) -> dict[str, list[str]]:
    data = [word for word in list_arguments(small_list) if word.startswith("data")]
    write_checkpoint(tmp_path / "best.ckpt", *data)
    small = [*list_arguments(small_list), "loss.class_weights=enet", "hydra.run.dir=run", "callbacks.summary=null"]
    read = [word for word in data if not word.startswith(("data.crop", "data.batch", "data.epochs"))]
    more = {"train": small, "inspect": [*read, "hydra.run.dir=run"]}
    return {name: [*words, *more.get(name, [])] for name, (words, _, _) in COMMANDS.items()}


def visible(sent: str) -> str:
    """What stands on the screen in the end, by the movements that the commands make."""
    lines, row, begins = [""], 0, False
    for part in re.split(r"(\x1b\[[\d;?]*[A-Za-z]|\r|\n)", sent):
        if part == "\n":
            row, begins = row + 1, False
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            begins = True  # what follows is written over the line
        elif part.startswith("\x1b"):
            if part == "\x1b[2K":
                lines[row] = ""
            elif part.endswith("A"):
                row -= int(part[2:-1] or 1)
        elif part:
            lines[row] = part + lines[row][len(part) :] if begins else lines[row] + part
            begins = False
    return "\n".join(line for line in lines if line)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_bar_without_colours_and_then_the_result(
    command: Run, arguments: dict[str, list[str]], tmp_path: Path, name: str
) -> None:
    _, bar, result = COMMANDS[name]
    done = command(name, *arguments[name], terminal=True, NO_COLOR="1")
    assert done.returncode == 0, done.stdout
    assert re.search(bar, done.stdout, re.DOTALL)
    assert re.search("[━╸]", done.stdout), "a bar"
    assert MOTION.search(done.stdout)
    assert not COLOUR.search(done.stdout)
    assert re.search(result, done.stdout)
    assert str(tmp_path) not in done.stdout, "paths are relative to where the user stands"
    # The last thing on the screen is the result, not a bar that is over.
    assert not re.search("[━╸]", visible(done.stdout).splitlines()[-1])
    assert "/3 0:0" not in visible(done.stdout)


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_moves_under_ci_and_in_pipes(command: Run, arguments: dict[str, list[str]], name: str) -> None:
    _, bar, result = COMMANDS[name]
    done = command(name, *arguments[name], terminal=True, CI="true", NO_COLOR="1")
    assert done.returncode == 0, done.stdout
    assert not MOTION.search(done.stdout)
    assert not re.search(bar, done.stdout, re.DOTALL) or name == "predict"
    assert re.search(result, done.stdout)
    piped = command(name, *arguments[name])
    assert piped.returncode == 0, piped.stderr
    assert piped.stderr == ""
    assert not re.search(r"[\x1b\r]", piped.stdout)
    assert re.search(result.replace("9 predicted", "0 predicted"), piped.stdout)
