"""The report's numbers against scipy and by hand; its files; what it says of noise, failures, single runs."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from conftest import SMALL, Run
from sweep_folder import SCORES, write_run, write_sweep

from pspnet_lightning.metrics.intervals import student
from pspnet_lightning.report import gather, headline, verdict, write_report
from pspnet_lightning.report.charts import nice_ticks, whole_ticks
from pspnet_lightning.report.tables import comparison_words, job_facts, spent
from pspnet_lightning.runs.differences import holm


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path / "sweep")


@pytest.mark.parametrize("freedom", [1, 2, 3.7, 30, 101])
def test_intervals_and_p_values_are_scipys(freedom: float) -> None:
    for mean in (0.0, 0.1, -1.0, 2.5, 12.0):
        found = student(mean, 2.0, freedom)
        assert found.p == pytest.approx(2 * scipy.stats.t.sf(abs(mean / 2), freedom), abs=1e-12)
        assert (found.low, found.high) == pytest.approx(scipy.stats.t.interval(0.95, freedom, mean, 2.0), rel=1e-9)
    assert (student(0.0, 0.0, freedom).p, student(0.1, 0.0, freedom).p) == (1.0, 0.0)


def test_holm_adjusts_as_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06], abs=1e-15)
    assert holm([0.9, 0.4]) == pytest.approx([0.9, 0.8], abs=1e-15)
    assert holm([]) == []


def test_settings_are_compared_with_the_papers_bins(sweep: Path) -> None:
    content = gather(sweep)
    assert [content.name(group) for group in content.groups] == ["[1,2,3,6]", "[1]", "[]", "[0]"]
    assert [content.repetition_name(key) for key in content.repetitions] == ["fold 0", "fold 1", "fold 2"]
    assert content.reference == "the paper's bins [1,2,3,6]"
    values = SCORES[1] - SCORES[0]
    # Nadeau & Bengio's variance for 3 folds: each trains on two thirds.
    error = values.std(ddof=1) * np.sqrt(1 / 3 + 1 / 2)
    p = 2 * scipy.stats.t.sf(abs(values.mean() / error), 2)
    item = content.comparisons[id(content.groups[1])]
    assert item.difference.p == pytest.approx(p, abs=1e-9)
    smaller = content.comparisons[id(content.groups[2])].difference.p or 1.0
    assert smaller < p
    assert item.adjusted == pytest.approx(max(p, 2 * smaller), abs=1e-9)
    words = comparison_words(content, content.groups[1])
    half = scipy.stats.t.ppf(0.975, 2) * error
    expected = [100 * values.mean(), 100 * (values.mean() - half), 100 * (values.mean() + half)]
    assert [float(number) for number in re.findall(r"[-+][\d.]+", words.difference)] == pytest.approx(
        expected, abs=6e-3
    )
    assert words.pairs == "0 of 3"
    assert comparison_words(content, content.groups[0]).difference == "reference"
    assert comparison_words(content, content.groups[3]).difference == ""


def test_the_verdict_tells_noise_from_difference(sweep: Path) -> None:
    text = " ".join(verdict(gather(sweep)))
    assert text.startswith("Recommended bins: [1,2,3,6], with the highest mean mIoU: 57.67.")
    assert "[1]: 3.33 points worse than the paper's bins [1,2,3,6] [-13.22, +6.55], better in 0 of 3 pairs" in text
    assert "not shown with 3 pairs; " in text
    assert "1 of 10 jobs have no score" in text


def test_one_run_each_says_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "0", ["model.bins=[1]"], [0.5, 0.7])
    write_run(tmp_path / "1", ["model.bins=[1,2,3,6]"], [0.4, 0.7])
    content = gather(tmp_path)
    text = " ".join(verdict(content))
    assert "Recommended bins: [1]" in text
    assert "may be chance" in text
    assert comparison_words(content, content.groups[0]).p == ""
    assert comparison_words(content, content.groups[0]).status == "one pair of runs shows nothing"


def test_what_is_better_than_the_papers_bins_within_noise_is_said_so(tmp_path: Path) -> None:
    for number, (bins, score) in enumerate([("[1,2,3,6]", 0.5), ("[1,2,3,6]", 0.6), ("[1]", 0.61), ("[1]", 0.55)]):
        write_run(tmp_path / str(number), [f"model.bins={bins}", f"seed={number % 2}"], [score, score])
    text = " ".join(verdict(gather(tmp_path)))
    assert "[1]: 3.00 points better than the paper's bins [1,2,3,6]" in text
    assert "That it is better than the paper's bins [1,2,3,6] is not shown: nothing speaks against keeping" in text


def test_one_pair_of_runs_is_no_proof(tmp_path: Path) -> None:
    for number, (bins, seed, score) in enumerate(
        [("[1]", 0, 0.6), ("[1]", 1, 0.7), ("[1,2,3,6]", 0, 0.5), ("[1,2,3,6]", 2, 0.5)]
    ):
        write_run(tmp_path / str(number), [f"model.bins={bins}", f"seed={seed}"], [score, score])
    text = " ".join(verdict(gather(tmp_path)))
    assert "[1]: 10.00 points better than the paper's bins [1,2,3,6], better in 1 of 1 pair: one pair of runs" in text
    assert ": shown" not in text


def test_a_setting_has_one_colour_in_every_chart(tmp_path: Path) -> None:
    write_run(tmp_path / "0", ["model.bins=[1]"], [0.7, 0.7])
    write_run(tmp_path / "1", ["model.bins=[2]"], [0.5, 0.5])
    # The better one logged no training loss: too few steps.
    rows = (tmp_path / "0" / "metrics.csv").read_text().replace("train/loss", "train/other")
    (tmp_path / "0" / "metrics.csv").write_text(rows)
    page = write_report(gather(tmp_path), tmp_path)[0].read_text()
    charts = page.split("<figcaption>")[1:4]
    drawn = [re.findall(r'<polyline class="(\w+)"[^>]*><title>(\S+)</title>', chart) for chart in charts]
    assert [sorted(lines) for lines in drawn] == [[("c0", "[1]"), ("c1", "[2]")]] * 2 + [[("c1", "[2]")]]
    assert re.findall(r'<i class="(\w+)"></i>(\S+)</span>', page) == [("c0", "[1]"), ("c1", "[2]")]


def test_a_killed_job_says_what_is_known(tmp_path: Path) -> None:
    write_run(tmp_path / "0", ["model.bins=[1]"], [0.7, 0.7])
    write_run(tmp_path / "1", ["model.bins=[2]"], None)
    record = json.loads((tmp_path / "1" / "run.json").read_text())
    (tmp_path / "1" / "run.json").write_text(json.dumps({**record, "status": "running"}))
    page, text, _ = write_report(gather(tmp_path), tmp_path)
    assert "running: still at work, or killed" in page.read_text()
    assert "- 1: model.bins=[2]: running: still at work, or killed" in text.read_text()


def test_other_settings_are_compared_within_their_own(tmp_path: Path) -> None:
    number = 0
    for lr in ("0.01", "0.02"):
        for bins, score in (("[1]", 0.4), ("[1,2,3,6]", 0.5)):
            for seed in (0, 1):
                words = [f"model.bins={bins}", f"data.lr={lr}", f"seed={seed}"]
                write_run(tmp_path / str(number), words, [score + 10 * float(lr), score + seed / 100])
                number += 1
    content = gather(tmp_path)
    assert content.name(content.groups[0]) == "bins=[1,2,3,6] lr=0.02"
    pairs = {
        (item.difference.group.settings["data.lr"], item.difference.baseline.settings["data.lr"]): item.difference.mean
        for item in content.comparisons.values()
    }
    assert pairs == {("0.01", "0.01"): pytest.approx(-0.1), ("0.02", "0.02"): pytest.approx(-0.1)}


def test_the_files(sweep: Path, tmp_path: Path) -> None:
    paths = write_report(gather(sweep), tmp_path / "out")
    assert [path.name for path in paths] == ["report.html", "report.md", "report.csv"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.csv", "report.html", "report.md"]
    page, text = paths[0].read_text(), paths[1].read_text()
    # Nothing is fetched, nothing runs, and what a job wrote is text.
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert "http" not in page.replace("http-equiv", "")
    assert "&lt;b&gt;0&lt;/b&gt; is no bin &amp; never was" in page
    assert r"ValueError: \<b>0\</b> is no bin & never was" in text
    assert page.count("<img ") == 3 * (2 + 3)
    for part in ("[1,2,3,6]", "57.67", "class 2", "absent", "<polyline", "pspnet-train --repeat"):
        assert part in page, part
    assert page.rindex("Recommended bins") > page.rindex("pspnet-train --repeat")
    assert "| [1,2,3,6] | 55.00 | 48.00 | 70.00 | 57.67 |" in text
    with paths[2].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert [float(row["val/miou"]) for row in rows[:9]] == pytest.approx(SCORES.ravel())
    assert rows[0]["iou/class 1"] == "0.65"
    assert rows[0]["best_epoch"] == "3"
    assert rows[9]["error"] == "ValueError: <b>0</b> is no bin & never was"


def test_commands_and_facts_of_a_job(sweep: Path) -> None:
    content = gather(sweep)
    again, anew = content.commands(content.jobs[4])
    assert shlex.split(again) == ["pspnet-train", "--repeat", str(sweep / "4")]
    assert shlex.split(anew) == ["python", "train.py", "model.bins=[1]", "data.fold=1", "data.folds=3"]
    facts = job_facts(content, content.jobs[4])
    assert (facts.epochs, facts.best_epoch, facts.images_per_second) == (3, 3, 70)
    assert facts.seconds_per_epoch == pytest.approx(20.5)
    assert facts.host_bytes == 2_500_000_000
    assert [spent(seconds) for seconds in (None, 9.41, 61.5, 7500)] == ["", "9.4 s", "1 min 02 s", "2 h 05 min"]


def test_a_single_run_and_one_that_failed(tmp_path: Path) -> None:
    write_run(tmp_path / "good", ["seed=3"], [0.5, 0.7])
    write_run(tmp_path / "bad", ["seed=3"], None, error="OSError: No space left on device")
    content = gather(tmp_path / "good")
    assert headline(content) == "mIoU 60.00"
    assert "In short" in write_report(content, tmp_path / "good")[0].read_text()
    content = gather(tmp_path / "bad")
    assert headline(content) == "No job has finished: nothing can be said yet."
    page = write_report(content, tmp_path / "bad")[0].read_text()
    assert "No space left on device" in page
    assert "No job has a score yet." in page


def test_smaller_can_be_better(tmp_path: Path) -> None:
    for number, score in enumerate((0.5, 0.7)):
        write_run(tmp_path / str(number), [f"model.bins=[{number + 1}]"], [score, score])
    (tmp_path / "sweep.json").write_text(json.dumps({"mode": "min"}))
    assert headline(gather(tmp_path)).startswith("Best: [1],")
    assert headline(gather(tmp_path, mode="max")).startswith("Best: [2],")


def test_ticks() -> None:
    assert nice_ticks(0.0, 1.0) == [0, 0.25, 0.5, 0.75, 1.0]
    assert nice_ticks(14.2, 21.3) == [14, 16, 18, 20, 22]
    assert len(nice_ticks(3.0, 3.0)) >= 2
    assert len(set(nice_ticks(1e12 + 0.1, 1e12 + 0.2))) >= 2
    assert len(set(nice_ticks(0.0, 5e-324))) >= 2
    assert whole_ticks(0, 99) == list(range(0, 100, 13))
    assert whole_ticks(0, 0) == [0]


def test_the_command(sweep: Path, command: Run) -> None:
    done = command("report", "sweep")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Best: [1,2,3,6], mIoU 57.67 ± 11.24 (3 runs).",
        "sweep/report.html",
        "sweep/report.md",
        "sweep/report.csv",
    ]
    # A second report, and a sweep that is resumed, are not disturbed by the first.
    assert command("report", "folder=sweep", "output=elsewhere", "metric=val/aacc", "pictures=0").returncode == 0
    assert "<img" not in (sweep.parent / "elsewhere" / "report.html").read_text()
    for words, message in (
        (["nowhere"], "error: run or sweep folder 'nowhere' does not exist"),
        ([], "error: folder is required: give folder=... on the command line"),
        (["sweep", "metric=val/iou"], "error: metric='val/iou': no job has it; they have val/miou, val/aacc, val/macc"),
        (["sweep", "direction=up"], "error: direction=up must be maximize or minimize, or null"),
        (["sweep", "ouput=x"], "error: ouput: there is no such key"),
    ):
        failed = command("report", *words)
        assert failed.returncode == 1, words
        assert message in failed.stderr, failed.stderr
    empty = sweep.parent / "empty"
    empty.mkdir()
    assert "holds no job" in command("report", "empty").stderr


def test_the_report_of_a_sweep_that_was_really_run(command: Run, tmp_path: Path) -> None:
    words = [*SMALL, "data.train_length=8", "data.val_length=3", "data.batch_size=4", "data.crop_size=64"]
    done = command("train", "-m", "model.bins=[1],[1,2,3,6],[0]", "data.epochs=2", "hydra.sweep.dir=s", *words)
    assert done.returncode == 1  # of the job with [0]
    assert "pspnet-report s" in done.stdout
    done = command("report", "s")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "s" / "report.html").read_text()
    assert page.count("<img ") == 3 * (2 + 2)
    assert page.count("<polyline") == 2 * 2  # mIoU and validation loss; eight images make no row of training
    assert "model.bins=[0] must be a list, each a whole number" in page
    # What it says is what the runs wrote.
    scores = [json.loads((tmp_path / "s" / str(job) / "results.json").read_text())["miou"] for job in (0, 1)]
    for score in scores:
        assert f"<td>{100 * score:.2f}</td>" in page
