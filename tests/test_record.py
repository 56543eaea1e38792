"""run.json: what was run, on which code and data, and how it went."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from conftest import REPOSITORY, SMALL, Run

from pspnet_lightning.runs import record as module
from pspnet_lightning.runs.preempted import Preempted
from pspnet_lightning.runs.record import RunRecord, read_record

SCENES = [*SMALL, "data.train_length=8", "data.val_length=2", "data.batch_size=4", "data.epochs=1"]
SCENES += ["data.crop_size=64", "callbacks.pictures=null"]


def test_a_run_is_recorded(command: Run, tmp_path: Path) -> None:
    done = command("train", *SCENES, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    assert content["status"] == "finished"
    assert content["error"] is None
    assert content["command"] == ["pspnet-train", *SCENES, "hydra.run.dir=run"]
    assert content["overrides"] == SCENES  # those of Hydra itself are not the job's
    assert content["job"] == {"num": None, "sweep": None}
    assert datetime.fromisoformat(content["started"]) <= datetime.fromisoformat(content["ended"])
    assert 0 < content["seconds"] < 240
    assert content["attempts"] == 1
    assert content["peak_memory_bytes"]["host"] > 100e6  # torch alone
    assert content["peak_memory_bytes"]["device"] is None
    assert content["versions"].keys() == {
        *("python", "torch", "torchvision", "lightning", "hydra", "numpy", "opencv", "pspnet_lightning", "cuda")
    }
    assert content["versions"]["python"] == sys.version.split()[0]
    assert content["data"]["name"] == "scenes"
    assert len(content["data"]["fingerprint"]) == 64
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert content["objective"] == {"name": "val/miou", "value": pytest.approx(results["miou"])}
    if (REPOSITORY / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
        assert content["git"]["commit"] == head.stdout.strip()
        assert content["git"]["dirty"] == (tmp_path / "run" / "diff.patch").exists()


def test_jobs_of_a_sweep_and_their_failures(command: Run, tmp_path: Path) -> None:
    # The second job's bins are no bins: found before the data are opened.
    done = command("train", "-m", "model.bins=[1],[0]", "hydra.sweep.dir=sweep", *SCENES)
    assert done.returncode == 1
    good, bad = (read_record(tmp_path / "sweep" / job) for job in ("0", "1"))
    assert good["status"] == "finished"
    assert good["job"] == {"num": 0, "sweep": str(tmp_path / "sweep")}
    assert "model.bins=[1]" in good["overrides"]
    assert bad["status"] == "failed"
    assert bad["job"]["num"] == 1
    assert "model.bins=[0] must be a list, each a whole number from 1 to 512" in bad["error"]
    assert bad["ended"] is not None


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (None, "finished", None),
        (KeyboardInterrupt(), "interrupted", None),
        (Preempted(15), "preempted", None),
        (SystemExit(1), "failed", "SystemExit: 1"),
        (RuntimeError("first\nlast\n"), "failed", "RuntimeError: last"),
        (MemoryError(), "failed", "MemoryError"),
    ],
)
def test_how_it_ended(tmp_path: Path, error: BaseException | None, status: str, message: str | None) -> None:
    def body() -> None:
        with RunRecord(tmp_path):
            assert read_record(tmp_path)["status"] == "running"
            if error is not None:
                raise error

    if error is None:
        body()
    else:
        with pytest.raises(type(error)):
            body()
    content = read_record(tmp_path)
    assert content["status"] == status
    assert content["error"] == message


def test_attempts_and_seconds_go_on_where_a_run_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.0, 103.0, 104.0, 200.0, 200.0, 207.0, 500.0, 500.0, 501.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    killed = RunRecord(tmp_path)
    killed.__enter__()
    killed.beat()
    assert read_record(tmp_path)["seconds"] == 3
    # The process is gone here; its last second is not known.
    next(clock)
    with RunRecord(tmp_path, resumed=True):
        content = read_record(tmp_path)
        assert content["status"] == "running"
        assert content["attempts"] == 2
    assert read_record(tmp_path)["seconds"] == 10
    with RunRecord(tmp_path):  # another run in the same folder, from the start
        pass
    assert read_record(tmp_path)["attempts"] == 1
    assert read_record(tmp_path)["seconds"] == 1


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with RunRecord(tmp_path, write=False) as record:
        record.set_objective("val/miou", 0.5)
        record.beat()
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_record_is_none(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    (tmp_path / "run.json").write_text('{"status": "runn')
    assert read_record(tmp_path) is None
    with RunRecord(tmp_path, resumed=True):
        assert read_record(tmp_path)["attempts"] == 1


def test_uncommitted_changes_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package: git is that of the folder where the user stands, own configs and all."""
    project, run = tmp_path / "project", tmp_path / "run"
    run.mkdir()
    (project / "package").mkdir(parents=True)
    git = ["git", "-C", str(project), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git[:3], "init", "-q"], check=True)
    (project / "mine.yaml").write_text("lr: 1\n")
    (project / ".gitignore").write_text("package/\n")
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    monkeypatch.setattr(module, "__file__", str(project / "package" / "record.py"))
    monkeypatch.chdir(project)

    with RunRecord(run) as record:
        assert record.content["git"]["dirty"] is False
        assert record.content["git"]["diff_file"] is None
    (project / "mine.yaml").write_text("lr: 2\n")
    (project / "new.py").write_text("x = 1\n")
    (project / "picture.jpg").write_bytes(b"\0" * 1000)
    with RunRecord(run) as record:
        assert record.content["git"]["dirty"] is True
        assert len(record.content["git"]["commit"]) == 40
    patch = (run / "diff.patch").read_text()
    assert "-lr: 1\n+lr: 2\n" in patch
    assert "+x = 1\n" in patch
    assert "picture" not in patch
    status = subprocess.run([*git, "status", "--short"], capture_output=True, text=True).stdout
    assert status == " M mine.yaml\n?? new.py\n?? picture.jpg\n"  # the index was left alone
    subprocess.run([*git, "stash", "-q"], check=True)
    (project / "new.py").unlink()
    subprocess.run(["git", "apply", str(run / "diff.patch")], cwd=project, check=True)
    assert (project / "mine.yaml").read_text() == "lr: 2\n"
    assert (project / "new.py").read_text() == "x = 1\n"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "record.py"))
    with RunRecord(run) as record:
        assert record.content["git"] is None
