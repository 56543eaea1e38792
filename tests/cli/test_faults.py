"""Runs that are told to make way, killed, or run out of disk: what they keep, what they say, where they go on."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from conftest import SMALL, Run
from same_run import assert_same_run, rows

from pspnet_lightning.launch.job import GRACE
from pspnet_lightning.runs.checkpoint import read_checkpoint
from pspnet_lightning.runs.record import read_record

# 3 epochs of 6 steps, each validated in 3 batches.
ARGUMENTS = [
    *SMALL,
    "data.train_length=24",
    "data.val_length=6",
    "data.batch_size=4",
    "data.val_batch_size=2",
    "data.epochs=3",
    "data.crop_size=64",
    "trainer.log_every_n_steps=1",
    "callbacks.pictures=null",
    "callbacks.summary=null",
]


def succeeded(result: object) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def fault(**options: object) -> list[str]:
    return ["+callbacks.fault._target_=faulty.SignalAt", *(f"+callbacks.fault.{k}={v}" for k, v in options.items())]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {}


@pytest.fixture
def expected(command: Run, tmp_path: Path, undisturbed: dict[str, Path]):
    """The same run without a fault, run once for each set of options."""

    def run(*arguments: str) -> Path:
        key = " ".join(arguments)
        if key not in undisturbed:
            folder = tmp_path.parent / f"undisturbed{len(undisturbed)}"
            succeeded(command("train", *ARGUMENTS, *arguments, f"hydra.run.dir={folder}"))
            undisturbed[key] = folder
        return undisturbed[key]

    return run


PLACES = [
    # (where the signal comes, the step at which the run stops, other arguments)
    pytest.param({"where": "batch", "step": 3}, 3, [], marks=pytest.mark.slow),
    ({"where": "batch", "step": 5}, 5, []),  # the epoch's last batch is next
    pytest.param({"where": "batch", "step": 6}, 6, [], marks=pytest.mark.slow),  # before the epoch's validation
    ({"where": "validation", "step": 12, "val_batch": 1}, 12, []),
    pytest.param({"where": "epoch_end", "step": 6}, 6, [], marks=pytest.mark.slow),
    pytest.param({"where": "batch", "step": 18}, 18, [], marks=pytest.mark.slow),
    # Two batches make a step, and a validation in mid-epoch.
    ({"where": "batch", "step": 4}, 4, ["trainer.accumulate_grad_batches=2", "data.batch_size=2"]),
    pytest.param({"where": "batch", "step": 3}, 3, ["trainer.val_check_interval=0.5"], marks=pytest.mark.slow),
    ({"where": "validation", "step": 9, "val_batch": 2}, 9, ["trainer.val_check_interval=0.5"]),
]


@pytest.mark.parametrize(("place", "stopped", "others"), PLACES, ids=lambda value: str(value).replace("'", ""))
def test_a_preempted_run_goes_on_exactly(
    command: Run, expected, tmp_path: Path, place: dict[str, object], stopped: int, others: list[str]
) -> None:
    options = [*ARGUMENTS, *others, "hydra.run.dir=run", "ckpt_path=auto", *fault(name="SIGTERM", **place)]
    done = command("train", *options)
    run = tmp_path / "run"
    assert done.returncode == 75, done.stdout + done.stderr
    assert "SIGTERM" in done.stderr
    assert "Traceback" not in done.stderr
    assert read_record(run)["status"] == "preempted"
    step = read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"]
    assert step == stopped
    said = succeeded(command("train", *options))
    assert f"resuming from {run}" in said
    assert_same_run(expected(*others), run)
    assert read_record(run)["status"] == "finished"
    assert read_record(run)["attempts"] == 2


@pytest.mark.slow
def test_with_averaged_weights_a_validation_is_finished_first(command: Run, expected, tmp_path: Path) -> None:
    averaging = ["callbacks=ema", "callbacks.pictures=null", "callbacks.summary=null"]
    options = [*ARGUMENTS, *averaging, "hydra.run.dir=run", "ckpt_path=auto"]
    options += fault(name="SIGTERM", where="validation", step=6)
    done = command("train", *options)
    assert done.returncode == 75, done.stderr
    run = tmp_path / "run"
    assert [row["step"] for row in rows(run) if "val/miou" in row] == ["5"]
    succeeded(command("train", *options))
    assert_same_run(expected(*averaging), run)


@pytest.mark.parametrize("place", [{"where": "setup", "step": 0}, {"where": "final", "step": 18}], ids=str)
def test_nothing_to_save_where_nothing_is_trained(
    command: Run, expected, tmp_path: Path, place: dict[str, object]
) -> None:
    options = [*ARGUMENTS, "hydra.run.dir=run", "ckpt_path=auto"]
    done = command("train", *options, *fault(name="SIGTERM", **place))
    assert done.returncode == 75, done.stderr
    run = tmp_path / "run"
    assert read_record(run)["status"] == "preempted"
    assert (run / "checkpoints" / "last.ckpt").exists() == (place["where"] == "final")
    succeeded(command("train", *options))
    assert_same_run(expected(), run)
    again = (run / "metrics.csv").read_text()
    succeeded(command("train", *options))  # finished: only validated once more
    assert_same_run(expected(), run)
    assert (run / "metrics.csv").read_text() == again


def test_the_whole_group_is_signalled_and_slurm_requeues(command: Run, expected, tmp_path: Path) -> None:
    """SLURM warns all processes of a step, the loader's workers among them."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    slurm = {
        "SLURM_NTASKS": "1",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "train",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "localhost",
        "PATH": f"{scontrol.parent}:{os.environ['PATH']}",
    }
    options = [*ARGUMENTS, "data.num_workers=2", "hydra.run.dir=run", "ckpt_path=auto"]
    options += fault(name="SIGUSR1", where="batch", step=7, group=True)
    done = command("train", *options, **slurm)
    assert done.returncode == 75, done.stdout + done.stderr
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    assert "SLURM job 4711 is in the queue again" in done.stderr
    assert not list((tmp_path / "run").glob("hpc_ckpt*"))
    succeeded(command("train", *options, **slurm))
    assert_same_run(expected(), tmp_path / "run")
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"


def test_ctrl_c(command: Run, tmp_path: Path) -> None:
    done = command("train", *ARGUMENTS, "hydra.run.dir=run", *fault(name="SIGINT", step=4))
    assert done.returncode == 130
    assert done.stderr.count("error: interrupted; no checkpoint had been written, the same command begins anew") == 1
    assert read_record(tmp_path / "run")["status"] == "interrupted"


def test_torn_files_are_set_aside(command: Run, expected, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = [*ARGUMENTS, "hydra.run.dir=run", "ckpt_path=auto"]
    assert command("train", *options, *fault(name="SIGKILL", step=10)).returncode == -9
    checkpoints = run / "checkpoints"
    content = bytearray((checkpoints / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoints / "last.ckpt").write_bytes(content)
    (checkpoints / ".last.ckpt.123.part").write_bytes(content[:1000])
    (run / ".run.json.part").write_text('{"sta')
    said = succeeded(command("train", *options))
    assert "last.ckpt' is torn (the checksum of its record" in said
    assert f"resuming from {checkpoints / 'best.ckpt'}" in said
    assert (checkpoints / "last.ckpt.torn").read_bytes() == content
    assert not list(run.rglob(".*.part"))
    assert_same_run(expected(), run)

    for name in ("last", "best"):
        (checkpoints / f"{name}.ckpt").write_bytes(b"")
    (run / "metrics.csv").unlink()
    said = succeeded(command("train", *options))  # from the start
    assert said.count("is torn") == 2
    assert_same_run(expected(), run)


def limit(size: int, **options: int) -> list[str]:
    return ["+callbacks.limit._target_=faulty.LimitFileSize", f"+callbacks.limit.size={size}"] + [
        f"+callbacks.limit.{key}={value}" for key, value in options.items()
    ]


def test_a_full_disk_stops_training_and_leaves_the_earlier_checkpoint(command: Run, expected, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = [*ARGUMENTS, "hydra.run.dir=run", "ckpt_path=auto"]
    done = command("train", *options, *limit(1_000_000, begin=8))
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1
    assert "last.ckpt' is not written, the earlier one is intact; make room" in done.stderr
    assert "File too large" in done.stderr
    assert read_record(run)["status"] == "failed"
    assert "File too large" in read_record(run)["error"]
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == 6
    assert read_checkpoint(run / "checkpoints" / "best.ckpt")["global_step"] == 6
    assert not list(run.rglob(".*.part"))
    succeeded(command("train", *options))
    assert_same_run(expected(), run)


def test_a_full_disk_passed_over(command: Run, expected, tmp_path: Path) -> None:
    """The second epoch's checkpoints do not fit, the third's do."""
    run = tmp_path / "run"
    done = command(
        "train",
        *ARGUMENTS,
        "hydra.run.dir=run",
        "checkpoint.on_error=continue",
        *limit(50_000, begin=7, until=13),
    )
    assert done.returncode == 0, done.stderr
    assert "last.ckpt' is not written, the earlier one is intact; training goes on" in done.stderr
    assert_same_run(expected(), run)
    said = command("train", *ARGUMENTS, "checkpoint.on_error=ignore").stderr
    assert "checkpoint.on_error=ignore must be stop or continue" in said
    assert "checkpoint.retries: unknown key" in command("train", *ARGUMENTS, "+checkpoint.retries=2").stderr


# ---------------------------------------------------------------------- several ranks

RANKS = [*ARGUMENTS, "trainer.devices=2", "hydra.run.dir=run"]


def left_over(run: Path) -> list[str]:
    """Processes of the session of the run's first process."""
    session = str(read_record(run)["process"]["pid"])
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if fields[3] == session and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


def test_a_rank_that_is_killed_takes_the_job_down(command: Run, tmp_path: Path) -> None:
    done = command("train", *RANKS, *fault(name="SIGKILL", step=4, rank=1))
    ended = time.time()
    run = tmp_path / "run"
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(r"error: rank 1 \(process \d+\) was killed by SIGKILL", done.stderr)
    assert re.match(r"rank 1 \(process \d+\) was killed by SIGKILL", read_record(run)["error"])
    assert read_record(run)["status"] == "failed"
    assert ended - (run / "metrics.csv").stat().st_mtime < 30
    assert left_over(run) == []


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(3))
def test_of_four_ranks_the_one_that_was_killed_is_named(command: Run, tmp_path: Path, attempt: int) -> None:
    """The others fail too, because of it, and some of them before rank 0 does."""
    done = command("train", *RANKS, "trainer.devices=4", "data.batch_size=8", *fault(name="SIGKILL", step=4, rank=3))
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1
    assert re.search(r"error: rank 3 \(process \d+\) was killed by SIGKILL", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert re.match(r"rank 3 \(process \d+\) was killed by SIGKILL", read_record(tmp_path / "run")["error"])
    assert left_over(tmp_path / "run") == []


@pytest.mark.slow
def test_a_rank_that_raises_takes_the_job_down(command: Run, tmp_path: Path) -> None:
    raising = ["+callbacks.fault._target_=faulty.RaiseAt", "+callbacks.fault.step=4", "+callbacks.fault.rank=1"]
    done = command("train", *RANKS, *raising)
    assert done.returncode == 1
    assert "error: rank 1: RuntimeError('a fault on order in rank 1')" in done.stderr
    assert "a fault on order" in read_record(tmp_path / "run")["error"]
    assert left_over(tmp_path / "run") == []


@pytest.mark.slow
def test_rank_0_is_ended_where_it_does_not_notice(command: Run, tmp_path: Path) -> None:
    hanging = ["+callbacks.hang._target_=faulty.HangAt", "+callbacks.hang.step=4", "+callbacks.hang.file=hangs"]
    done = command("train", *RANKS, *fault(name="SIGKILL", step=4, rank=1), *hanging)
    ended = time.time()
    run = tmp_path / "run"
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1
    assert re.search(r"error: rank 1 \(process \d+\) was killed by SIGKILL", done.stderr)
    # The process ends at once, and yet the record does not stay at "running".
    record = read_record(run)
    assert record["status"] == "failed"
    assert re.fullmatch(r"rank 1 \(process \d+\) was killed by SIGKILL", record["error"])
    assert record["ended"] is not None
    assert GRACE - 1 < ended - (tmp_path / "hangs").stat().st_mtime < 30
    assert left_over(run) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    # Rank 1 alone is signalled; in a validation the ranks compare notes at every eighth batch.
    [{"where": "batch", "step": 4}, {"where": "validation", "step": 6}],
    ids=str,
)
def test_all_ranks_stop_at_the_same_step(
    command: Run, expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: dict[str, object]
) -> None:
    options = [*RANKS, "ckpt_path=auto", "data.val_length=34", "data.val_batch_size=1"]
    options += fault(name="SIGUSR1", rank=1, **place)
    done = command("train", *options)
    assert done.returncode == 75, done.stdout + done.stderr
    run = tmp_path / "run"
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == place["step"]
    assert [row["step"] for row in rows(run) if "val/miou" in row] == []
    assert left_over(run) == []
    succeeded(command("train", *options))
    assert_same_run(expected("trainer.devices=2", "data.val_length=34", "data.val_batch_size=1"), run)
