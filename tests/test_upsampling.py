"""Labels, losses and gradients in parts are those of the full-size logits."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pspnet_lightning.inference import SlidingWindow, sliding_window
from pspnet_lightning.models import PSPNet, build_pspnet, upsampling
from pspnet_lightning.models.upsampling import LowLogits
from pspnet_lightning.training.losses import OHEM, CrossEntropy, segmentation_loss
from pspnet_lightning.training.module import SegmentationModule

SIZES = [((7, 9), (49, 65)), ((5, 4), (33, 26)), ((1, 1), (6, 5)), ((6, 6), (6, 6)), ((9, 8), (5, 4))]


def low_logits(size: tuple[int, int], dtype: torch.dtype, channels_last: bool = True) -> Tensor:
    values = 3 * torch.randn(3, 5, *size, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return values.contiguous(memory_format=torch.channels_last) if channels_last else values


def labels_of(size: tuple[int, int]) -> Tensor:
    target = torch.randint(0, 5, (3, *size), generator=torch.Generator().manual_seed(1))
    target[0, :2] = 255
    return target


@pytest.fixture(params=["bands", "one row", "images", "image by image", "few classes"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every way of cutting, the accelerator's on this machine too, with large and with the smallest parts."""
    parts = upsampling._Bands if request.param in ("bands", "one row") else upsampling._Images
    if request.param == "few classes":
        parts = functools.partial(parts, layout=torch.contiguous_format)
    values = 1 if request.param in ("one row", "image by image") else 500
    monkeypatch.setattr(upsampling, "_cut", lambda logits, softmax=True: parts(logits, values))
    return request.param


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("low", "size"), SIZES)
def test_labels(way: str, low: tuple[int, int], size: tuple[int, int], align_corners: bool) -> None:
    logits = LowLogits(low_logits(low, torch.float64), size, align_corners)
    assert torch.equal(logits.labels(), logits.full().argmax(1))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("options", [{}, {"class_weights": [1.0, 0.5, 2.0, 0.0, 0.3]}, {"label_smoothing": 0.1}])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("low", "size"), SIZES)
def test_loss_and_gradient(
    way: str,
    low: tuple[int, int],
    size: tuple[int, int],
    align_corners: bool,
    options: dict[str, object],
    dtype: torch.dtype,
    tolerance: float,
    channels_last: bool,
) -> None:
    criterion, target = CrossEntropy(**options), labels_of(size)
    values = low_logits(low, dtype, channels_last)
    answers = []
    for full in (True, False):
        leaf = values.clone().requires_grad_()
        logits = LowLogits(leaf, size, align_corners)
        # Scaled, as a second loss and mixed precision do.
        loss = criterion(logits.full() if full else logits, target) * 0.4
        loss.backward()
        answers.append((loss.detach(), leaf.grad))
    (expected, expected_gradient), (loss, gradient) = answers
    assert loss.dtype == dtype
    assert abs(float(loss - expected)) <= tolerance * float(expected)
    assert float((gradient - expected_gradient).norm()) <= tolerance * float(expected_gradient.norm())
    with torch.no_grad():
        logits = LowLogits(values, size, align_corners)
        assert float(criterion(logits, target)) * 0.4 == pytest.approx(float(expected), rel=tolerance)


def test_nothing_valid_gives_zero_not_nan() -> None:
    values = low_logits((4, 4), torch.float32).requires_grad_()
    loss = CrossEntropy()(LowLogits(values, (9, 9), True), torch.full((3, 9, 9), 255))
    loss.backward()
    assert loss.item() == 0
    assert (values.grad == 0).all()


def test_half_precision_is_widened_under_autocast_too() -> None:
    values, target = low_logits((6, 6), torch.float32).bfloat16(), labels_of((41, 41))
    exact = CrossEntropy()(LowLogits(values.double(), (41, 41), True), target)
    leaf = values.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = CrossEntropy()(LowLogits(leaf, (41, 41), True), target)
        labels = LowLogits(leaf, (41, 41), True).labels()
        assert torch.is_autocast_enabled("cpu")
    loss.backward()
    assert loss.dtype == torch.float32
    assert leaf.grad.dtype == torch.bfloat16
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
    assert (labels == LowLogits(values.double(), (41, 41), True).labels()).float().mean() > 0.999


def test_no_full_size_tensor_is_made() -> None:
    values, target = low_logits((60, 60), torch.float32).requires_grad_(), labels_of((473, 473))
    full = 3 * 5 * 473 * 473 * 4
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        CrossEntropy()(LowLogits(values, (473, 473), True), target).backward()
    # What torch allocates without giving it back within the operation: the largest is far below one logit tensor.
    assert max(event.self_cpu_memory_usage for event in profile.events()) < full / 2


def small_model() -> PSPNet:
    torch.manual_seed(0)
    return build_pspnet(5, depth=18, stem="plain", width=8, dropout=0.0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_a_training_step_has_the_gradients_of_the_plain_one(dtype: torch.dtype, tolerance: float) -> None:
    x = torch.randn(3, 3, 49, 65, dtype=dtype, generator=torch.Generator().manual_seed(2))
    target, gradients = labels_of((49, 65)), []
    for upsample in (True, False):
        model = small_model().to(dtype)
        loss = segmentation_loss(model(x, upsample=upsample), target, CrossEntropy(), 0.4)
        loss.total.backward()
        gradients.append([loss.total.detach(), *(parameter.grad for parameter in model.parameters())])
    largest = max(float(value.norm()) for value in gradients[0])
    for expected, answered in zip(*gradients, strict=True):
        # Behind BatchNorm some gradients are sums that cancel.
        assert float((answered - expected).norm()) <= tolerance * max(float(expected.norm()), 1e-3 * largest)


def test_model_answers() -> None:
    model, x = small_model(), torch.randn(2, 3, 33, 41)
    model.eval()
    low = model(x, upsample=False)
    assert isinstance(low, LowLogits)
    assert torch.equal(low.full(), model(x))
    assert torch.equal(low.values, model.low_logits(x))
    output = model.train()(x, upsample=False)
    assert output.aux_logits.full().shape == (2, 5, 33, 41)


@pytest.mark.parametrize("criterion", [CrossEntropy(), OHEM(min_kept=50), torch.nn.CrossEntropyLoss(ignore_index=255)])
def test_module_validates_and_predicts_as_by_full_logits(criterion: torch.nn.Module) -> None:
    module = SegmentationModule(small_model(), criterion, num_classes=5, mean=(0.0,) * 3, std=(50.0,) * 3).eval()
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    group = {"image": pixels, "label": torch.randint(0, 5, (1, 40, 50)), "name": ["a"], "index": torch.tensor([0])}
    with torch.no_grad():
        logits = module(pixels)
        answered = module.validation_step([group], 0)["predictions"][0]
    assert torch.equal(answered, logits.argmax(1))
    assert float(module.val_loss.compute()) == pytest.approx(float(criterion(logits, group["label"])), rel=1e-6)
    assert (module.predict(image) == logits.argmax(1)[0].numpy()).all()


def test_a_prepared_module_answers_the_same() -> None:
    module = SegmentationModule(small_model(), CrossEntropy(), num_classes=5, mean=(0.0,) * 3, std=(50.0,) * 3)
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    protocol = SlidingWindow(49)
    before = [module.predict(image), module.predict(image, protocol), module.predict_probabilities(image, protocol)]
    assert module.prepare_for_inference() is module
    after = [module.predict(image), module.predict(image, protocol), module.predict_probabilities(image, protocol)]
    assert np.abs(after[2] - before[2]).max() < 1e-5
    assert (after[0] == before[0]).mean() > 0.999
    assert (after[1] == before[1]).mean() > 0.999


@pytest.mark.parametrize("flip", [True, False])
def test_windows_over_low_logits_are_those_over_full_ones(flip: bool) -> None:
    network = small_model().eval()
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    options = {"crop_size": (49, 40), "flip": flip, "mean": (0.0,) * 3, "std": (50.0,) * 3, "scales": (0.8, 1.3)}
    low = sliding_window(network, image, **options)
    full = sliding_window(lambda x: network(x), image, **options)
    assert float((low - full).abs().max()) < 1e-5
    assert low.is_contiguous() or low.permute(1, 2, 0).is_contiguous()


def test_ohem_takes_low_logits() -> None:
    values, target = low_logits((6, 6), torch.float64), labels_of((41, 41))
    logits, criterion = LowLogits(values, (41, 41), True), OHEM(min_kept=100)
    assert float(criterion(logits, target)) == pytest.approx(float(criterion(logits.full(), target)), rel=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_answers_low_logits() -> None:
    model, x = small_model().eval(), torch.randn(2, 3, 49, 65)
    compiled = copy.deepcopy(model)
    compiled.compile(fullgraph=True)
    expected, answered = model(x, upsample=False), compiled(x, upsample=False)
    assert isinstance(answered, LowLogits)
    assert answered.size == (49, 65)
    assert F.mse_loss(answered.values, expected.values) < 1e-10
