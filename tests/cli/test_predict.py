"""`pspnet-predict`: outputs, broken inputs, interruption, videos, big and georeferenced TIFFs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from conftest import REPOSITORY, Run, list_arguments
from PIL import Image
from small_checkpoint import write_checkpoint

from pspnet_lightning.inference import SlidingWindow, predict_probabilities
from pspnet_lightning.training.module import SegmentationModule
from pspnet_lightning.visualize import colorize

# EPSG:32633, half a metre a pixel.
GEO_TAGS = [
    (33550, 12, 3, (0.5, 0.5, 0.0), True),
    (33922, 12, 6, (0.0, 0.0, 0.0, 300000.0, 5000000.0, 0.0), True),
    (34735, 3, 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633), True),
]


def view(seed: int, height: int = 60, width: int = 80, bands: int = 3) -> np.ndarray:
    """Smooth noise: what JPEG and video codecs keep."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, bands), dtype=np.uint8)
    return np.ascontiguousarray(
        cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, bands)
    )


@pytest.fixture
def module(small_list: Path, tmp_path: Path) -> SegmentationModule:
    return write_checkpoint(tmp_path / "best.ckpt", *list_arguments(small_list))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``in/`` with a.png, a.jpg, sub/b.png."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "a.jpg", "sub/b.png")):
        Image.fromarray(view(number)).save(tmp_path / "in" / name)
    return tmp_path / "in"


def predicted(command: Run, *arguments: str) -> str:
    result = command("predict", "checkpoint=best.ckpt", "device=cpu", "output=out", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    return result.stdout


def index_of(path: Path) -> np.ndarray:
    with Image.open(path) as file:
        assert file.mode == "P"
        return np.array(file)


def test_a_folder_becomes_index_maps_overlays_and_probabilities(
    command: Run, module: SegmentationModule, folder: Path, tmp_path: Path
) -> None:
    said = predicted(command, "input=in", "probabilities=true", "opacity=1")
    assert "3 inputs" in said
    assert "\r" not in said
    out = tmp_path / "out"
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    # Equal stems keep their suffix.
    names = ("a.jpg", "a.png", "sub/b")
    assert files == {
        "manifest.jsonl",
        *(f"index/{name}.png" for name in names),
        *(f"overlay/{name}.png" for name in names),
        *(f"probabilities/{name}.npz" for name in names),
    }
    labels = index_of(out / "index" / "sub" / "b.png")
    assert np.array_equal(labels, module.predict(view(2)))
    assert len(np.unique(labels)) > 1
    assert module.description is not None
    palette = module.description["spec"]["palette"]
    overlay = np.array(Image.open(out / "overlay" / "sub" / "b.png"))
    assert np.array_equal(overlay[:60, :80], colorize(labels, palette))
    assert overlay.shape[0] > 60, "a legend below"
    stored = np.load(out / "probabilities" / "sub" / "b.npz")
    assert stored["probabilities"].dtype == np.float16
    assert stored["probabilities"].shape == (3, 60, 80)
    assert stored["classes"].tolist() == ["a", "b", "c"]
    assert np.abs(stored["probabilities"].sum(0) - 1).max() < 2e-3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "in", "out", "set"], "nothing stray"


def test_what_was_written_is_no_input(command: Run, module: SegmentationModule, folder: Path) -> None:
    for output in ("in", "in/out"):
        arguments = ["checkpoint=best.ckpt", "device=cpu", "input=in", f"output={output}"]
        assert "; 3 inputs\n" in command("predict", *arguments).stdout
        assert "; 3 inputs, 3 of them done already\n" in command("predict", *arguments).stdout
        for kind in ("index", "overlay"):
            shutil.rmtree(folder / kind, ignore_errors=True)


@pytest.mark.parametrize("pattern", ["in/sub/b.png", "'in/*/b.png'", "'in/**/b.*'"])
def test_the_protocol_is_the_evaluations(
    command: Run, module: SegmentationModule, folder: Path, tmp_path: Path, pattern: str
) -> None:
    predicted(command, f"input={pattern}", "evaluation=multi_scale", "evaluation.scales=[1,1.5]", "overlay=false")
    labels = index_of(tmp_path / "out" / "index" / "b.png")
    assert np.array_equal(labels, module.predict(view(2), SlidingWindow(33, scales=(1.0, 1.5))))
    assert not (tmp_path / "out" / "overlay").exists()


def test_the_python_door_takes_a_protocol(module: SegmentationModule) -> None:
    image = view(5)
    mean, std = (module.get_buffer(name).flatten().tolist() for name in ("mean", "std"))
    protocol = SlidingWindow(33)
    expected = predict_probabilities(module.model, image, protocol, mean=mean, std=std)
    assert np.array_equal(module.predict(image, protocol), expected.argmax(0).numpy())
    assert np.array_equal(module.predict_probabilities(image, protocol), expected.numpy())
    whole = module.predict_probabilities(image)
    assert np.array_equal(whole.argmax(0), module.predict(image))
    with pytest.raises(ValueError, match=r"expected \(H, W, 3\)"):
        module.predict(image[..., :2], protocol)


def test_broken_inputs_are_reported_at_the_end(
    command: Run, module: SegmentationModule, folder: Path, tmp_path: Path
) -> None:
    whole = (folder / "a.jpg").read_bytes()
    (folder / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no picture")
    (folder / "empty.tif").write_bytes(b"")
    (folder / "film.mp4").write_bytes(b"no film" * 50)
    result = command("predict", "checkpoint=best.ckpt", "device=cpu", "output=out", "input=in")
    assert result.returncode == 1
    assert result.stderr.splitlines()[0].startswith("error: ")
    assert "error: 4 of 7 inputs could not be predicted:" in result.stderr
    for name in ("torn.jpg", "text.png", "empty.tif", "film.mp4"):
        assert f"in/{name}" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(list((tmp_path / "out" / "index").rglob("*.png"))) == 3
    # Mended, only what is missing is done.
    (folder / "torn.jpg").write_bytes(whole)
    for name in ("text.png", "empty.tif", "film.mp4"):
        (folder / name).unlink()
    assert "4 inputs, 3 of them done already" in predicted(command, "input=in")


def test_what_is_done_is_passed_over_and_what_has_changed_is_not(
    command: Run, module: SegmentationModule, folder: Path, tmp_path: Path
) -> None:
    predicted(command, "input=in")
    assert "3 of them done already" in predicted(command, "input=in")
    # Another protocol: all anew; and back again: its outputs have been overwritten.
    assert "done already" not in predicted(command, "input=in", "evaluation.flip=true")
    assert "done already" not in predicted(command, "input=in")
    # A changed input, a lost output, a torn line of the manifest.
    Image.fromarray(view(7)).save(folder / "a.png")
    (tmp_path / "out" / "overlay" / "a.jpg.png").unlink()
    assert "1 of them done already" in predicted(command, "input=in")
    manifest = tmp_path / "out" / "manifest.jsonl"
    manifest.write_text(manifest.read_text()[:-9])
    assert "2 of them done already" in predicted(command, "input=in")
    assert "3 of them done already" in predicted(command, "input=in")
    assert all(json.loads(line) for line in manifest.read_text().splitlines() if line.endswith("}"))
    # Another checkpoint under the same name.
    content = torch.load(tmp_path / "best.ckpt", weights_only=True)
    content["state_dict"]["model.head.classifier.bias"] += 1
    torch.save(content, tmp_path / "best.ckpt")
    assert "done already" not in predicted(command, "input=in")


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped(command: Run, module: SegmentationModule, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(20):
        Image.fromarray(view(number, 120, 160)).save(tmp_path / "in" / f"{number:02}.png")
    arguments = ["checkpoint=best.ckpt", "device=cpu", "input=in", "output=out", "evaluation=single_scale"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from pspnet_lightning.cli.predict import main; main()", *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
    )
    out = tmp_path / "out"
    while len(list(out.rglob("overlay/*.png"))) < 3 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png") if not path.name.startswith(".")}
    done = sum(path.parent.name == "overlay" for path in before)
    assert 3 <= done < 20
    result = command("predict", *arguments)
    assert result.returncode == 0, result.stderr
    counted = int(result.stdout.split("20 inputs, ")[1].split()[0])
    assert done - 1 <= counted <= done
    kept = [path for path, when in before.items() if path.stat().st_mtime_ns == when]
    assert len(kept) >= 2 * counted
    for kind in ("index", "overlay"):
        assert len(list((out / kind).glob("*.png"))) == 20
    assert not list(out.rglob("*.part"))
    assert np.array_equal(
        index_of(out / "index" / "07.png"),
        module.predict(view(7, 120, 160), SlidingWindow(33)),
    )


def write_video(path: Path, count: int = 6) -> None:
    sink = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 5, (80, 60))
    for number in range(count):
        sink.write(view(number))
    sink.release()


def test_a_video_becomes_a_video_and_index_maps(command: Run, module: SegmentationModule, tmp_path: Path) -> None:
    write_video(tmp_path / "drive.mp4")
    predicted(command, "input=drive.mp4")
    out = tmp_path / "out"
    capture = cv2.VideoCapture(str(tmp_path / "drive.mp4"))
    frames = [cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB) for _ in range(6)]
    for number, frame in enumerate(frames):
        assert np.array_equal(index_of(out / "index" / "drive" / f"{number:06}.png"), module.predict(frame))
    film = cv2.VideoCapture(str(out / "overlay" / "drive.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 6
    assert film.get(cv2.CAP_PROP_FPS) == 5
    assert film.get(cv2.CAP_PROP_FRAME_HEIGHT) > 60
    assert "1 of them done already" in predicted(command, "input=drive.mp4")
    # As if it had been killed after four frames: what is there is kept.
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text("".join(lines[:-1]))
    (out / "overlay" / "drive.mp4").unlink()
    for number in (4, 5):
        (out / "index" / "drive" / f"{number:06}.png").unlink()
    first = (out / "index" / "drive" / "000000.png").stat().st_mtime_ns
    predicted(command, "input=drive.mp4")
    assert (out / "index" / "drive" / "000000.png").stat().st_mtime_ns == first
    assert np.array_equal(index_of(out / "index" / "drive" / "000005.png"), module.predict(frames[5]))
    assert cv2.VideoCapture(str(out / "overlay" / "drive.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 6
    # Other settings do not take the old frames over.
    predicted(command, "input=drive.mp4", "evaluation.flip=true")
    assert (out / "index" / "drive" / "000000.png").stat().st_mtime_ns > first


@pytest.mark.parametrize("layout", ["strips", "planes", "tiled", "deflate"])
def test_a_big_tiff_streams_and_keeps_its_georeference(
    command: Run, module: SegmentationModule, tmp_path: Path, layout: str
) -> None:
    rasterio = pytest.importorskip("rasterio")
    image = view(1, 300, 270)
    options = {
        "strips": {"photometric": "rgb"},
        "planes": {"photometric": "rgb", "planarconfig": "separate"},
        "tiled": {"photometric": "rgb", "tile": (64, 64)},
        "deflate": {"photometric": "rgb", "compression": "zlib", "rowsperstrip": 16},
    }[layout]
    data = np.moveaxis(image, 2, 0).copy() if layout == "planes" else image
    tifffile.imwrite(tmp_path / "tile.tif", data, extratags=GEO_TAGS, metadata=None, **options)
    predicted(command, "input=tile.tif", "evaluation=single_scale", "stream_above=1000")
    out = tmp_path / "out" / "index" / "tile.tif"
    with rasterio.open(out) as written, rasterio.open(tmp_path / "tile.tif") as given:
        assert written.crs == given.crs
        assert written.crs.to_epsg() == 32633
        assert written.transform == given.transform
        labels = written.read(1)
        assert module.description is not None
        assert list(written.colormap(1)[1][:3]) == module.description["spec"]["palette"][1]
    assert np.array_equal(labels, module.predict(image, SlidingWindow(33)))
    # A small one, not streamed, is the same.
    predicted(command, "input=tile.tif", "evaluation=single_scale")
    with rasterio.open(out) as written:
        assert np.array_equal(written.read(1), labels)
        assert written.transform.a == 0.5


def test_a_big_image_is_cut_into_the_trained_crop(command: Run, module: SegmentationModule, tmp_path: Path) -> None:
    """Whole images by protocol, but above ``stream_above``: windows; and of a PNG a PNG."""
    Image.fromarray(view(1, 300, 270)).save(tmp_path / "big.png")
    predicted(command, "input=big.png", "stream_above=1000")
    labels = index_of(tmp_path / "out" / "index" / "big.png")
    assert np.array_equal(labels, module.predict(view(1, 300, 270), SlidingWindow(33, flip=False)))
    overlay = Image.open(tmp_path / "out" / "overlay" / "big.png")
    assert overlay.size[0] == 270
    result = command(
        "predict", "checkpoint=best.ckpt", "input=big.png", "output=out", "stream_above=1000", "evaluation=multi_scale"
    )
    assert result.returncode == 1
    assert "is predicted at its own size only: scales=[0.5" in result.stderr


def test_a_compressed_tiff_names_the_extra(command: Run, module: SegmentationModule, tmp_path: Path) -> None:
    (tmp_path / "hidden" / "rasterio").mkdir(parents=True)
    (tmp_path / "hidden" / "rasterio" / "__init__.py").write_text("raise ImportError('not here')")
    tifffile.imwrite(tmp_path / "tile.tif", view(1, 300, 270), photometric="rgb", compression="zlib")
    result = subprocess.run(
        [
            *(sys.executable, "-c", "from pspnet_lightning.cli.predict import main; main()"),
            *("checkpoint=best.ckpt", "input=tile.tif", "output=out", "stream_above=1000", "device=cpu"),
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{tmp_path / 'hidden'}{os.pathsep}{REPOSITORY}"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "pip install 'pspnet-lightning[geo]'" in result.stderr


def test_images_of_many_bands(command: Run, tmp_path: Path) -> None:
    """The checkpoint knows how many bands its network takes, and which of the file's."""
    for kind in ("images", "masks"):
        (tmp_path / "set" / kind).mkdir(parents=True)
    for number in range(5):
        tifffile.imwrite(tmp_path / "set" / "images" / f"{number}.tif", view(number, bands=5), planarconfig="contig")
        Image.fromarray(view(number)[..., 0] // 128).save(tmp_path / "set" / "masks" / f"{number}.png")
    options = ["data=folder", f"data.root={tmp_path / 'set'}", "data.classes=[a,b]", "data.crop_size=33"]
    module = write_checkpoint(tmp_path / "best.ckpt", *options, "data.channels=4", "data.bands=[4,0,1,2]")
    predicted(command, "input=set/images/3.tif")
    expected = module.predict(view(3, bands=5)[..., [4, 0, 1, 2]])
    assert np.array_equal(index_of(tmp_path / "out" / "index" / "3.png"), expected)
    predicted(command, "input=set/images/3.tif", "stream_above=100", "evaluation.crop_size=60")
    streamed = tifffile.imread(tmp_path / "out" / "index" / "3.tif")
    window = SlidingWindow(60, flip=False)
    assert np.array_equal(streamed, module.predict(view(3, bands=5)[..., [4, 0, 1, 2]], window))
    Image.fromarray(view(1)).save(tmp_path / "rgb.png")
    result = command("predict", "checkpoint=best.ckpt", "input=rgb.png", "output=out")
    assert result.returncode == 1
    assert "has 3 bands" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["input=nothing"], "input='nothing': there is no such file or folder"),
        (["input=set/train.txt"], "cannot be decoded"),
        (["input='*.jpg'"], "there is no image or video"),
        ([], "input is required: give input=... on the command line"),
        (
            ["input=in", "overlays=false"],
            "overlays: there is no such key in the configuration; did you mean 'overlay'?",
        ),
        (["input=in", "evaluation=single"], "did you mean 'single_scale'?"),
        (["input=in", "evaluation.save_predictions=true"], "evaluation.save_predictions: there is no such key"),
        (["input=in", "device=tpu"], "device='tpu' cannot be used"),
        (["input=in", "precision=half"], "precision=half must be 32-true, bf16-mixed or 16-mixed"),
        (["input=in", "index=false", "overlay=false"], "leaves nothing to write"),
        (["input=in", "opacity=2"], "opacity=2 must be a number from 0 to 1"),
        (["input=in/[a].png"], "is quoted twice"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(command: Run, module: SegmentationModule, folder: Path, arguments: list[str], message: str) -> None:
    result = command("predict", "checkpoint=best.ckpt", "output=out", *arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.stderr
