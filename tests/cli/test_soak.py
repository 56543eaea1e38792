"""Runs killed by SIGKILL again and again, and resumed by the same command, end as the undisturbed run does.

``pytest -m slow -s tests/cli/test_soak.py`` prints the figures, of 4 runs on one rank and 2 on two.
``PSPNET_SOAK=20,10 pytest ...`` runs the long form, 20 and 10.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from conftest import SMALL, Run
from same_run import assert_same_run

# 18 steps in 3 epochs, a checkpoint at every second step, at every better score and at every epoch's end.
ARGUMENTS = [
    *SMALL,
    "data.train_length=24",
    "data.val_length=6",
    "data.batch_size=4",
    "data.val_batch_size=2",
    "data.epochs=3",
    "data.crop_size=64",
    "trainer.log_every_n_steps=1",
    "callbacks=every_steps",
    "callbacks.steps.every_n_train_steps=2",
    "callbacks.pictures=null",
    "callbacks.summary=null",
    "ckpt_path=auto",
]


# How many runs on one rank, and on two.
RUNS = [int(number) for number in os.environ.get("PSPNET_SOAK", "4,2").split(",")]
# Of each run, at least and at most; of ranks, which take seconds to start, fewer in the short form.
KILLS = {1: (3, 6), 2: (3, 6) if "PSPNET_SOAK" in os.environ else (2, 3)}


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "ranks"), list(zip(RUNS, (1, 2), strict=True)), ids=["one rank", "two ranks"])
def test_killed_at_random_and_resumed(command: Run, tmp_path: Path, runs: int, ranks: int) -> None:
    options = [*ARGUMENTS, f"trainer.devices={ranks}"]
    began = time.monotonic()
    assert command("train", *options, "hydra.run.dir=undisturbed").returncode == 0
    again = time.monotonic()  # the first also waited for the command server's imports
    assert command("train", *options, "hydra.run.dir=again").returncode == 0
    takes = time.monotonic() - again
    assert_same_run(tmp_path / "undisturbed", tmp_path / "again")
    kills, writing = [], 0
    for number in range(runs):
        chance = random.Random(f"{ranks} ranks, run {number}")
        folder = tmp_path / f"run{number}"
        attempts = [plan(chance, folder, takes, ranks) for _ in range(chance.randint(*KILLS[ranks]))]
        killed = 0
        while True:
            kill = attempts.pop() if attempts else None
            before = set(folder.glob("checkpoints/.*.part"))
            done = command("train", *options, f"hydra.run.dir={folder}", kill=kill)
            if done.returncode == 0:
                break
            # Rank 1's death ends the others with an error.
            assert kill is not None, done.stderr
            assert done.returncode == (1 if kill["who"] == "rank 1" else -9), done.stderr
            killed += 1
            writing += bool(set(folder.glob("checkpoints/.*.part")) - before)
        assert_same_run(tmp_path / "undisturbed", folder)
        assert not list(folder.rglob(".*.part"))
        assert not list(folder.rglob("*.torn*"))
        kills.append(killed)
    assert sum(kills) >= runs
    assert writing >= runs // 4
    print(
        f"\n{runs} runs of {ranks} rank{'s' * (ranks > 1)}: all as the undisturbed one; {sum(kills)} kills "
        f"({min(kills)} to {max(kills)} a run), {writing} of them while a checkpoint was being written; "
        f"{time.monotonic() - began:.0f} s, undisturbed {takes:.1f} s"
    )


def plan(chance: random.Random, folder: Path, takes: float, ranks: int) -> dict[str, object]:
    """Half of them at any moment, half while a checkpoint is being written."""
    who = chance.choice(["group", "main"] if ranks == 1 else ["group", "main", "rank 1"])
    if chance.random() < 0.5:
        return {"who": who, "after": chance.uniform(0.2, 0.8) * takes}
    # Rank 1 writes nothing: its death leaves rank 0 time to finish the file.
    who = chance.choice(["group", "main"])
    return {"who": who, "folder": str(folder / "checkpoints"), "count": chance.randint(1, 3)}
