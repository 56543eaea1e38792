"""The moving average of the weights: its formula, and a run that goes on exactly where it was stopped."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import Run, list_arguments
from same_run import assert_same_run
from torch import nn

from pspnet_lightning.runs.checkpoint import read_checkpoint
from pspnet_lightning.training import ExponentialMovingAverage


class Updates:
    """As much of a trainer as the callback asks."""

    global_step = 0


def averaged(callback: ExponentialMovingAverage, weights: list[float]) -> tuple[list[float], torch.Tensor]:
    """The average after each step on which the weight is one of ``weights``, and the buffer that never changes."""
    module, trainer, averages = L.LightningModule(), Updates(), []
    module.weight = nn.Parameter(torch.zeros(1))
    module.register_buffer("std", torch.tensor([58.395, 57.12, 57.375]), persistent=False)
    callback.setup(trainer, module, "fit")
    for weight in weights:
        module.weight.data.fill_(weight)
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, module, None, None, 0)
        averages.append(callback._average_model.module.weight.item())
    return averages, callback._average_model.module.std


def test_formula() -> None:
    averages, _ = averaged(ExponentialMovingAverage(0.9), [1, 2, 2, 0])
    assert averages == pytest.approx([1, 1.1, 1.19, 1.071], abs=1e-6)
    averages, _ = averaged(ExponentialMovingAverage(0.9, every_n_steps=2, first_step=1), [1, 1, 1, 2, 2])
    assert averages[2:] == pytest.approx([1, 1, 1.1], abs=1e-6)


def test_before_the_first_step_the_average_is_the_weights() -> None:
    averages, _ = averaged(ExponentialMovingAverage(0.9, first_step=2), [5, 7, 3, 4, 4])
    assert averages == pytest.approx([5, 7, 3, 3.1, 3.19], abs=1e-6)
    averages, _ = averaged(ExponentialMovingAverage(0.9, every_n_steps=3, first_step=1), [5, 7, 3, 4, 4])
    assert averages == pytest.approx([5, 7, 7, 6.7, 6.7], abs=1e-6)


def test_what_never_changes_is_not_rounded_away() -> None:
    _, std = averaged(ExponentialMovingAverage(0.999), [1.0] * 200)
    assert std.tolist() == torch.tensor([58.395, 57.12, 57.375]).tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"decay": 1.5}, "decay=1.5 must"), ({"every_n_steps": 0}, "n_steps=0"), ({"first_step": -1}, "step=-1")],
)
def test_arguments(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExponentialMovingAverage(**options)


def test_stopped_in_mid_epoch_it_goes_on_exactly(command: Run, small_list: Path, tmp_path: Path) -> None:
    options = [
        *(word for word in list_arguments(small_list) if not word.startswith("data.epochs")),
        "data.epochs=4",
        "callbacks=ema",
        "callbacks.ema.decay=0.99",
        "callbacks.pictures=null",
        "callbacks.summary=null",
        "trainer.log_every_n_steps=1",
    ]
    assert command("train", *options, "hydra.run.dir=undisturbed").returncode == 0
    options += ["hydra.run.dir=run", "ckpt_path=auto"]
    stop = ["+callbacks.fault._target_=faulty.SignalAt", "+callbacks.fault.name=SIGTERM", "+callbacks.fault.step=5"]
    assert command("train", *options, *stop).returncode == 75
    content = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert content["global_step"] == 5
    assert not torch.equal(*(content[key]["model.head.conv.weight"] for key in ("state_dict", "current_model_state")))
    assert command("train", *options).returncode == 0
    assert_same_run(tmp_path / "undisturbed", tmp_path / "run")
