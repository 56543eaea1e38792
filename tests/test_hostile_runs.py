"""Run folders that somebody else has written: each becomes a report, or a clear error, and none does anything else."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, PngImagePlugin
from sweep_folder import write_run

from pspnet_lightning.report import gather, headline, write_report
from pspnet_lightning.visualize import read_cells

MARKUP = "<img src=x onerror=alert(1)>[a](javascript:alert(1))`*|*`![b](http://c.d/e)&lt;\\<b>"
FORMULA = '=HYPERLINK("http://c.d/e","x")'
ANSI = "\x1b[2J\x1b]0;title\x07\u202egnp.exe\x9b1m"
BILLION = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def record(**change: Any) -> Callable[[Path], None]:
    """run.json with other fields."""

    def alter(run: Path) -> None:
        content = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps({**content, **change}))

    return alter


def results(**change: Any) -> Callable[[Path], None]:
    def alter(run: Path) -> None:
        content = json.loads((run / "results.json").read_text())
        (run / "results.json").write_text(json.dumps({**content, **change}))

    return alter


def file(name: str, content: str | bytes) -> Callable[[Path], None]:
    def alter(run: Path) -> None:
        path = run / name
        path.unlink(missing_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))

    return alter


def link(name: str, target: str) -> Callable[[Path], None]:
    def alter(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(target)

    return alter


def pipe(name: str) -> Callable[[Path], None]:
    def alter(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return alter


def folder(name: str) -> Callable[[Path], None]:
    def alter(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir()

    return alter


def metrics(*rows: str) -> Callable[[Path], None]:
    return file("metrics.csv", "\n".join(["epoch,val/miou,val/loss,train/loss,images_per_second", *rows]))


def sheet(notes: str) -> Callable[[Path], None]:
    """validation.png with other notes on where its cells are."""

    def alter(run: Path) -> None:
        info = PngImagePlugin.PngInfo()
        info.add_text("pspnet-cells", notes, zip=True)
        Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(run / "validation.png", pnginfo=info)

    return alter


def cells(**change: Any) -> str:
    places = {name: [0, 0, 10, 10] for name in ("image", "truth", "prediction", "errors")}
    return json.dumps([{"name": "a", "cells": {**places, **change}}])


def large_png(run: Path) -> None:
    """60000 x 60000 pixels in 10 MB, of which only the header is here."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    notes = b"pspnet-cells\x00" + cells().encode()
    content = chunk(b"IHDR", head) + chunk(b"tEXt", notes) + chunk(b"IDAT", zlib.compress(b"\0" * 10**6))
    (run / "validation.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b""))


def deep_folders(run: Path) -> None:
    here = os.open(run.parent, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def neighbour(name: str | bytes) -> Callable[[Path], None]:
    """A second run in the sweep, of another name."""

    def alter(run: Path) -> None:
        other = Path(os.fsdecode(os.path.join(os.fsencode(run.parent), os.fsencode(name))))
        write_run(other, ["model.bins=[1]", "seed=0"], [0.5, 0.6])

    return alter


FIELDS = (
    "status",
    "error",
    "overrides",
    "seconds",
    "attempts",
    "objective",
    "git",
    "versions",
    "peak_memory_bytes",
)


def everywhere(text: str) -> Callable[[Path], None]:
    """run.json with this in every text."""
    return record(
        status=text,
        error=text,
        overrides=[f"{text}={text}", f"seed={text}"],
        versions={"torch": text},
        git={"commit": text, "dirty": text},
        objective={"name": text, "value": 0.5},
    )


HOSTILE: dict[str, Callable[[Path], None]] = {
    "run.json is a list": file("run.json", "[1, 2]"),
    "run.json is a number": file("run.json", "3"),
    "run.json is torn": file("run.json", '{"status": "fin'),
    "run.json is no text": file("run.json", b"\xff\xfe\x00{}"),
    "run.json is deep": file("run.json", '{"a":' * 100_000),
    "run.json is deep in a field": file("run.json", '{"error": ' + "[" * 900 + "]" * 900 + "}"),
    "run.json is large": file("run.json", '{"error": "' + "x" * 17 * 2**20 + '"}'),
    "run.json is a pipe": pipe("run.json"),
    "run.json has no end": link("run.json", "/dev/zero"),
    "run.json links to itself": link("run.json", "run.json"),
    "run.json is a folder": folder("run.json"),
    "every field a list": record(**{key: [1] for key in FIELDS}),
    "every field a number": record(**dict.fromkeys(FIELDS, 7)),
    "every field a map": record(**{key: {"a": {"b": 1}} for key in FIELDS}),
    "every field a text": record(**dict.fromkeys(FIELDS, "x")),
    "numbers beyond floats": record(
        seconds=10**400, attempts=10**400, objective={"name": "val/miou", "value": 10**400}
    ),
    "numbers at the end of floats": record(seconds=1.7e308, objective={"name": "val/miou", "value": 1.7e308}),
    "not a number": file("run.json", '{"status": "finished", "objective": {"value": NaN}, "seconds": -Infinity}'),
    "memory is text": record(peak_memory_bytes={"host": "all", "device": [1]}),
    "markup in every text": everywhere(MARKUP),
    "formulas in every text": everywhere(FORMULA),
    "a terminal's sequences": everywhere(ANSI),
    "halves of characters": record(status="\ud800", error="\udc80", overrides=["seed=\ud800"]),
    "lines and fences": record(error="a\n```\n# b", overrides=["seed=```\n# c\n````"]),
    "results are a list": file("results.json", "[]"),
    "results are deep": file("results.json", '{"iou": ' + "[" * 200_000 + "}"),
    "iou is a map": results(iou={"a": 1}),
    "iou is text": results(iou=["a", None, {}, [], True]),
    "classes are lists": results(classes=[["a"], {"b": 1}, 3]),
    "classes with markup": results(classes=[MARKUP, FORMULA, ANSI]),
    "a hundred thousand classes": results(classes=["x"] * 100_000, iou=[0.5] * 100_000),
    "a palette of anything": results(palette=["red", [1], [1e9, -5, "a"], None]),
    "scores are lists": results(miou=[1], macc={}, aacc="x"),
    "config.yaml of a billion": file("config.yaml", BILLION),
    "config.yaml is deep": file("config.yaml", "[" * 5_000),
    "config.yaml with objects": file("config.yaml", "a: !!python/object/apply:os.system ['touch ran']"),
    "config.yaml of odd tags": file("config.yaml", "a: !!bool x\nb: !!timestamp y\nc: !!int ''"),
    "config.yaml is large": file("config.yaml", "a: '" + "x" * 2**20 + "'"),
    "config.yaml is a list": file("config.yaml", "[1, 2]"),
    "config.yaml is no text": file("config.yaml", b"\x80\x81"),
    "config.yaml of odd types": file(
        "config.yaml",
        yaml.safe_dump({"data": {"folds": {"a": [1]}, "_target_": ["x"], "epochs": {}}, 3: {None: 1}, "model": 7}),
    ),
    "config.yaml with markup": file(
        "config.yaml", yaml.safe_dump({"data": {"_target_": MARKUP, "lr": ANSI}, "model": {"bins": [MARKUP]}})
    ),
    "config.yaml with a secret": file("config.yaml", "data: {lr: '${oc.env:HOME}', epochs: '${oc.env:HOME}'}"),
    "overrides.yaml is a map": file(".hydra/overrides.yaml", "a: 1"),
    "metrics.csv with odd rows": metrics(
        "", ",,,,", "a,b,c,d,e", "1,0.5,1,1,1,9,9,9", '"', "\0,\0", "-1,0.5", "1e400,0.5", "9" * 5000 + ",1"
    ),
    "metrics.csv of far epochs": metrics(f"{10**30},0.5,1,1,1", "999999999,0.5,1,1,1", "1.5,0.5,1,1,1"),
    "metrics.csv of near values": metrics("0,1000000000000.1,5e-324,1,1", "1,1000000000000.2,0,1,1"),
    "metrics.csv of large values": metrics("0,1.7e308,-1.7e308,1e308,1e308", "1,-1.7e308,1.7e308,1e300,1"),
    "metrics.csv of one field": file("metrics.csv", "epoch,val/miou\n0," + "x" * 200_000),
    "metrics.csv is a folder": folder("metrics.csv"),
    "metrics.csv is a pipe": pipe("metrics.csv"),
    "metrics.csv has no end": link("metrics.csv", "/dev/zero"),
    "a picture of 60000 x 60000": large_png,
    "a picture that is none": file("validation.png", b"\x89PNG\r\n\x1a\n" + b"x" * 100),
    "a picture that is a pipe": pipe("validation.png"),
    "cells that are text": sheet(cells(image="abcd")),
    "cells outside": sheet(cells(truth=[70, 50, 20, 20])),
    "cells below zero": sheet(cells(image=[-5, -5, 10, 10])),
    "cells of nothing": sheet(cells(prediction=[0, 0, 0, 0])),
    "cells that are missing": sheet('[{"name": "a", "cells": {"image": [0, 0, 1, 1]}}]'),
    "cells that are deep": sheet("[" * 100_000),
    "a name with markup": sheet(json.dumps([{"name": MARKUP + ANSI, "cells": json.loads(cells())[0]["cells"]}])),
    "a report that is a link": link(".report.md.part", "../victim"),
    "a report that is a folder": folder("report.csv"),
    "folders without end": deep_folders,
    "a folder of markup": neighbour("<script>alert(1)<"),
    "a folder of lines": neighbour("a\n# b\r```"),
    "a folder of no text": neighbour(b"\xff\xfe"),
    "a folder of odd digits": neighbour("²"),
    "a folder that is a link up": link("up", ".."),
    "a sweep's folder with odd JSON": lambda run: file("sweep.json", '{"mode": ["min"]}')(run.parent),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "0"
    write_run(folder, ["model.bins=[1,2,3,6]", "seed=0"], [0.4, 0.5])
    return folder


@pytest.fixture
def run(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run in a sweep; beside the sweep a file that nobody may write to."""
    (tmp_path / "victim").write_text("mine")
    shutil.copytree(good, tmp_path / "sweep" / "0")
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "sweep" / "0"
    # pytest's own cleaning, some sessions later, would end in a RecursionError.
    subprocess.run(["rm", "-rf", tmp_path / "sweep"], check=True)


def test_there_are_many() -> None:
    assert len(HOSTILE) >= 60


# Each as a run or as a sweep of one job, in turn; what is about the sweep's folder as a sweep.
PLACES = [(name, number % 2 == 0 and "folder" not in name) for number, name in enumerate(HOSTILE)]


@pytest.mark.parametrize(("name", "single"), PLACES)
def test_a_report_or_a_clear_error(name: str, single: bool, run: Path, tmp_path: Path) -> None:
    HOSTILE[name](run)
    target = run if single else run.parent
    failure: Exception | None = None
    try:
        content = gather(target)
        said = headline(content)
        paths = write_report(content, target)
    except (ValueError, OSError) as error:  # what a command prints in one line
        failure = error
    if failure is not None:
        assert str(tmp_path) in str(failure)
        assert "\x1b" not in str(failure)
    else:
        assert [path.name for path in paths] == ["report.html", "report.md", "report.csv"]
        html, markdown, table = (path.read_text() for path in paths)
        for text in (said, html, markdown, table):
            assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", text)
            assert os.environ["HOME"] + "\n" not in text
        assert "<script" not in html
        assert "<img src=x" not in html
        outside = re.sub(r"\n(`{3,})\n.*?\n\1\n", "\n", markdown, flags=re.DOTALL)
        assert not re.search(r"(?<!\\)(<[A-Za-z/!]|\]\(|`)", outside), "markup outside the commands"
        assert len(re.findall("^# ", outside, re.MULTILINE)) == 1, "no heading but the title"
        for row in csv.reader(table.splitlines()):
            assert not any(re.match(r"\s*[=+@-](?![\d.])", cell) for cell in row), row
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "ran").exists()


def test_what_is_whole_is_still_read(run: Path) -> None:
    content = gather(run)
    assert content.jobs[0].objective == pytest.approx(0.45)
    assert len(read_cells(run / "validation.png")) == 3
    markdown = write_report(content, run)[1].read_text()
    assert "| bins | [1,2,3,6] |" in markdown
    assert "\\" not in markdown
