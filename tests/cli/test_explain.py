"""pspnet-explain: pictures, tables and files of what context does, from a checkpoint alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run, list_arguments
from PIL import Image

from pspnet_lightning import load
from pspnet_lightning.explain.receptive_field import (
    effective_receptive_fields,
    network_receptive_field,
)
from pspnet_lightning.models import build_pspnet


@pytest.fixture
def checkpoint(command: Run, small_list: Path, tmp_path: Path) -> Path:
    result = command("train", *list_arguments(small_list), "model.bins=[1,2]", "hydra.run.dir=run")
    assert result.returncode == 0, result.stderr
    return tmp_path / "run" / "checkpoints" / "best.ckpt"


def test_a_split_and_images(command: Run, checkpoint: Path, small_list: Path, tmp_path: Path) -> None:
    given = f"checkpoint={checkpoint}"
    result = command("explain", given, "output=out", "pictures=2", "arrays=true", "receptive_field=2")
    assert result.returncode == 0, result.stderr
    out = tmp_path / "out"
    found = json.loads((out / "context.json").read_text())
    assert found["sources"] == ["backbone", "bin 1", "bin 2", "constant"]
    assert found["images"] == 3
    # The whole network's scores are those of its evaluation.
    evaluated = command("evaluate", given, "hydra.run.dir=evaluated")
    assert evaluated.returncode == 0, evaluated.stderr
    scores = json.loads((tmp_path / "evaluated" / "results.json").read_text())
    assert found["scores"]["miou"] == pytest.approx(scores["miou"], abs=1e-6)
    assert found["without"].keys() == {"backbone", "bin 1", "bin 2"}
    for entry in found["predicted"].values():
        assert sum(entry["decided"].values()) == pytest.approx(1)
        for source, share in entry["flips"].items():
            assert sum(entry["turned"][source].values()) == pytest.approx(share * entry["pixels"])
    with (out / "context.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3 * 3
    sheets = sorted(path.stem for path in out.glob("0*.png"))
    assert len(sheets) == 2
    for name in ("context.png", "receptive_field.png", f"{sheets[0]}.png"):
        assert min(Image.open(out / name).size) > 300
    arrays = np.load(out / f"{sheets[0]}.npz")
    assert arrays["margin"].shape == (4, 48, 64)
    assert (arrays["margin"].sum(axis=0) >= -1e-4).all()
    image = np.array(Image.open(small_list / "images" / f"{sheets[0].split('_', 1)[1]}.png"))
    assert (load(checkpoint).predict(image) == arrays["prediction"]).mean() > 0.999

    # One's own images, without labels and, against zero, without the data set.
    (small_list / "val.txt").unlink()
    result = command("explain", given, f"input={small_list}/images/*.png", "output=own", "receptive_field=0")
    assert result.returncode == 1
    assert "or baseline=zero" in result.stderr
    (tmp_path / "mine").mkdir()
    for name in ("0.png", "1.png"):
        (small_list / "images" / name).rename(tmp_path / "mine" / name)
    result = command("explain", given, "input=mine", "output=own", "receptive_field=0", "baseline=zero")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "own").glob("*.png")) == ["0.png", "1.png"]
    own = json.loads((tmp_path / "own" / "context.json").read_text())
    assert "scores" not in own
    assert "replaced by zero" in result.stdout
    for arguments, message in (
        (["input=nothing*.png"], "input='nothing*.png': there is no image"),
        (["split=vall"], "did you mean 'val'?"),
        (["baseline=men"], "did you mean 'mean'?"),
        (["device=tpu9"], "device='tpu9' cannot be used"),
    ):
        result = command("explain", given, "baseline=zero", *arguments)
        assert result.returncode == 1
        assert message in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "side"),
    [
        # Added up by hand: 7x7 and the pooling reach 11, stage 1 adds 32 and so on.
        ({"depth": 18, "stem": "plain", "output_stride": 32}, 435),
        ({"depth": 18, "stem": "plain", "output_stride": 8}, 483),
        ({"depth": 50, "stem": "plain", "output_stride": 32}, 427),
    ],
)
def test_theoretical_field(arguments: dict[str, object], side: int) -> None:
    model = build_pspnet(3, width=2, **arguments)  # type: ignore[arg-type]
    assert model.backbone.receptive_field() == (side, arguments["output_stride"])


@pytest.mark.parametrize("bins", [(), (3,), (1, 2)])
def test_gradients_fill_the_theoretical_field_and_no_more(bins: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = build_pspnet(3, depth=18, stem="plain", width=4, output_stride=32, bins=bins).double().eval()
    # Positive weights and inputs keep every ReLU open: the field is then as large as it can be.
    for parameter in model.parameters():
        parameter.data.abs_().clamp_min_(1e-3)
    fields = effective_receptive_fields(model, [torch.rand(3, 600, 600).double() + 1], side=577)
    assert fields.keys() == {"backbone", "network"} | ({"network without context"} if bins else set())
    for name in ("backbone", "network"):
        found = fields[name]
        assert float(found.field.sum()) == pytest.approx(1)
        rows, columns = (found.field.sum(dim=axis).nonzero().flatten().tolist() for axis in (1, 0))
        box = (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)
        top, bottom, left, right = found.theoretical
        assert top <= box[0]
        assert left <= box[2]
        assert bottom >= box[1]
        assert right >= box[3]
        # Max pooling passes a gradient to one pixel of nine only: some at the rim may have none.
        assert (bottom - top) - (box[1] - box[0]) <= 8
        assert found.side_holding(0.5) < found.side_holding(0.95)
    if 1 in bins:
        assert network_receptive_field(model, (577, 577)) == (0, 577, 0, 577)


def test_what_no_field_can_be_measured_of() -> None:
    model = build_pspnet(3, depth=18, stem="plain", width=2, output_stride=32)
    with pytest.raises(ValueError, match="eval mode"):
        effective_receptive_fields(model, [torch.rand(3, 64, 64)])
    with pytest.raises(ValueError, match="there are none"):
        effective_receptive_fields(model.eval(), [])
    with pytest.raises(ValueError, match="at least the backbone's stride, 32"):
        effective_receptive_fields(model, [torch.rand(3, 64, 64)], side=9)
