"""What cannot be written leaves the earlier file whole, nothing half written, and an error that names the file."""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pspnet_lightning.data.rasters import write_label_tiff
from pspnet_lightning.disk import clear_parts, naming, replacing
from pspnet_lightning.inference.manifest import Manifest
from pspnet_lightning.runs.json_files import write_json
from pspnet_lightning.visualize import save_png
from pspnet_lightning.visualize.figures import plot_curves

NOISE = np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Within, writing beyond so many bytes fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def text(path: Path) -> None:
    with replacing(path) as part:
        part.write_text("x" * 9000)


def arrays(path: Path) -> None:
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, noise=NOISE)


WRITERS: dict[str, Callable[[Path], None]] = {
    "text": text,
    "arrays": arrays,
    "json": lambda path: write_json({"values": list(range(9000))}, path),
    "png": lambda path: save_png(NOISE, path),
    "curves": lambda path: plot_curves([{"step": 1, "train/loss": 1}], path),
    "tiff": lambda path: write_label_tiff(path, [NOISE], 300, 300, [(0, 0, 0)], []),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_names_the_file_and_keeps_the_earlier_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file"
    path.write_text("earlier")
    with no_file_above(2000), pytest.raises(OSError, match=r"File too large|No space left") as caught:
        WRITERS[name](path)
    assert caught.value.filename == str(path)
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert path.read_text() == "earlier"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    WRITERS[name](path)
    assert path.stat().st_size > 2000


def test_the_list_of_what_is_finished(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, {"checkpoint": "x"})
    (tmp_path / "a.png").write_text("")
    with no_file_above(100), pytest.raises(OSError, match="File too large") as caught:
        manifest.finish(tmp_path / "a.png", [Path("index/a.png")])
    assert caught.value.filename == str(tmp_path / "manifest.jsonl")


def test_other_errors_are_left_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, naming(tmp_path / "out"):
        open(tmp_path / "in").close()
    assert caught.value.filename == str(tmp_path / "in")
    with pytest.raises(OSError, match=r"^unknown format$"), naming(tmp_path / "out"):
        raise OSError("unknown format")


def test_leftovers(tmp_path: Path) -> None:
    (tmp_path / "index" / "deep").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    gone = [".results.json.part", "index/deep/.a.png.part", "index/.film.part.mp4"]
    kept = ["results.json", "a.part", ".hidden", "other/.b.png.part", "index/.part.png"]
    for name in (*gone, *kept):
        (tmp_path / name).write_text("")
    clear_parts(tmp_path, "index", "absent")
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == set(kept)
