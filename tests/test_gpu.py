"""What runs on a CUDA device, against the CPU: ``pytest -m gpu`` on a machine with one or two GPUs judges all of it.

Every test runs on the CPU as well, at the same sizes, so that a machine without a GPU keeps them alive. Convolutions in
TF32, torch's default on NVIDIA GPUs, are switched off where numbers are compared.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, Run
from ddp_probe import PATHS
from torch import Tensor, nn

from pspnet_lightning.export.check import check
from pspnet_lightning.export.exportable import ExportableProgram
from pspnet_lightning.export.formats import open_program, write_program
from pspnet_lightning.inference import SlidingWindow
from pspnet_lightning.inference.network import SegmentationNetwork
from pspnet_lightning.models import PSPNet, build_pspnet
from pspnet_lightning.models.pyramid import PyramidHead
from pspnet_lightning.training.losses import OHEM, CrossEntropy, segmentation_loss

GPUS = torch.cuda.device_count()
CUDA = [pytest.mark.gpu, pytest.mark.skipif(GPUS < 1, reason="needs a CUDA device")]
TWO = [pytest.mark.gpu, pytest.mark.skipif(GPUS < 2, reason="needs two CUDA devices")]
DEVICES = [pytest.param("cpu"), pytest.param("cuda", marks=CUDA)]
# Runs of the command line: on a CPU they say what other tests say already.
SLOW_DEVICES = [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=CUDA)]
ACCELERATOR = {"cpu": "cpu", "cuda": "gpu"}


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")  # of the processes that a test starts
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def difference(answer: Tensor, expected: Tensor) -> float:
    answer, expected = answer.detach().double().cpu(), expected.detach().double().cpu()
    return float((answer - expected).norm() / expected.norm().clamp_min(1e-30))


def network(**options: Any) -> PSPNet:
    torch.manual_seed(0)
    return build_pspnet(5, depth=18, stem="plain", width=16, dropout=0.0, **options)


# ------------------------------------------------------------------ a training step


def step(
    model: PSPNet, device: str, loss: nn.Module, *, bf16: bool = False, layout: str = "contiguous"
) -> list[Tensor]:
    """Loss, logits of the heads and every gradient of one step on a batch that is always the same."""
    model = copy.deepcopy(model).to(device).train()
    image, target = values(4, 3, 97, 97), torch.randint(0, 5, (4, 97, 97), generator=torch.Generator().manual_seed(1))
    target[:, :7] = 255
    if layout == "channels_last":
        model, image = model.to(memory_format=torch.channels_last), image.contiguous(memory_format=torch.channels_last)
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        output = model(image.to(device), upsample=False)
        total = segmentation_loss(output, target.to(device), loss, 0.4).total
    total.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(gradients) == sum(1 for _ in model.parameters())
    return [total, output.logits.values, torch.cat([gradient.flatten() for gradient in gradients])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("loss", [CrossEntropy(), OHEM(threshold=0.7, min_kept=3000)], ids=["cross_entropy", "ohem"])
def test_a_training_step_in_float32_is_the_cpus(device: str, layout: str, loss: nn.Module) -> None:
    expected = step(network(), "cpu", loss)
    answered = step(network(), device, loss, layout=layout)
    assert difference(answered[0], expected[0]) < 1e-5
    assert difference(answered[1], expected[1]) < 1e-4
    # The gradient of bin 1 passes through a BatchNorm over four values.
    assert difference(answered[2], expected[2]) < 5e-3


@pytest.mark.parametrize("device", DEVICES)
def test_a_training_step_in_bfloat16_is_near_float32(device: str) -> None:
    expected = step(network(), "cpu", CrossEntropy())
    answered = step(network(), device, CrossEntropy(), bf16=True, layout="channels_last")
    assert difference(answered[0], expected[0]) < 2e-2
    assert difference(answered[1], expected[1]) < 0.1
    assert difference(answered[2], expected[2]) < 0.4
    assert answered[0].dtype == torch.float32


# ------------------------------------------------------------------ the exact head


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", [{}, {"pooling": "max"}, {"align_corners": False}, {"reduction": False}], ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_the_exact_head_is_the_concatenation(
    device: str, options: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    head = PyramidHead([24], 5, head_channels=16, dropout=0.0, **options).eval()
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    found = []
    for execution, where in (("concat", "cpu"), ("concat", device), ("exact", device)):
        own = copy.deepcopy(head).to(where, dtype)
        own.execution = execution
        x = values(2, 24, 13, 19).to(where, dtype).requires_grad_()
        y = own([x])
        y.square().sum().backward()
        gradients = [parameter.grad.flatten() for parameter in own.parameters() if parameter.grad is not None]
        found.append((y, torch.cat([x.grad.flatten(), *gradients])))
    for answer, gradient in found[1:]:
        assert difference(answer, found[0][0]) < tolerance
        assert difference(gradient, found[0][1]) < 10 * tolerance


# ------------------------------------------------------------------ prediction and export


@pytest.fixture(scope="module")
def segmenter() -> SegmentationNetwork:
    module = SegmentationNetwork(network(), mean=(120.0, 115.0, 100.0), std=(58.0, 57.0, 57.0)).eval()
    with torch.no_grad():
        module.model.head.classifier.weight.normal_(0, 2)  # classes far from each other
    return module


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    cells = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    return np.kron(cells, np.ones((32, 32, 1), np.uint8))[:111, :149]


PROTOCOLS = [None, SlidingWindow(65), SlidingWindow(65, 120, (0.75, 1.25))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=["whole", "windows", "scales"])
def test_prediction_on_the_device_is_the_cpus(
    segmenter: SegmentationNetwork, picture: np.ndarray, device: str, protocol: SlidingWindow | None
) -> None:
    own = copy.deepcopy(segmenter).to(device)
    expected = segmenter.predict_probabilities(picture, protocol)
    answered = own.predict_probabilities(picture, protocol)
    assert np.abs(answered - expected).max() < 1e-4
    top = np.sort(expected, axis=0)
    clear = top[-1] - top[-2] > 1e-3
    assert clear.mean() > 0.9
    assert (own.predict(picture, protocol) == expected.argmax(0))[clear].all()


@pytest.mark.parametrize("device", DEVICES)
def test_the_prepared_network_answers_the_same_on_the_device(
    segmenter: SegmentationNetwork, picture: np.ndarray, device: str
) -> None:
    expected = segmenter.predict_probabilities(picture)
    prepared = copy.deepcopy(segmenter).to(device).prepare_for_inference()
    assert np.abs(prepared.predict_probabilities(picture) - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("device", "file_format"),
    [
        pytest.param("cpu", "torchscript"),
        pytest.param("cpu", "torch_export", marks=pytest.mark.slow),
        pytest.param("cpu", "onnx", marks=pytest.mark.slow),
        *(pytest.param("cuda", name, marks=CUDA) for name in ("torchscript", "torch_export", "onnx")),
    ],
)
def test_a_network_on_the_device_is_exported(
    segmenter: SegmentationNetwork, tmp_path: Path, device: str, file_format: str
) -> None:
    """The file runs on a CPU, whatever the network ran on; what was exported stays where it was."""
    mean, std = (segmenter.get_buffer(name).flatten().tolist() for name in ("mean", "std"))
    program = ExportableProgram(copy.deepcopy(segmenter.model).to(device), mean=mean, std=std)
    example = torch.zeros(2, 3, 65, 81, dtype=torch.uint8, device=device)
    write_program(program, example, tmp_path / "file", file_format, {})
    assert next(program.parameters()).device.type == device
    assert program(example).shape == (2, 5, 65, 81)
    comparisons = check(
        open_program(tmp_path / "file", file_format),
        segmenter.model,
        [(1, 49, 70), (3, 65, 33)],
        channels=3,
        image_type=torch.uint8,
        mean=mean,
        std=std,
        normalize=True,
        labels=False,
    )
    assert all(comparison.agrees for comparison in comparisons)


# ------------------------------------------------------------------ runs: compile, ranks, SyncBatchNorm


RUN = [
    *(word for word in SMALL if not word.startswith("trainer.accelerator")),
    "data.train_length=8",
    "data.val_length=5",
    "data.batch_size=4",
    "data.epochs=1",
    "data.crop_size=64",
    "model.dropout=0",
    "+callbacks.probe._target_=ddp_probe.Probe",
]


def trained(command: Run, folder: Path, name: str, device: str, *options: str) -> dict[str, Any]:
    """What rank 0 of a run saw."""
    words = [*RUN, f"trainer.accelerator={ACCELERATOR[device]}", f"+callbacks.probe.dirpath={name}", *options]
    result = command("train", *words, f"hydra.run.dir=run_{name}", timeout=580, **PATHS)
    assert result.returncode == 0, result.stdout + result.stderr
    return torch.load(folder / name / "rank0.pt", map_location="cpu")


def assert_same(one: dict[str, Any], other: dict[str, Any], *, loss: float, gradient: float) -> None:
    assert other["losses"] == pytest.approx(one["losses"], rel=loss)
    for name, value in one["gradients"].items():
        largest = float(value.abs().max())
        assert float((other["gradients"][name] - value).abs().max()) <= gradient * max(largest, 1e-3), name
    total = int(one["confusion"].sum())
    assert int(other["confusion"].sum()) == total
    assert int((other["confusion"] - one["confusion"]).abs().sum()) <= 2e-3 * total


@pytest.mark.parametrize("device", SLOW_DEVICES)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_compiled_run_is_the_plain_one(command: Run, tmp_path: Path, device: str, precision: str) -> None:
    options = [f"trainer.precision={precision}", "trainer.devices=1"]
    plain = trained(command, tmp_path, "plain", device, *options)
    compiled = trained(command, tmp_path, "compiled", device, *options, "compile=true")
    exact = precision == "32-true"
    assert compiled["losses"] == pytest.approx(plain["losses"], rel=1e-4 if exact else 2e-2)
    if exact:
        assert_same(plain, compiled, loss=1e-4, gradient=1e-3)


@pytest.mark.parametrize(
    ("device", "ranks"),
    [
        pytest.param("cpu", 2, marks=pytest.mark.slow),
        pytest.param("cuda", 1, marks=CUDA),
        pytest.param("cuda", 2, marks=TWO),
    ],
)
def test_ranks_train_as_one_process_on_a_cpu(command: Run, tmp_path: Path, device: str, ranks: int) -> None:
    """DDP: NCCL on GPUs, also with a group of one, gloo on CPUs; BatchNorm frozen."""
    one = trained(command, tmp_path, "one", "cpu", "trainer.devices=1")
    several = trained(command, tmp_path, "several", device, f"trainer.devices={ranks}", "trainer.strategy=ddp")
    assert_same(one, several, loss=1e-4, gradient=2e-3)


@pytest.mark.parametrize(
    ("device", "ranks"), [pytest.param("cpu", 1, marks=pytest.mark.slow), pytest.param("cuda", 2, marks=TWO)]
)
@pytest.mark.parametrize("loss", ["cross_entropy", "ohem"])
def test_synchronised_batchnorm_normalises_over_all_ranks(
    command: Run, tmp_path: Path, device: str, ranks: int, loss: str
) -> None:
    options = [f"loss={loss}", "+callbacks.probe.freeze=false"]
    one = trained(command, tmp_path, "one", device, "trainer.devices=1", *options)
    several = trained(command, tmp_path, "several", device, f"trainer.devices={ranks}", *options)
    assert several["losses"] == pytest.approx(one["losses"], rel=1e-3)
    assert int(several["confusion"].sum()) == int(one["confusion"].sum())


# ------------------------------------------------------------------ the benchmark


@pytest.mark.parametrize("device", SLOW_DEVICES)
def test_the_benchmark_measures_on_the_device(command: Run, tmp_path: Path, device: str) -> None:
    sizes = ["depth=18", "classes=5", "size=65", "width=90", "height=80", "rounds=2"]
    if device == "cpu":
        # There each peak is that of a process of its own, ten seconds each: test_benchmark_model.py looks at some.
        sizes.append("memory=false")
    result = command("benchmark", "model", *sizes, f"device={device}", "layouts=[channels_last]", timeout=580)
    assert result.returncode == 0, result.stderr
    (written,) = tmp_path.glob("runs/benchmark/*/*/benchmark_model.json")
    content = json.loads(written.read_text())
    if device == "cuda":
        assert content["machine"]["device"] == torch.cuda.get_device_name()
    for measure, rows in content["measures"].items():
        for row in rows:
            assert 0 < row["quartiles_s"][0] <= row["median_s"] <= row["quartiles_s"][1]
            # At least the weights and the inputs.
            assert device == "cpu" or row["peak_bytes"] > 5e6
            fine = row["precision"] == "float32"
            if measure in ("labels", "sliding"):
                assert row["labels_agree_percent"] >= (99.5 if fine else 70)
            elif measure == "train":
                assert row["loss_relative_difference"] < (1e-3 if fine else 0.1)
            else:
                assert row["logits_relative_difference"] < (1e-3 if fine else 0.4)
