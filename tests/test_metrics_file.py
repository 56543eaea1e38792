"""metrics.csv: one file over all attempts of a run."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from pspnet_lightning.loggers.metrics_file import MetricsFile


def steps(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row["step"] for row in csv.DictReader(file)]


def logged(logger: MetricsFile, *numbers: int, **others: float) -> None:
    for number in numbers:
        logger.log_metrics({"loss": number / 10, **others}, step=number)


def test_columns_that_come_later(tmp_path: Path) -> None:
    logger = MetricsFile(str(tmp_path))
    logged(logger, 0, 1)
    logger.flush()
    logged(logger, 2, miou=0.5)
    logger.finalize("success")
    assert (tmp_path / "metrics.csv").read_text().split() == ["loss,miou,step", "0.0,,0", "0.1,,1", "0.2,0.5,2"]


def test_a_resumed_run_goes_on_after_the_rows_of_its_checkpoint(tmp_path: Path) -> None:
    killed = MetricsFile(str(tmp_path))
    logged(killed, 0, 1, 2, 3)
    killed.flush()
    with killed.path.open("a") as file:
        file.write("0.4,")  # killed in the middle of a row
    resumed = MetricsFile(str(tmp_path))
    resumed.resume(2, killed.path)
    logged(resumed, 2, 3)
    resumed.flush()
    assert steps(resumed.path) == ["0", "1", "2", "3"]
    assert resumed.count == 4
    elsewhere = MetricsFile(str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    elsewhere.resume(3, resumed.path)
    logged(elsewhere, 7)
    elsewhere.flush()
    assert steps(elsewhere.path) == ["0", "1", "2", "7"]


def test_another_run_in_the_same_folder_keeps_the_earlier_file(tmp_path: Path) -> None:
    for number in range(3):
        logger = MetricsFile(str(tmp_path))
        logged(logger, number)
        logger.flush()
    assert [steps(tmp_path / f"metrics{name}.csv") for name in (".1", ".2", "")] == [["0"], ["1"], ["2"]]


def test_rows_that_are_gone_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = MetricsFile(str(tmp_path))
    logger.resume(5, tmp_path / "metrics.csv")
    assert "has 0 of the 5 rows" in capsys.readouterr().err


def test_a_full_disk_loses_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = MetricsFile(str(tmp_path))
    logged(logger, 0)
    logger.flush()
    logged(logger, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(csv.DictWriter, "writerows", full)
        logger.flush()
        logged(logger, 2, miou=0.5)
        logger.flush()
    assert capsys.readouterr().err.count("No space left on device") == 1
    assert steps(logger.path) == ["0"]
    logged(logger, 3)
    logger.flush()
    assert steps(logger.path) == ["0", "1", "2", "3"]
    assert os.listdir(tmp_path) == ["metrics.csv"]
