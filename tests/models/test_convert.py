"""Parity with hszhao/semseg, and the strictness of the door that its weights come through."""

from __future__ import annotations

import named_weights
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pspnet_lightning.models import PSPNet, build_pspnet, from_state_dict
from pspnet_lightning.models.convert.semseg import SemSeg

SEMSEG = SemSeg({}, None)
EXPECTED = np.load(named_weights.VECTORS / "semseg_pspnet50_expected.npz")


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return named_weights.state_dict("semseg_pspnet50_shapes.json")


def semseg_like(model: PSPNet) -> dict[str, torch.Tensor]:
    """A model's weights under the official names."""
    return {SEMSEG.their_name(name): value for name, value in model.state_dict().items()}


@pytest.mark.parametrize("execution", ["exact", "concat"])
def test_logits_and_labels_are_the_official_ones(weights: dict[str, torch.Tensor], execution: str) -> None:
    model = from_state_dict(weights)
    model.head.execution = execution
    x = named_weights.image(97, 121)
    with torch.no_grad():
        low, logits = model.low_logits(x).numpy(), model(x)
    for answered, expected in (
        (low, EXPECTED["logits_low"]),
        (logits[..., :16, :16].numpy(), EXPECTED["logits_up_crop"]),
    ):
        assert np.abs(answered - expected).max() / np.abs(expected).max() < 1e-4
    top = logits.topk(2, dim=1).values
    tie = (top[:, 0] - top[:, 1]).numpy() < 1e-4
    assert ((logits.argmax(1).numpy() == EXPECTED["labels_up"]) | tie).all()


def trained_one_step(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> tuple[PSPNet, torch.Tensor, torch.Tensor]:
    model = from_state_dict(weights).to(dtype).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
    target = named_weights.label(97, 121, 21)
    output = model(named_weights.image(97, 121).to(dtype))
    main, aux = (F.cross_entropy(logits, target, ignore_index=255) for logits in output)
    (main + 0.4 * aux).backward()
    return model, main, aux


def norm_errors(model: PSPNet) -> dict[str, float]:
    norms = {SEMSEG.their_name(name): float(parameter.grad.norm()) for name, parameter in model.named_parameters()}
    names, expected = EXPECTED["grad_names"].tolist(), EXPECTED["grad_norms"].tolist()
    return {name: abs(norms[name] / value - 1) for name, value in zip(names, expected, strict=True)}


# Everything before the head's first BatchNorm gets part of its gradient through bin 1, whose BatchNorm normalises
# over two values (two images): +-d / sqrt(d^2 + eps) answers to rounding in d many times over.
BEHIND_TWO_VALUES = ("layer", "ppm.features.0")


def test_training_step_is_the_official_one(weights: dict[str, torch.Tensor]) -> None:
    model, main, aux = trained_one_step(weights, torch.float32)
    assert float(main) == pytest.approx(float(EXPECTED["main_loss"]), rel=1e-3)
    assert float(aux) == pytest.approx(float(EXPECTED["aux_loss"]), rel=1e-3)
    for name, error in norm_errors(model).items():
        if not name.startswith(BEHIND_TWO_VALUES):
            assert error < 1e-3, name
    torch.testing.assert_close(
        model.head.bn.running_mean, torch.from_numpy(EXPECTED["running_mean_cls"]), rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(
        model.head.pyramid.branches[0][1].running_var,
        torch.from_numpy(EXPECTED["running_var_ppm0"]),
        rtol=1e-3,
        atol=1e-4,
    )


def test_gradients_behind_the_two_value_norm_agree_as_far_as_float32_carries(
    weights: dict[str, torch.Tensor],
) -> None:
    # In float64 ours has no rounding to speak of; what is left is that of the float32 reference itself.
    model, main, _ = trained_one_step(weights, torch.float64)
    assert float(main) == pytest.approx(float(EXPECTED["main_loss"]), rel=1e-6)
    assert max(norm_errors(model).values()) < 2e-3


@pytest.mark.parametrize(
    ("depth", "bins", "classes", "auxiliary"),
    [
        (101, (1, 3, 5, 7), 19, True),
        (152, (2, 6), 150, True),
        (50, (), 2, False),
        (269, (1, 2, 3, 6), 7, True),
    ],
)
def test_architecture_is_read_from_names_and_shapes(
    depth: int, bins: tuple[int, ...], classes: int, auxiliary: bool
) -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        original = build_pspnet(classes, depth=depth, bins=bins, auxiliary=auxiliary)
    content = {key: torch.empty(value.shape, dtype=value.dtype) for key, value in semseg_like(original).items()}
    model = from_state_dict({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in content.items()}}, bins=bins)
    assert model.backbone.depth == depth
    assert model.num_classes == classes
    assert (model.aux_head is not None) == auxiliary
    assert model.head.pyramid.bins == bins
    assert not model.training


def test_every_problem_is_listed_at_once(weights: dict[str, torch.Tensor]) -> None:
    broken = dict(weights)
    del broken["layer3.2.conv2.weight"]
    del broken["cls.1.running_var"]
    broken["fc.weight"] = torch.zeros(1000, 2048)
    broken["layer2.0.bn1.bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match="4 differences") as caught:
        from_state_dict(broken)
    for line in (
        "missing: layer3.2.conv2.weight",
        "missing: cls.1.running_var",
        "unknown: fc.weight",
        "shape of layer2.0.bn1.bias: (3,), expected (128,)",
    ):
        assert line in str(caught.value)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({}, {}, "mapping of names to tensors"),
        ({"a": 3}, {}, "no tensors: a"),
        ({"conv.weight": torch.zeros(1)}, {"bins": ()}, "none of the known depths"),
        (
            {"conv.weight": torch.zeros(1)},
            {},
            r"bins=\(1, 2, 3, 6\) has 4 sizes, but the state dict has 0 .*begin with conv.weight",
        ),
        (
            {"conv.weight": torch.zeros(1)},
            {"source": "semsegg"},
            "source='semsegg' must be one of 'semseg', 'mmseg', 'caffe'",
        ),
    ],
)
def test_what_is_no_pspnet(content: dict[str, object], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_state_dict(content, **options)
