"""A disk that is full, and what killed commands have left: an error that names the file, and nothing left over."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import Run, list_arguments
from small_checkpoint import write_checkpoint
from sweep_folder import write_run

PREDICT = ["checkpoint=best.ckpt", "device=cpu", "output=out"]
NO_HYDRA = "hydra.output_subdir=null"  # whose files would be the first
EVALUATE = ["checkpoint=best.ckpt", "trainer.accelerator=cpu", "hydra.run.dir=out"]


@pytest.fixture
def checkpoint(small_list: Path, tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "best.ckpt", *list_arguments(small_list))
    write_run(tmp_path / "run", ["seed=0"], [0.5, 0.5])
    sink = cv2.VideoWriter(str(tmp_path / "film.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5, (80, 60))
    for seed in range(20):
        sink.write(np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    sink.release()
    return tmp_path / "best.ckpt"


def slow(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "arguments", "size", "named"),
    [
        ("predict", [*PREDICT, "input=set/images"], 1000, "out/overlay/0.png"),
        slow(
            "predict",
            [*PREDICT, "input=set/images", "overlay=false", "probabilities=true"],
            9000,
            "out/probabilities/0.npz",
        ),
        ("predict", [*PREDICT, "input=film.mp4", "index=false"], 50_000, "out/overlay/film.mp4"),
        slow("evaluate", [*EVALUATE, NO_HYDRA], 1000, "out/results.json"),
        ("report", ["folder=run"], 1000, "run/report.html"),
        ("export", ["checkpoint=best.ckpt", "format=torchscript"], 50_000, "best.pt"),
        slow("export", ["checkpoint=best.ckpt", "format=torch_export"], 50_000, "best.pt2"),
        slow("export", ["checkpoint=best.ckpt", "format=onnx"], 50_000, "best.onnx"),
        slow("export", ["checkpoint=best.ckpt", "format=safetensors"], 50_000, "best.safetensors"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else str(value),
)
def test_the_file_is_named(
    command: Run, checkpoint: Path, tmp_path: Path, name: str, arguments: list[str], size: int, named: str
) -> None:
    done = command(name, *arguments, file_size=size)
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    line = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert any(reason in line for reason in ("File too large", "No space left on device")), line
    assert named in line
    assert line.endswith(" is not written; make room and give the command again")
    assert not (tmp_path / named).is_file()
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".hydra"]
    if name == "export" and named != "best.pt":
        return  # their own tests write them, in half a minute
    done = command(name, *arguments)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / named).exists()


@pytest.mark.slow
def test_where_it_is_hydra_that_writes(command: Run, checkpoint: Path) -> None:
    done = command("evaluate", *EVALUATE, file_size=1000)
    assert done.returncode == 1
    assert "error: File too large: a file in the output folder is not written; make room and give" in done.stderr


def test_what_killed_commands_left_is_removed(command: Run, checkpoint: Path, tmp_path: Path) -> None:
    left = {
        "out/index/deep/.0.png.part": ("predict", [*PREDICT, "input=set/images"]),
        "out/overlay/.film.part.mp4": ("predict", [*PREDICT, "input=set/images"]),
        "run/.report.html.part": ("report", ["folder=run"]),
        ".best.safetensors.x1.export/best.safetensors": ("export", ["checkpoint=best.ckpt", "format=safetensors"]),
        "out/.lock": ("predict", [*PREDICT, "input=set/images"]),
    }
    beside = tmp_path / ".best.onnx.x1.export" / "best.onnx"  # another export's
    for path in (*(tmp_path / name for name in left), beside):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    for name, arguments in {str(value): value for value in left.values()}.values():
        done = command(name, *arguments)
        assert done.returncode == 0, done.stderr
    assert [name for name in left if (tmp_path / name).exists()] == []
    assert not (tmp_path / ".best.safetensors.x1.export").exists()
    assert beside.exists()


@pytest.mark.slow
def test_an_export_that_is_killed(command: Run, checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["checkpoint=best.ckpt", "format=torchscript"]
    kill = {"who": "main", "folder": str(tmp_path), "pattern": ".best.pt.*.export/best.pt", "count": 1}
    assert command("export", *arguments, kill=kill).returncode == -9
    assert list(tmp_path.glob(".best.pt.*.export"))
    assert (tmp_path / ".best.pt.lock").exists()
    done = command("export", *arguments)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob(".best*"))


@pytest.mark.slow
def test_an_evaluation_that_is_killed(command: Run, checkpoint: Path, tmp_path: Path) -> None:
    arguments = [*EVALUATE, "evaluation.save_predictions=true"]
    predictions = tmp_path / "out" / "predictions"
    kill = {"who": "main", "folder": str(predictions), "pattern": "*.png", "count": 1}
    assert command("evaluate", *arguments, kill=kill).returncode == -9
    # As the signal leaves one when it comes while a file is being written, here too short a time to be hit.
    (predictions / ".0.png.part").write_bytes(b"torn")
    done = command("evaluate", *arguments)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "out").rglob(".*.part"))
    assert not (tmp_path / "out" / ".lock").exists()
