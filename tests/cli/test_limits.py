"""Runs that a limit ends before there is a score are stopped, not failed, and go on exactly where they were."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import SMALL, Run
from same_run import assert_same_run, rows

from pspnet_lightning.runs import read_job
from pspnet_lightning.runs.checkpoint import read_checkpoint
from pspnet_lightning.runs.record import read_record

# 2 epochs of 6 steps.
ARGUMENTS = [
    *SMALL,
    "data.train_length=24",
    "data.val_length=4",
    "data.batch_size=4",
    "data.epochs=2",
    "data.crop_size=64",
    "data.check=0",
    "trainer.log_every_n_steps=1",
    # Of no length: a schedule would end at max_steps.
    "scheduler=constant",
    "callbacks.pictures=null",
    "callbacks.summary=null",
]


def succeeded(result: object) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.mark.parametrize(
    ("limit", "step"),
    [
        (["trainer.max_steps=4"], 4),
        pytest.param(["trainer.max_steps=8", "trainer.check_val_every_n_epoch=2"], 8, marks=pytest.mark.slow),
        # Time is up after the third step, whatever the machine's speed.
        pytest.param(
            [
                "+callbacks.time._target_=faulty.TimeIsUpAt",
                "+callbacks.time.step=3",
                "trainer.check_val_every_n_epoch=2",
            ],
            3,
            marks=pytest.mark.slow,
        ),
        pytest.param(["trainer.max_steps=4", "callbacks.last=null"], 4, marks=pytest.mark.slow),
        pytest.param(["trainer.max_steps=4", "trainer.devices=2"], 4, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_stopped_before_the_first_validation(command: Run, tmp_path: Path, limit: list[str], step: int) -> None:
    run = tmp_path / "run"
    said = succeeded(command("train", *ARGUMENTS, *limit, "hydra.run.dir=run"))
    name = "trainer.max_steps" if "max_steps" in limit[0] else "trainer.max_time"
    assert f"stopped by {name}" in said
    assert (
        f"at step {step}, before the first validation: no score yet; kept in run/checkpoints; the same command " in said
    )
    assert "with hydra.run.dir=run ckpt_path=auto goes on from there" in said
    record = read_record(run)
    assert (record["status"], record["error"], record["objective"]["value"]) == ("stopped", None, None)
    assert not read_job(run).finished
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == step

    others = [word for word in limit if "check_val" in word or "devices" in word]
    said = succeeded(command("train", *ARGUMENTS, *others, "hydra.run.dir=run", "ckpt_path=auto"))
    assert "resuming from" in said
    assert read_record(run)["status"] == "finished"
    succeeded(command("train", *ARGUMENTS, *others, "hydra.run.dir=whole"))
    if "callbacks.last=null" in limit:
        assert rows(run) == rows(tmp_path / "whole")
    else:
        assert_same_run(run, tmp_path / "whole")


@pytest.mark.slow
def test_the_clock(command: Run, tmp_path: Path) -> None:
    """Lightning's own timer: used up, and again on resuming, as it counts all attempts."""
    limited = ["+trainer.max_time=00:00:00:00", "trainer.limit_val_batches=0", "hydra.run.dir=run", "ckpt_path=auto"]
    for _ in range(2):
        said = succeeded(command("train", *ARGUMENTS, *limited))
        assert "stopped by trainer.max_time" in said
        assert read_record(tmp_path / "run")["status"] == "stopped"


@pytest.mark.slow
def test_after_a_validation_it_has_its_score(command: Run, tmp_path: Path) -> None:
    said = succeeded(command("train", *ARGUMENTS, "trainer.max_steps=8", "hydra.run.dir=run"))
    assert "stopped by" not in said
    assert read_record(tmp_path / "run")["status"] == "finished"
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 8
    # And what was cut short can still be continued as the whole run would have been.
    succeeded(command("train", *ARGUMENTS, "hydra.run.dir=run", "ckpt_path=auto"))
    succeeded(command("train", *ARGUMENTS, "hydra.run.dir=whole"))
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_sweep_goes_on(command: Run, tmp_path: Path) -> None:
    done = command("train", "-m", "trainer.max_steps=4,6", "hydra.sweep.dir=sweep", *ARGUMENTS)
    assert done.returncode == 1
    assert "job 0 stopped: trainer.max_steps=4" in done.stderr
    assert read_job(tmp_path / "sweep" / "1").finished
