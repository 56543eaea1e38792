"""Parity with mmsegmentation: logits, auxiliary logits, labels."""

from __future__ import annotations

import named_weights
import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY
from torch.nn.functional import adaptive_avg_pool2d, batch_norm, conv2d, interpolate, max_pool2d, relu

from pspnet_lightning.models import build_pspnet, from_state_dict
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
        features = model.backbone(x)
        low, aux, logits = model.head(features), model.aux_head(features), model(x)
    assert error(low, EXPECTED["logits_low"]) < 1e-5
    assert error(aux, EXPECTED["aux_logits_low"]) < 1e-5
    top = logits.topk(2, dim=1).values
    tie = (top[:, 0] - top[:, 1]).numpy() < 1e-4
    assert ((logits.argmax(1).numpy() == EXPECTED["labels_up"]) | tie).all()


class Reference:
    """mmsegmentation's d8 PSPNet said again over its state dict, from its source (open-mmlab/mmsegmentation 1.2.2:
    models/backbones/resnet.py, models/utils/res_layer.py, decode_heads/psp_head.py, fcn_head.py, configs/pspnet).

    Weights that ``tensors`` lacks are drawn from their names, so that a call also tells names and shapes.
    """

    def __init__(self, depth: int, deep: bool, classes: int, tensors: dict[str, torch.Tensor] | None = None) -> None:
        self.blocks = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth]
        self.basic = depth < 50
        self.deep, self.classes = deep, classes
        self.tensors = {} if tensors is None else tensors

    def weight(self, name: str, *shape: int) -> torch.Tensor:
        if name not in self.tensors:
            self.tensors[name] = named_weights.tensor(name, shape)
        assert self.tensors[name].shape == shape
        return self.tensors[name]

    def conv(self, x: torch.Tensor, name: str, out: int, size: int, stride: int = 1, dilation: int = 1) -> torch.Tensor:
        weight = self.weight(f"{name}.weight", out, x.shape[1], size, size)
        return conv2d(x, weight, stride=stride, padding=size // 2 * dilation, dilation=dilation)

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        self.tensors.setdefault(f"{name}.num_batches_tracked", torch.zeros((), dtype=torch.long))
        tensors = (
            self.weight(f"{name}.{part}", x.shape[1]) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return batch_norm(x, *tensors, eps=1e-5)

    def block(self, x: torch.Tensor, name: str, planes: int, stride: int, dilation: int) -> torch.Tensor:
        outputs = planes if self.basic else planes * 4
        shortcut = x
        if stride != 1 or x.shape[1] != outputs:
            shortcut = self.norm(self.conv(x, f"{name}.downsample.0", outputs, 1, stride), f"{name}.downsample.1")
        if self.basic:
            x = relu(self.norm(self.conv(x, f"{name}.conv1", planes, 3, stride, dilation), f"{name}.bn1"))
            x = self.norm(self.conv(x, f"{name}.conv2", planes, 3), f"{name}.bn2")
        else:
            x = relu(self.norm(self.conv(x, f"{name}.conv1", planes, 1), f"{name}.bn1"))
            x = relu(self.norm(self.conv(x, f"{name}.conv2", planes, 3, stride, dilation), f"{name}.bn2"))
            x = self.norm(self.conv(x, f"{name}.conv3", outputs, 1), f"{name}.bn3")
        return relu(x + shortcut)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The decode head's and the auxiliary head's logits at output stride 8."""
        if self.deep:
            for place, (out, stride) in zip((0, 3, 6), ((32, 2), (32, 1), (64, 1)), strict=True):
                name = "backbone.stem."
                x = relu(self.norm(self.conv(x, f"{name}{place}", out, 3, stride), f"{name}{place + 1}"))
        else:
            x = relu(self.norm(self.conv(x, "backbone.conv1", 64, 7, 2), "backbone.bn1"))
        x = max_pool2d(x, 3, 2, 1)
        stages = []
        for stage, (stride, dilation) in enumerate(((1, 1), (2, 1), (1, 2), (1, 4))):
            for number in range(self.blocks[stage]):
                # contract_dilation=True: the first block at half the rate.
                first = number == 0
                rate = dilation // 2 if first and dilation > 1 else dilation
                name = f"backbone.layer{stage + 1}.{number}"
                x = self.block(x, name, 64 * 2**stage, stride if first else 1, rate)
            stages.append(x)
        channels = x.shape[1] // 4
        levels = [x]
        for place, size in enumerate((1, 2, 3, 6)):
            name = f"decode_head.psp_modules.{place}.1"
            level = relu(self.norm(self.conv(adaptive_avg_pool2d(x, size), f"{name}.conv", channels, 1), f"{name}.bn"))
            levels.append(interpolate(level, x.shape[2:], mode="bilinear", align_corners=False))
        name = "decode_head.bottleneck"
        y = relu(self.norm(self.conv(torch.cat(levels, 1), f"{name}.conv", channels, 3), f"{name}.bn"))
        name = "auxiliary_head.convs.0"
        aux = relu(self.norm(self.conv(stages[2], f"{name}.conv", channels // 2, 3), f"{name}.bn"))
        return self.logits(y, "decode_head.conv_seg"), self.logits(aux, "auxiliary_head.conv_seg")

    def logits(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return self.conv(x, name, self.classes, 1) + self.weight(f"{name}.bias", self.classes)[:, None, None]


def test_the_reference_is_mmseg(weights: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        low, aux = Reference(50, True, 150, dict(weights))(named_weights.image(96, 128))
    assert error(low, EXPECTED["logits_low"]) < 1e-6
    assert error(aux, EXPECTED["aux_logits_low"]) < 1e-6


@pytest.mark.parametrize(
    ("depth", "deep"), [(18, True), (18, False), (34, True), (50, False)], ids=["r18", "r18b", "r34", "r50b"]
)
def test_every_depth_answers_as_mmsegs(depth: int, deep: bool) -> None:
    reference = Reference(depth, deep, 19)
    x = named_weights.image(89, 121, batch=1)
    with torch.no_grad():
        expected = reference(x)
        model = from_state_dict({"state_dict": reference.tensors}, source="mmseg")
        features = model.backbone(x)
        answered = model.head(features), model.aux_head(features)
    for name, ours, theirs in zip(("logits", "auxiliary"), answered, expected, strict=True):
        assert error(ours, theirs.numpy()) < 1e-6, name


@pytest.mark.parametrize("depth", [18, 34])
def test_the_config_is_the_converted_network(depth: int) -> None:
    reference = Reference(depth, True, 19)
    with torch.no_grad():
        reference(named_weights.image(65, 65, batch=1))
    converted = from_state_dict({"state_dict": reference.tensors}, source="mmseg")
    options = yaml.safe_load((REPOSITORY / "conf" / "model" / "pspnet18_mmseg.yaml").read_text())
    configured = build_pspnet(
        19, **{key: value for key, value in options.items() if key != "defaults"} | {"depth": depth}
    )
    configured.load_state_dict(converted.state_dict())
    x = named_weights.image(65, 97, batch=1)
    with torch.no_grad():
        assert torch.equal(configured.eval()(x), converted(x))


@pytest.mark.parametrize(
    "arguments",
    [
        {"depth": 18, "stem": "plain", "width": 8},
        {"depth": 101, "stem": "deep", "stem_widths": (32, 32, 64), "width": 8, "auxiliary": False},
    ],
    ids=str,
)
def test_architecture_is_read_from_names_and_shapes(arguments: dict[str, object]) -> None:
    original = build_pspnet(19, dilation="first_previous", align_corners=False, **arguments).eval()
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
