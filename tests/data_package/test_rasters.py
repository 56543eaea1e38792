"""Big TIFFs: rows in, tiles out, and the memory that takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pspnet_lightning.data import default_palette
from pspnet_lightning.data.rasters import TiffRows, regrouped, write_label_tiff
from pspnet_lightning.data.reading import BandReader, read_image


def noise(*shape: int, kind: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(kind).max, shape, dtype=kind)


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (noise(70, 50, 3), {"photometric": "rgb"}),
        (noise(70, 50), {}),
        (noise(70, 50, 3, kind=np.uint16), {"photometric": "rgb"}),
        (np.concatenate([noise(70, 50, 3), np.full((70, 50, 1), 255, np.uint8)], 2), {"photometric": "rgb"}),
    ],
    ids=["rgb", "grey", "16 bits", "opaque rgba"],
)
def test_rows_are_what_training_reads(pixels: np.ndarray, options: dict[str, str], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", pixels, **options)
    rows = TiffRows(tmp_path / "x.tif", 3)
    assert (rows.height, rows.width, rows.georeference) == (70, 50, [])
    parts = [rows.rows(top, min(top + 32, 70)) for top in (0, 32, 64)]
    assert np.array_equal(np.concatenate(parts), read_image(tmp_path / "x.tif"))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_bands_are_chosen_as_training_does(kind: type, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", noise(70, 50, 5, kind=kind), planarconfig="contig")
    rows = TiffRows(tmp_path / "x.tif", 4, [4, 0, 1, 2]).rows(10, 20)
    expected = BandReader(4, (4, 0, 1, 2))(tmp_path / "x.tif")[10:20]
    assert rows.dtype == expected.dtype
    assert np.array_equal(rows, expected)
    with pytest.raises(ValueError, match="has 5 bands; the network takes 4"):
        TiffRows(tmp_path / "x.tif", 4).rows(0, 1)
    with pytest.raises(ValueError, match="has 5 bands of uint"):
        TiffRows(tmp_path / "x.tif", 3).rows(0, 1)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_text("no tiff")
    with pytest.raises(ValueError, match=r"x\.tif' cannot be decoded"):
        TiffRows(tmp_path / "x.tif", 3)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        TiffRows(tmp_path / "y.tif", 3)


@pytest.mark.parametrize("count", [1, 7, 256])
def test_regrouping_keeps_every_row(count: int) -> None:
    rows = noise(100, 3)
    bands = list(regrouped([rows[:40], rows[40:41], rows[41:]], count))
    assert np.array_equal(np.concatenate(bands), rows)
    assert {len(band) for band in bands[:-1]} <= {count}


def test_a_label_tiff_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    labels = noise(300, 270) % 5
    write_label_tiff(tmp_path / "x.tif", iter(np.split(labels, 3)), 300, 270, default_palette(5), [])
    assert np.array_equal(tifffile.imread(tmp_path / "x.tif"), labels)

    def torn() -> object:
        yield labels[:100]
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write_label_tiff(tmp_path / "y.tif", torn(), 300, 270, default_palette(5), [])
    assert [path.name for path in tmp_path.iterdir()] == ["x.tif"]


MEMORY = """
import resource
from pathlib import Path
import numpy as np, tifffile, torch
from pspnet_lightning.data import DataSpec, default_palette
from pspnet_lightning.data.rasters import TiffRows
from pspnet_lightning.inference import SlidingWindow, label_rows
from pspnet_lightning.inference.writer import Outputs, Writer
torch.set_num_threads(1)
folder, height, width = Path({folder!r}), {height}, 1500
pixels = tifffile.memmap(folder / "x.tif", shape=(height, width, 3), dtype=np.uint8, photometric="rgb")
pixels[::7] = 200
pixels.flush()
del pixels
weight = torch.randn(5, 3, 1, 1)
network = lambda x: torch.nn.functional.conv2d(x, weight)
spec = DataSpec("x", tuple("abcde"), default_palette(5))
rows = TiffRows(folder / "x.tif", 3)
def work(height):
    bands = label_rows(network, rows.rows, height, width, SlidingWindow(257, flip=False), mean=[0.0] * 3, std=[1.0] * 3)
    writer = Writer(folder / "out", spec, Outputs())
    writer.stream(Path("x"), rows.rows, (band for _, band in bands), height, width, tiff=True, tags=[])
work(300)
Path("/proc/self/clear_refs").write_text("5")  # the peak so far, and the pages of the file just written, are forgotten
work(height)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resets the peak by Linux's /proc")
def test_memory_does_not_grow_with_the_height_of_a_file(tmp_path: Path) -> None:
    """From file to file: 12,000 more rows are 54 MB of image and 18 MB of labels; 12 MB more is the bound."""
    peaks = []
    # What is freed goes back at once: what glibc keeps for later differs by 20 MB from run to run.
    malloc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}
    for height in (2000, 14000):
        code = MEMORY.format(folder=str(tmp_path), height=height)
        command = [sys.executable, "-c", code]
        said = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | malloc).stdout
        peaks.append(int(said) * 1024)
    assert peaks[1] - peaks[0] < 12e6
