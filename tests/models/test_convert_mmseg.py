"""Parity with mmsegmentation: logits, auxiliary logits, labels."""

from __future__ import annotations

import named_weights
import numpy as np
import pytest
import torch

from pspnet_lightning.models import PSPNet, from_state_dict
from pspnet_lightning.models.convert.mmseg import MMSeg

EXPECTED = np.load(named_weights.VECTORS / "mmseg_pspnet50_ade20k_expected.npz")


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return named_weights.state_dict("mmseg_pspnet50_ade20k_shapes.json")


def error(answered: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.abs(answered.numpy() - expected).max() / np.abs(expected).max())


def test_logits_and_labels_are_those_of_mmseg(weights: dict[str, torch.Tensor]) -> None:
    model = from_state_dict({"meta": {}, "state_dict": weights}, source="mmseg")
    x = named_weights.image(96, 128)
    with torch.no_grad():
        stage3, stage4 = model.backbone(x)
        low, aux, logits = model.head(stage4), model.aux_head(stage3), model(x)
    assert error(low, EXPECTED["logits_low"]) < 1e-5
    assert error(aux, EXPECTED["aux_logits_low"]) < 1e-5
    top = logits.topk(2, dim=1).values
    tie = (top[:, 0] - top[:, 1]).numpy() < 1e-4
    assert ((logits.argmax(1).numpy() == EXPECTED["labels_up"]) | tie).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"depth": 18, "stem": "plain", "width": 8},
        {"depth": 101, "stem": "deep", "stem_widths": (32, 32, 64), "width": 8, "auxiliary": False},
    ],
    ids=str,
)
def test_architecture_is_read_from_names_and_shapes(arguments: dict[str, object]) -> None:
    original = PSPNet(19, dilation="first_previous", align_corners=False, **arguments).eval()
    stem = {"backbone.stem.0.weight": torch.zeros(1)} if arguments["stem"] == "deep" else {}
    names = MMSeg(stem, None)
    content = {names.their_name(name): value for name, value in original.state_dict().items()}
    assert ("backbone.stem.0.weight" in content) == (arguments["stem"] == "deep")
    model = from_state_dict(content, source="mmseg")
    x = torch.randn(1, 3, 40, 57)
    with torch.no_grad():
        assert torch.equal(model(x), original(x))


def test_every_problem_is_listed_at_once(weights: dict[str, torch.Tensor]) -> None:
    broken = dict(weights)
    del broken["decode_head.bottleneck.bn.weight"]
    broken["decode_head.psp_modules.0.1.conv.weight"] = torch.zeros(3, 3, 1, 1)
    # ResNetV1d's average pooling in the shortcut moves its convolution.
    broken["backbone.layer2.0.downsample.2.weight"] = torch.zeros(512)
    with pytest.raises(ValueError, match="3 differences") as caught:
        from_state_dict(broken, source="mmseg")
    for line in (
        "missing: decode_head.bottleneck.bn.weight",
        "unknown: backbone.layer2.0.downsample.2.weight",
        "shape of decode_head.psp_modules.0.1.conv.weight: (3, 3, 1, 1), expected (512, 2048, 1, 1)",
    ):
        assert line in str(caught.value)
