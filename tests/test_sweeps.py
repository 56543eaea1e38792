"""Reading a sweep back: groups over seeds and folds, their statistics against scipy, torn and missing files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import yaml

from pspnet_lightning.runs import (
    best_group,
    group_jobs,
    history,
    paired_differences,
    read_job,
    read_sweep,
    swept_keys,
)
from pspnet_lightning.runs.jobs import natural


def write_job(
    folder: Path, overrides: list[str], miou: float | None, *, folds: int = 0, status: str = "finished", **run: Any
) -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"seed": 0, "data": {"folds": folds, "fold": 0}, "model": {"bins": [1, 2, 3, 6]}})
    )
    if miou is not None:
        (folder / "results.json").write_text(json.dumps({"split": "val", "miou": miou, "macc": miou + 0.1}))
    content = {"status": status, "objective": {"name": "val/miou", "value": miou}, **run}
    (folder / "run.json").write_text(json.dumps(content))


# Rows: bins [], [1], [1,2,3,6]; columns: folds.
SCORES = np.array([[0.50, 0.42, 0.61], [0.52, 0.47, 0.64], [0.55, 0.48, 0.70]])


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    number = 0
    for bins, row in zip(("[]", "[1]", "[1, 2, 3, 6]"), SCORES, strict=True):
        for fold, miou in enumerate(row):
            words = [f"model.bins={bins}", f"data.fold={fold}", "data.folds=3", "hydra.sweep.dir=x"]
            write_job(tmp_path / str(number), words, float(miou), folds=3, seconds=2.5)
            number += 1
    return tmp_path


def test_groups_leave_out_seed_and_fold(sweep: Path) -> None:
    jobs = read_sweep(sweep)
    assert [job.name for job in jobs] == [str(number) for number in range(9)]
    assert jobs[0].seconds == 2.5
    assert swept_keys(jobs) == ["model.bins", "data.fold"]
    groups = group_jobs(jobs)
    assert [group.settings for group in groups] == [{"model.bins": bins} for bins in ("[]", "[1]", "[1,2,3,6]")]
    for group, row in zip(groups, SCORES, strict=True):
        assert group.n == 3
        assert group.mean == pytest.approx(row.mean(), abs=1e-12)
        assert group.std == pytest.approx(row.std(ddof=1), abs=1e-12)
    best = best_group(groups)
    assert best is groups[2]
    assert best_group(groups, "min") is groups[0]
    assert [round(group.mean or 0, 6) for group in group_jobs(jobs, "val/macc")] == [0.61, 0.643333, 0.676667]


def test_paired_differences_are_the_corrected_t_test(sweep: Path) -> None:
    groups = group_jobs(read_sweep(sweep))
    first, second = paired_differences(groups, groups[0])
    assert first.group is groups[1]
    assert (first.n, first.wins(), second.wins("max")) == (3, 3, 3)
    values = SCORES[2] - SCORES[0]
    assert second.mean == pytest.approx(values.mean(), abs=1e-12)
    assert second.std == pytest.approx(values.std(ddof=1), abs=1e-12)
    # Nadeau & Bengio: test and training images are 1 to folds - 1.
    scale = values.std(ddof=1) * np.sqrt(1 / 3 + 1 / 2)
    low, high = scipy.stats.t.interval(0.95, 2, loc=values.mean(), scale=scale)
    assert (second.low, second.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_seeds_alone_are_the_ordinary_paired_t_test(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    scores = generator.uniform(0.4, 0.6, (2, 12))
    for row, rate in enumerate(("0.01", "0.1")):
        for seed in range(12):
            words = [f"optimizer.lr={rate}", f"seed={seed}"]
            write_job(tmp_path / f"{row}-{seed}", words, float(scores[row, seed]))
    groups = group_jobs(read_sweep(tmp_path))
    (difference,) = paired_differences(groups, groups[0])
    expected = scipy.stats.ttest_rel(scores[1], scores[0]).confidence_interval(0.95)
    assert difference.low == pytest.approx(expected.low, abs=1e-4)
    assert difference.high == pytest.approx(expected.high, abs=1e-4)


def test_what_failed_or_was_killed_counts_in_no_mean(sweep: Path) -> None:
    write_job(
        sweep / "9",
        ["model.bins=[]", "data.folds=3", "seed=1"],
        None,
        status="failed",
        error="ValueError: the loss is nan",
    )
    (sweep / "8" / "run.json").write_text('{"status": "fin')  # torn
    (sweep / "8" / "results.json").unlink()
    jobs = read_sweep(sweep)
    assert [(job.status, job.finished) for job in jobs[8:]] == [("unfinished", False), ("failed", False)]
    assert jobs[9].error == "ValueError: the loss is nan"
    groups = group_jobs(jobs)
    assert [group.n for group in groups] == [3, 3, 2]
    # It lacks a fold, so its mean is of other images: it is no candidate, and is paired on what both have.
    assert best_group(groups) is groups[1]
    assert paired_differences(groups, groups[0])[1].n == 2


def test_a_run_without_run_json_is_judged_by_its_results(tmp_path: Path) -> None:
    write_job(tmp_path / "a", [], 0.5)
    (tmp_path / "a" / "run.json").unlink()
    job = read_job(tmp_path / "a")
    assert (job.status, job.objective) == ("finished", 0.5)
    (tmp_path / "a" / "results.json").write_text('{"split": "test", "miou": 0.7}')
    assert read_job(tmp_path / "a").objective is None


def test_an_objective_that_is_no_number_is_not_finished(tmp_path: Path) -> None:
    write_job(tmp_path / "a", [], None)
    assert not read_job(tmp_path / "a").finished


def test_jobs_in_nested_folders_and_nothing_inside_a_job(tmp_path: Path) -> None:
    write_job(tmp_path / "bins" / "x=1", ["seed=1"], 0.1)
    write_job(tmp_path / "bins" / "x=10", ["seed=10"], 0.1)
    write_job(tmp_path / "bins" / "x=2", ["seed=2"], 0.1)
    write_job(tmp_path / "bins" / "x=1" / "evaluated", [], 0.9)
    assert [job.name for job in read_sweep(tmp_path)] == ["bins/x=1", "bins/x=2", "bins/x=10"]
    assert natural("a10") > natural("a9")


def test_a_key_that_one_job_left_at_its_default(tmp_path: Path) -> None:
    write_job(tmp_path / "0", [], 0.4)
    write_job(tmp_path / "1", ["model.bins=[1]"], 0.5)
    groups = group_jobs(read_sweep(tmp_path))
    assert [group.label for group in groups] == ["model.bins=[1,2,3,6]", "model.bins=[1]"]


def test_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_sweep(tmp_path / "gone")
    with pytest.raises(ValueError, match="holds no job"):
        read_sweep(tmp_path)


def test_history_over_resumes(tmp_path: Path) -> None:
    (tmp_path / "metrics.1.csv").write_text("epoch,step,val/miou\n0,3,0.1\n0,3,\n1,6,0.2\n")
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss,val/miou\n1,6,0.7,0.25\n2,9,0.6,0.3\n3,1")
    assert history(tmp_path) == {0: 0.1, 1: 0.25, 2: 0.3}
    assert history(tmp_path / "gone") == {}
