"""Pictures hold what they should where they should."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from pspnet_lightning.data import DataSpec, default_palette
from pspnet_lightning.metrics import scores
from pspnet_lightning.visualize import (
    SheetItem,
    cell_notes,
    class_table,
    colorize,
    error_map,
    overlay,
    plot_curves,
    prediction_sheet,
    read_cells,
    save_png,
)


def spec(count: int) -> DataSpec:
    return DataSpec("set", tuple(f"a rather long class name {i}" for i in range(count)), default_palette(count))


def test_colours() -> None:
    assert default_palette(2) == ((0, 120, 180), (255, 120, 15))
    label = np.array([[0, 1], [2, 255]])
    palette = ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    assert colorize(label, palette).tolist() == [[[0, 0, 0], [128, 0, 0]], [[0, 128, 0], [0, 0, 0]]]
    image = np.full((2, 2, 3), 100, np.uint8)
    assert overlay(image, label, palette)[0, 1].tolist() == [114, 50, 50]
    assert overlay(image, label, palette)[1, 1].tolist() == [100, 100, 100]  # ignored: untouched
    errors = error_map(np.array([[0, 0], [2, 1]]), label)
    assert errors[0, 0].min() > 200
    assert errors[0, 1].tolist() == [214, 40, 40]
    assert errors[1, 1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("count", [2, 11, 150])
def test_sheet(count: int) -> None:
    rng = np.random.default_rng(0)
    items = [
        SheetItem(
            rng.integers(0, 256, (height, 80, 3), np.uint8),
            rng.integers(0, count, (height, 80)),
            rng.integers(0, count, (height, 80)),
            name="x" * 100,
        )
        for height in (60, 90)
    ]
    sheet = prediction_sheet(items, spec(count))
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == 4 * 240 + 3 * 6 + 16
    # The truth of the first row, in the palette: the pictures are enlarged three times.
    corner = sheet[8 + 22 + 22 :, 8 + 240 + 6 :][1, 1]
    assert corner.tolist() == list(spec(count).palette[items[0].label[0, 0]])


def test_files(tmp_path: Path) -> None:
    save_png(np.full((4, 5, 3), 9, np.uint8), tmp_path / "a.png")
    assert np.array(Image.open(tmp_path / "a.png")).tolist() == np.full((4, 5, 3), 9).tolist()
    rows = [
        {"step": "1", "train/loss": "2.0", "val/miou": ""},
        {"step": "9", "train/loss": "1.0", "val/miou": "0.5"},
    ]
    plot_curves(rows, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size[0] > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "curves.png"]


@pytest.mark.parametrize(("height", "width"), [(40, 80), (300, 500)])
def test_a_sheet_is_cut_into_its_cells(tmp_path: Path, height: int, width: int) -> None:
    generator = np.random.default_rng(0)
    items = [
        SheetItem(
            image=generator.integers(0, 255, (height + 20 * number, width, 3), np.uint8),
            label=np.full((height + 20 * number, width), number, np.uint8),
            prediction=np.full((height + 20 * number, width), 2 - number, np.uint8),
            name=f"image {number}",
        )
        for number in range(3)
    ]
    save_png(prediction_sheet(items, spec(3)), tmp_path / "sheet.png", notes=cell_notes(items))
    cells = read_cells(tmp_path / "sheet.png")
    assert [name for name, _ in cells] == ["image 0", "image 1", "image 2"]
    for number, (_, parts) in enumerate(cells):
        assert list(parts) == ["image", "truth", "prediction", "errors"]
        size = (round((height + 20 * number) * 240 / width), 240, 3)
        assert {part.shape for part in parts.values()} == {size}
        assert (parts["truth"] == spec(3).palette[number]).all()
        assert (parts["prediction"] == spec(3).palette[2 - number]).all()
    save_png(prediction_sheet(items, spec(3)), tmp_path / "plain.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "sheet.png").read_bytes()[:200])
    for name in ("plain.png", "torn.png", "none.png"):
        assert read_cells(tmp_path / name) == []


def test_table_names_absent_classes_and_the_rule() -> None:
    text = StringIO()
    table = class_table(scores(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])), ("sky", "road", "boat"))
    Console(file=text, width=100).print(table)
    assert "77.50" in text.getvalue()  # (3/4 + 4/5) / 2
    assert "absent" in text.getvalue()
    assert "'present'" in text.getvalue()
