"""What a person sees while a network trains: on a terminal, a narrow one, without colour, and what CI gets."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, SMALL
from lightning.pytorch.callbacks import ProgressBar

from pspnet_lightning.callbacks import EpochLines, progress_bar

ARGUMENTS = [
    *SMALL,
    "data.train_length=12",
    "data.val_length=4",
    "data.batch_size=4",
    "data.epochs=2",
    "data.crop_size=64",
    "callbacks.pictures=null",
]
LINE = r"epoch {}/2, step {}: loss \d\.\d+, val loss \d\.\d+, val mIoU \d\.\d+, lr [\d.e-]+, images/s [\d.]+"


def seen(folder: Path, **environment: str) -> str:
    """What a terminal of 120 columns is sent."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "COLUMNS": "120"}
    variables.pop("CI", None)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *ARGUMENTS],
        cwd=folder,
        env={**variables, **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other side has gone
            break
        if not part:
            break
        parts.append(part)
    os.close(ours)
    text = b"".join(parts).decode()
    assert process.wait(timeout=60) == 0, text
    return text


def test_a_terminal_gets_a_bar_and_keeps_a_line_for_each_epoch(tmp_path: Path) -> None:
    text = seen(tmp_path, NO_COLOR="1")
    assert re.search(r"epoch 2/2 .*━.* [123]/3 .*loss: [\d.]+ lr: [\d.e-]+ images/s: [\d.]+ mIoU: [\d.]+", text)
    for number, step in ((1, 3), (2, 6)):
        assert len(re.findall(LINE.format(number, step), text)) == 1
    # Bold, dim and italic, but no colour.
    assert not re.search(r"\x1b\[[\d;]*(?:3[0-9]|4[0-9]|9[0-7])[;m]", text)


def test_ci_gets_a_line_an_epoch_on_a_terminal_too(tmp_path: Path) -> None:
    text = seen(tmp_path, CI="true")
    assert [bool(re.search(LINE.format(number, step), text)) for number, step in ((1, 3), (2, 6))] == [True, True]
    assert "\x1b[2K" not in text  # no line is rewritten
    assert "1/3" not in text


@pytest.mark.parametrize(
    ("terminal", "environment", "bar"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"CI": "true"}, False),
        (True, {"CI": "false"}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_who_gets_a_bar(
    terminal: bool, environment: dict[str, str], bar: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert isinstance(progress_bar(), ProgressBar if bar else EpochLines)
