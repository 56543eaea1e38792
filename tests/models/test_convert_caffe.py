"""Parity with the Caffe networks of the paper, and the bytes of their files."""

from __future__ import annotations

import struct

import named_weights
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pspnet_lightning.models import PSPNet, build_pspnet, from_state_dict
from pspnet_lightning.models.convert import convert, read_caffemodel
from pspnet_lightning.models.convert.caffe import Caffe

EXPECTED = np.load(named_weights.VECTORS / "caffe_pspnet50_ade20k_expected.npz")


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return named_weights.state_dict("caffe_pspnet50_ade20k_shapes.json")


def test_logits_and_labels_are_those_of_caffe(weights: dict[str, torch.Tensor]) -> None:
    found = convert(weights, source="caffe")
    assert (found.mean, found.std) == ((123.68, 116.779, 103.939), (1.0, 1.0, 1.0))
    # The vector's blob is B, G, R; this project's networks take R, G, B.
    x = named_weights.image(473, 473, batch=1).flip(1)
    with torch.no_grad():
        low = found.model.low_logits(x)
        logits = F.interpolate(low, (473, 473), mode="bilinear", align_corners=True)
    answered = low[:, :, ::2, ::2].numpy()
    assert np.abs(answered - EXPECTED["logits_low"]).max() / np.abs(EXPECTED["logits_low"]).max() < 1e-5
    top = logits.topk(2, dim=1).values
    tie = (top[:, 0] - top[:, 1]).numpy() < 1e-4
    assert ((logits.argmax(1).numpy() == EXPECTED["labels_up"]) | tie).all()


def small() -> tuple[PSPNet, dict[str, torch.Tensor]]:
    """A PSPNet-101 of an eighth of the width under Caffe's names, with bins 1, 2 and 4."""
    torch.manual_seed(0)
    model = build_pspnet(
        5, depth=101, stem_widths=(8, 8, 16), width=8, bins=(1, 2, 4), stride_on="1x1", auxiliary=False
    )
    branches = {f"conv5_3_pool{size}_conv.blobs.0": torch.zeros(1) for size in (1, 2, 4)}
    names = Caffe(branches, None)
    content = {names.their_name(name): value for name, value in model.state_dict().items()}
    content.pop(None)  # the BatchNorms' counters
    content["conv1_1_3x3_s2.blobs.0"] = content["conv1_1_3x3_s2.blobs.0"].flip(1)
    features, *levels = content["conv5_4.blobs.0"].split([256, 85, 85, 85], dim=1)
    content["conv5_4.blobs.0"] = torch.cat([features, *reversed(levels)], dim=1)
    return model.eval(), content


def test_channels_and_bins_are_put_in_order() -> None:
    model, content = small()
    assert "conv4_23_1x1_increase/bn.slope" in content
    converted = from_state_dict(content, source="caffe")
    assert converted.head.pyramid.bins == (1, 2, 4)
    x = torch.randn(1, 3, 49, 65)
    with torch.no_grad():
        assert torch.equal(converted(x), model(x))


def test_every_problem_is_listed_at_once() -> None:
    _, content = small()
    del content["conv3_2_3x3/bn.running_var"]
    content["conv6_aux.blobs.0"] = torch.zeros(2)
    content["conv6.blobs.1"] = torch.zeros(2)
    with pytest.raises(ValueError, match="3 differences") as caught:
        from_state_dict(content, source="caffe")
    for line in (
        "missing: conv3_2_3x3/bn.running_var",
        "unknown: conv6_aux.blobs.0",
        "shape of conv6.blobs.1: (2,), expected (5,)",
    ):
        assert line in str(caught.value)
    with pytest.raises(ValueError, match=r"bins=\(1, 2, 3, 6\): the state dict has pyramid branches .* \(1, 2, 4\)"):
        from_state_dict(content, source="caffe", bins=(1, 2, 3, 6))


def varint(value: int) -> bytes:
    digits = []
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def field(number: int, content: bytes) -> bytes:
    """A field of the protocol buffer's wire format that has a length: message, string, packed numbers."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(values: np.ndarray, *, legacy: bool = False) -> bytes:
    data = field(5, struct.pack(f"<{values.size}f", *values.ravel()))
    if legacy:
        four = [1] * (4 - values.ndim) + list(values.shape)
        return b"".join(varint(number << 3) + varint(size) for number, size in enumerate(four, start=1)) + data
    return data + field(7, field(1, b"".join(varint(size) for size in values.shape)))


def layer(name: str, kind: str, *blobs: bytes) -> bytes:
    other = field(3, b"data") + varint(10 << 3) + varint(1)  # bottom and phase, which do not matter here
    return field(100, field(1, name.encode()) + field(2, kind.encode()) + other + b"".join(field(7, b) for b in blobs))


def test_the_bytes_of_a_caffemodel() -> None:
    kernel = np.random.default_rng(0).normal(size=(200, 3, 2, 2)).astype(np.float32)
    norm = [np.full((1, 200, 1, 1), value, np.float32) for value in range(4)]
    content = field(1, b"net") + layer("data", "Input")
    content += layer("conv", "Convolution", blob(kernel)) + layer("conv/bn", "BN", *map(blob, norm))
    content += layer("last", "Convolution", blob(kernel, legacy=True), blob(np.ones(200, np.float32), legacy=True))
    tensors = read_caffemodel(content)
    assert list(tensors) == [
        "conv.blobs.0",
        *(f"conv/bn.{name}" for name in ("slope", "bias", "running_mean", "running_var")),
        "last.blobs.0",
        "last.blobs.1",
    ]
    assert np.array_equal(tensors["conv.blobs.0"].numpy(), kernel)
    assert np.array_equal(tensors["last.blobs.0"].numpy(), kernel)
    assert tensors["last.blobs.1"].shape == (200,)
    assert torch.equal(tensors["conv/bn.running_var"], torch.full((200,), 3.0))
    for wrong, message in (
        (content[:-9], "is no .caffemodel, or it is torn"),
        (layer("a", "Convolution", blob(kernel) + field(7, field(1, b"\x07"))), "bytes of weights for the shape"),
        (field(1, b"net"), "holds no weights"),
    ):
        with pytest.raises(ValueError, match=message):
            read_caffemodel(wrong)
