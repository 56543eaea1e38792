"""Several ranks: the same training and the same scores as one process, however the ranks are started."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, SMALL, Run, list_arguments
from ddp_probe import PATHS, left_over, processes_with

from pspnet_lightning.runs.checkpoint import read_checkpoint

# Two steps of four images, five images to validate on: an odd number, so that the ranks' shares differ.
SCENES = [
    *SMALL,
    "data.train_length=8",
    "data.val_length=5",
    "data.batch_size=4",
    "data.val_batch_size=2",
    "data.epochs=1",
    "data.crop_size=64",
    "data.check=0",
    "callbacks.summary=null",
    "callbacks.pictures=null",
]
PROBE = ["model.dropout=0", "+callbacks.probe._target_=ddp_probe.Probe"]


def probed(result: subprocess.CompletedProcess[str], folder: Path, ranks: int) -> list[dict]:
    assert result.returncode == 0, result.stdout + result.stderr
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(ranks)]


def start(folder: Path, words: Sequence[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **PATHS, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    output, _ = process.communicate(timeout=280)
    assert process.returncode == code, output
    return output


def same_training(one: dict, ranks: list[dict]) -> None:
    """What one process and several must agree on, with BatchNorm frozen and no dropout."""
    assert len({rank["pid"] for rank in ranks}) == len(ranks)
    for step, names in enumerate(one["train"]):
        assert sorted(name for rank in ranks for name in rank["train"][step]) == sorted(names)
    assert sorted(name for rank in ranks for name in rank["val"]) == sorted(one["val"])
    largest = max(float(value.abs().max()) for value in one["gradients"].values())
    for rank in ranks:
        assert rank["losses"] == pytest.approx(one["losses"], rel=1e-6)
        for name, value in one["gradients"].items():
            assert float((rank["gradients"][name] - value).abs().max()) <= 1e-5 * max(1.0, largest), name
        assert torch.equal(rank["confusion"], one["confusion"])
        assert rank["val_loss"] == pytest.approx(one["val_loss"], rel=1e-6)


def test_two_ranks_train_and_validate_as_one_process(command: Run, tmp_path: Path) -> None:
    loss = ["loss=ohem", "loss.threshold=0.1", "loss.min_kept=3000", "loss.class_weights=median_frequency"]
    runs = []
    for devices in (1, 2):
        options = [f"trainer.devices={devices}", f"hydra.run.dir=run{devices}", f"+callbacks.probe.dirpath=p{devices}"]
        result = command("train", *SCENES, *PROBE, *loss, *options, **PATHS)
        runs.append(probed(result, tmp_path / f"p{devices}", devices))
    same_training(runs[0][0], runs[1])
    for rank in runs[1]:
        assert rank["listening"] <= {"0100007F"}, "a neighbour on the network finds nothing to talk to"
    results = [json.loads((tmp_path / f"run{n}" / "results.json").read_text()) for n in (1, 2)]
    assert results[0]["confusion"] == results[1]["confusion"]
    assert results[0]["miou"] == results[1]["miou"]
    # Rank 0 alone writes and speaks.
    assert {path.name for path in (tmp_path / "run1").iterdir()} == {
        path.name for path in (tmp_path / "run2").iterdir()
    }
    assert {path.name for path in tmp_path.iterdir()} == {"run1", "run2", "p1", "p2"}
    for line in ("data scenes", "epoch 1/1", "best checkpoint:", "BatchNorm is not synchronised"):
        assert result.stdout.count(line) == 1, result.stdout
    assert "each of 2 devices normalises over its own 2 of 4 images" in result.stdout
    assert result.stderr == ""


def test_what_cannot_be_is_said_once(command: Run, small_list: Path, tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        result = command("train", *SCENES, "trainer.devices=2", "hydra.run.dir=run", *arguments)
        assert result.returncode == 1, result.stdout + result.stderr
        assert result.stderr.count("error: ") == 1, result.stderr
        assert "Traceback" not in result.stderr
        return result.stderr

    assert re.search(
        r"data\.batch_size=5 is the total over all 2 devices and must divide by their number; take 4",
        said("data.batch_size=5"),
    )
    # Before any process is started, or any label is looked at.
    assert "devices and must divide by their number; take 65, or at most 2 devices" in said(
        "data.batch_size=2", "trainer.devices=65", "data.train_length=1000000", "loss.class_weights=median_frequency"
    )
    assert "data.num_workers=100000" in said("data.num_workers=100000")
    assert "trainer.strategy=ddp_spawn: the ranks are started by this command itself; take ddp" in said(
        "trainer.strategy=ddp_spawn"
    )
    assert "SyncBatchNorm does not run on cpu ranks" in said("trainer.sync_batchnorm=true")
    assert "loss.reduction=sum must be global or rank" in said("loss.reduction=sum")
    assert "MASTER_ADDR, MASTER_PORT and NODE_RANK" in said("trainer.num_nodes=2")


@pytest.mark.slow
def test_an_error_of_rank_1_alone_is_said_once_and_ends_all(command: Run, small_list: Path, tmp_path: Path) -> None:
    # The second validation image belongs to rank 1; nothing looks at it before.
    (small_list / "images" / "7.png").write_bytes(b"not a picture")
    started = time.monotonic()
    result = command(
        "train",
        *list_arguments(small_list),
        "data.check=0",
        "data.batch_size=4",
        "trainer.devices=2",
        "hydra.run.dir=run",
        MARK=str(tmp_path),
    )
    assert time.monotonic() - started < 90
    assert result.returncode == 1
    assert result.stderr.count("error: ") == 1, result.stderr
    assert re.search(r"error: rank 1: .*images/7\.png", result.stderr), result.stderr
    assert "Traceback" not in result.stderr
    assert left_over(f"MARK={tmp_path}") == []


# ---------------------------------------------------------------------- slow: every way of starting, four ranks


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross_entropy", "ohem"])
def test_four_ranks_of_which_one_has_nothing_to_validate(command: Run, tmp_path: Path, loss: str) -> None:
    runs = {}
    for devices in (1, 2, 4):
        options = [f"trainer.devices={devices}", f"hydra.run.dir=run{devices}", f"+callbacks.probe.dirpath=p{devices}"]
        result = command("train", *SCENES, *PROBE, f"loss={loss}", "data.val_length=3", *options, **PATHS)
        runs[devices] = probed(result, tmp_path / f"p{devices}", devices)
    for devices in (2, 4):
        same_training(runs[1][0], runs[devices])
        print_row(loss, devices, runs[1][0], runs[devices][0])
    assert runs[4][3]["val"] == []


def print_row(loss: str, devices: int, one: dict, several: dict) -> None:
    """The README's table: pytest -m slow -k four_ranks -s."""
    losses = max(abs(a - b) / a for a, b in zip(one["losses"], several["losses"], strict=True))
    gradient = max(float((several["gradients"][k] - v).abs().max()) for k, v in one["gradients"].items())
    largest = max(float(value.abs().max()) for value in one["gradients"].values())
    same = torch.equal(one["confusion"], several["confusion"])
    print(f"{loss}: 1 against {devices}: loss {losses:.1e} relative, gradient {gradient:.1e} of {largest:.2f}, {same=}")


@pytest.mark.slow
def test_accumulated_gradients_are_one_processes(command: Run, tmp_path: Path) -> None:
    runs = []
    for devices in (1, 2):
        options = [f"trainer.devices={devices}", f"hydra.run.dir=run{devices}", f"+callbacks.probe.dirpath=p{devices}"]
        accumulate = ["trainer.accumulate_grad_batches=2", "data.batch_size=2"]
        result = command("train", *SCENES, *PROBE, *accumulate, *options, **PATHS)
        runs.append(probed(result, tmp_path / f"p{devices}", devices))
    same_training(runs[0][0], runs[1])


@pytest.mark.slow
def test_a_rank_without_a_label_neither_hangs_nor_spoils_the_loss(command: Run, tmp_path: Path) -> None:
    for blank in ("[1]", "[0,1]"):
        options = [
            "trainer.devices=2",
            "hydra.run.dir=run",
            "+callbacks.probe.dirpath=p",
            f"+callbacks.probe.blank={blank}",
        ]
        ranks = probed(command("train", *SCENES, *PROBE, *options, **PATHS), tmp_path / "p", 2)
        assert ranks[0]["losses"] == ranks[1]["losses"]
        assert all((loss == 0) == (blank == "[0,1]") for loss in ranks[0]["losses"])
        assert all(torch.isfinite(value).all() for value in ranks[1]["gradients"].values())


def train_words(*arguments: str) -> list[str]:
    return [str(REPOSITORY / "train.py"), *SCENES, *PROBE, *arguments]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("one")
    ended(start(folder, [sys.executable, *train_words("hydra.run.dir=run", "+callbacks.probe.dirpath=p")]))
    return torch.load(folder / "p" / "rank0.pt")


def torchrun(*options: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *options]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [[], ["trainer.devices=2"]])
def test_torchrun(one: dict, tmp_path: Path, devices: list[str]) -> None:
    words = [*torchrun("--standalone", "--nproc_per_node=2"), *train_words("+callbacks.probe.dirpath=p", *devices)]
    said = ended(start(tmp_path, words))
    same_training(one, [torch.load(tmp_path / "p" / f"rank{rank}.pt") for rank in range(2)])
    # No hydra.run.dir: two ranks that each took the time of day could make two folders.
    assert len(list((tmp_path / "runs").glob("*/*"))) == 1
    assert said.count("best checkpoint") == 1


@pytest.mark.slow
def test_torchrun_with_two_nodes_on_two_addresses(one: dict, tmp_path: Path) -> None:
    from lightning.fabric.plugins.environments.lightning import find_free_network_port

    port = find_free_network_port()
    nodes = []
    for node, address in enumerate(("127.0.0.1", "127.0.0.2")):
        options = ["--nnodes=2", "--nproc_per_node=1", f"--node_rank={node}", f"--local_addr={address}"]
        rendezvous = ["--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=two"]
        words = [*torchrun(*options, *rendezvous), *train_words("trainer.num_nodes=2", "+callbacks.probe.dirpath=p")]
        nodes.append(start(tmp_path, words))
    said = [ended(node) for node in nodes]
    same_training(one, [torch.load(tmp_path / "p" / f"rank{rank}.pt") for rank in range(2)])
    assert sum(text.count("best checkpoint") for text in said) == 1
    assert len(list((tmp_path / "runs").glob("*/*"))) == 1


@pytest.mark.slow
def test_nodes_started_by_hand_start_their_own_ranks(one: dict, tmp_path: Path) -> None:
    from lightning.fabric.plugins.environments.lightning import find_free_network_port

    port = find_free_network_port()
    words = train_words("trainer.num_nodes=2", "trainer.devices=2", "+callbacks.probe.dirpath=p")
    nodes = [
        start(tmp_path, [sys.executable, *words], MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), NODE_RANK=str(node))
        for node in range(2)
    ]
    for node in nodes:
        ended(node)
    same_training(one, [torch.load(tmp_path / "p" / f"rank{rank}.pt") for rank in range(4)])
    assert len(list((tmp_path / "runs").glob("*/*"))) == 1


@pytest.mark.slow
def test_slurm(one: dict, tmp_path: Path) -> None:
    """The variables of ``srun --ntasks=2`` on one node."""
    from lightning.fabric.plugins.environments.lightning import find_free_network_port

    common = {
        "SLURM_JOB_ID": "4242",
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "127.0.0.1",
        "MASTER_PORT": str(find_free_network_port()),
    }
    words = [sys.executable, *train_words("+callbacks.probe.dirpath=p", "trainer.devices=2")]
    tasks = [start(tmp_path, words, **common, SLURM_PROCID=str(task), SLURM_LOCALID=str(task)) for task in range(2)]
    said = [ended(task) for task in tasks]
    same_training(one, [torch.load(tmp_path / "p" / f"rank{rank}.pt") for rank in range(2)])
    assert said[1] == ""
    assert len(list((tmp_path / "runs").glob("*/*"))) == 1


# ---------------------------------------------------------------------- slow: exact resume


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_two_ranks_killed_in_mid_epoch_and_resumed_end_with_the_same_weights(tmp_path: Path, workers: int) -> None:
    long = [
        *SMALL,
        "trainer.devices=2",
        "hydra.run.dir=run",
        "data.train_length=48",
        "data.val_length=5",
        "data.batch_size=4",
        "data.epochs=3",
        "data.crop_size=64",
        "data.check=0",
        "callbacks=every_steps",
        "callbacks.steps.every_n_train_steps=5",
        "callbacks.pictures=null",
        "callbacks.summary=null",
        f"data.num_workers={workers}",
    ]
    words = [sys.executable, str(REPOSITORY / "train.py"), *long]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    undisturbed.mkdir()
    killed.mkdir()
    ended(start(undisturbed, words))

    mark = f"PSPNET_TEST={killed}"
    process = start(killed, words, PSPNET_TEST=str(killed))
    checkpoint = killed / "run" / "checkpoints" / "last.ckpt"
    deadline, step = time.monotonic() + 200, 0
    while step not in (15, 20) and time.monotonic() < deadline and process.poll() is None:
        if checkpoint.is_file():
            step = read_checkpoint(checkpoint)["global_step"]
        time.sleep(0.02)
    for pid in processes_with(mark):  # both ranks and their workers
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    step = read_checkpoint(checkpoint)["global_step"]
    assert step % 12 != 0, f"the run was killed at an epoch's end (step {step}), not in its middle"
    ended(start(killed, [*words, "ckpt_path=last"]))

    expected, resumed = (
        read_checkpoint(folder / "run" / "checkpoints" / "last.ckpt") for folder in (undisturbed, killed)
    )
    assert expected["global_step"] == resumed["global_step"] == 36
    different = [k for k, v in expected["state_dict"].items() if not torch.equal(v, resumed["state_dict"][k])]
    assert different == []


@pytest.mark.slow
def test_ranks_end_when_rank_0_is_killed(tmp_path: Path) -> None:
    words = [
        sys.executable,
        *train_words("trainer.devices=2", "data.epochs=500", "hydra.run.dir=run", "+callbacks.probe.dirpath=p"),
    ]
    process = start(tmp_path, words, PSPNET_TEST=str(tmp_path))
    mark = f"PSPNET_TEST={tmp_path}"
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoints").is_dir() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(processes_with(mark)) == 2
    process.kill()
    process.communicate()
    assert left_over(mark) == []
