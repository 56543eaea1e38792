"""The exporters' formulation equals the network, for any size, and names neither sizes nor devices."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pspnet_lightning.export import ExportableProgram
from pspnet_lightning.models import build_pspnet, fold_batchnorm
from pspnet_lightning.models.portable import pool, taps_of
from pspnet_lightning.models.pyramid import tap_matrix

LENGTHS = (1, 2, 5, 6, 7, 12, 13, 33, 60)


@pytest.mark.parametrize("bins", [1, 2, 3, 6, 7, 9])
def test_pooling_by_masks_is_adaptive_pooling(bins: int) -> None:
    cells = torch.arange(bins)[:, None]
    generator = torch.Generator().manual_seed(bins)
    for height, width in itertools.product(LENGTHS, LENGTHS):
        x = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)
        assert torch.equal(pool(x, cells, maximum=True), F.adaptive_max_pool2d(x, bins))
        torch.testing.assert_close(pool(x, cells, maximum=False), F.adaptive_avg_pool2d(x, bins), rtol=0, atol=1e-14)


@pytest.mark.parametrize("align_corners", [True, False])
def test_taps_are_those_of_the_exact_head(align_corners: bool) -> None:
    for size, length in itertools.product((1, 2, 3, 6), LENGTHS):
        expected = tap_matrix(size, length, align_corners, torch.zeros(1))
        assert torch.equal(taps_of(torch.eye(size)[None], length, align_corners), expected)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"stem": "deep", "stem_widths": (4, 6, 8), "align_corners": False},
        {"depth": 50, "output_stride": 16, "bins": (1, 5)},
        {"pooling": "max", "reduction": False},
        {"bins": ()},
        {"fusion": "sum"},
        {"fusion": "gate", "align_corners": False},
        {"fusion": "attention"},
        {"head": "fcn"},
    ],
    ids=str,
)
@pytest.mark.parametrize("fold", [True, False])
def test_the_same_function(arguments: dict[str, Any], fold: bool) -> None:
    torch.manual_seed(0)
    model = build_pspnet(7, **{"depth": 18, "stem": "plain", "width": 8, **arguments}).eval()
    program = ExportableProgram(fold_batchnorm(model) if fold else model)
    for size in ((2, 3, 65, 97), (1, 3, 33, 20), (1, 3, 18, 18)):
        x = torch.randn(size)
        with torch.no_grad():
            expected = model(x)
            assert float((program(x) - expected).abs().max() / expected.abs().max()) < 3e-6


def test_images_as_in_files_to_labels() -> None:
    torch.manual_seed(0)
    model = build_pspnet(7, depth=18, stem="plain", width=8).eval()
    program = ExportableProgram(model, mean=(120.0, 110.0, 100.0), std=(60.0, 55.0, 50.0), labels=True)
    image = torch.randint(0, 256, (2, 3, 40, 57), dtype=torch.uint8)
    labels = program(image)
    assert labels.dtype == torch.uint8
    shift, scale = torch.tensor([120.0, 110.0, 100.0]).view(3, 1, 1), torch.tensor([60.0, 55.0, 50.0]).view(3, 1, 1)
    with torch.no_grad():
        expected = model((image - shift) / scale).argmax(dim=1)
    assert float((labels != expected).float().mean()) < 1e-3
    assert torch.equal(program(image.float()), labels)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_traced_it_pins_no_device() -> None:
    program = ExportableProgram(build_pspnet(3, depth=18, stem="plain", width=8), mean=(1.0,) * 3, std=(1.0,) * 3)
    traced = torch.jit.trace(program, (torch.zeros(2, 3, 33, 41),), check_trace=False)
    assert "Device = prim::Constant" not in str(traced.inlined_graph)
