"""What is said of six made sweeps, and that table, sentence and terminal say the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from conftest import REPOSITORY
from rich.console import Console
from sweep_folder import write_run

from pspnet_lightning.report import gather, verdict
from pspnet_lightning.report.content import Content
from pspnet_lightning.report.outcome import outcome, sweep_table
from pspnet_lightning.report.tables import comparison_words
from pspnet_lightning.runs import Difference, Group


def made(folder: Path, scores: dict[str, list[float]], key: str = "model.bins", folds: int = 0) -> Content:
    """A sweep with these mIoUs in per cent, a list of seeds (or folds) for each setting."""
    number = 0
    for setting, values in scores.items():
        for seed, value in enumerate(values):
            words = [f"{key}={setting}", f"data.fold={seed}" if folds else f"seed={seed}"]
            write_run(folder / str(number), words, [value / 100, value / 100], folds=folds)
            number += 1
    return gather(folder, pictures=0)


SWEEPS: dict[str, tuple[dict[str, list[float]], list[str]]] = {
    # The README's own numbers: 20 points, in every pair, which three pairs do not prove. Never "within the noise".
    "no pyramid": (
        {"[]": [63.0, 78.0, 53.9], "[1,2,3,6]": [86.0, 85.9, 85.6]},
        [
            "Recommended bins: [1,2,3,6], with the highest mean mIoU: 85.83.",
            "[]: 20.87 points worse than the paper's bins [1,2,3,6] [-50.78, +9.05], better in 0 of 3 pairs, p 0.095: "
            "not shown with 3 pairs; about 5 pairs would.",
        ],
    ),
    "small but steady": (
        {"[1]": [85.3, 85.2, 84.9], "[1,2,3,6]": [86.0, 85.9, 85.65]},
        [
            "Recommended bins: [1,2,3,6], with the highest mean mIoU: 85.85.",
            "[1]: 0.72 points worse than the paper's bins [1,2,3,6] [-0.79, -0.64], better in 0 of 3 pairs, p < 0.001: "
            "shown.",
        ],
    ),
    "better than the paper's, not shown": (
        {"[1,2]": [51.0, 56.0, 60.0], "[1,2,3,6]": [50.0, 52.0, 60.5]},
        [
            "Recommended bins: [1,2], with the highest mean mIoU: 55.67.",
            "[1,2]: 1.50 points better than the paper's bins [1,2,3,6] [-4.19, +7.19], better in 2 of 3 pairs, "
            "p 0.374: not shown with 3 pairs; about 21 pairs would.",
            "That it is better than the paper's bins [1,2,3,6] is not shown: nothing speaks against keeping them.",
        ],
    ),
    # Chosen as the best by its score: all three pairs of settings count.
    "the best of three rates": (
        {"0.01": [70.0, 71.0, 69.0, 70.5], "0.02": [71.0, 72.3, 70.0, 71.2], "0.1": [60.0, 40.0, 55.0, 20.0]},
        [
            "Recommended setting: 0.02, with the highest mean mIoU: 71.12.",
            "0.01: 1.00 points worse than the best setting [-1.39, -0.61], better in 0 of 4 pairs, p 0.012: shown.",
            "0.1: 27.37 points worse than the best setting [-56.62, +1.87], better in 0 of 4 pairs, p 0.117: "
            "not shown with 4 pairs; about 8 pairs would.",
        ],
    ),
    "the same": (
        {"[1]": [50.0, 60.0], "[1,2,3,6]": [50.0, 60.0]},
        [
            "Recommended bins: [1], with the highest mean mIoU: 55.00.",
            "[1]: the same as the paper's bins [1,2,3,6] [+0.00, +0.00], better in 0 of 2 pairs, p 1.000: "
            "not shown with 2 pairs; more of this kind would hardly show it.",
            "That it is better than the paper's bins [1,2,3,6] is not shown: nothing speaks against keeping them.",
        ],
    ),
    "one run each": (
        {"[]": [60.0], "[1,2,3,6]": [80.0]},
        [
            "Recommended bins: [1,2,3,6], with the highest mean mIoU: 80.00.",
            "Each setting was run once: a difference may be chance, and nothing here can tell. Sweep seeds too "
            "(seed=0,1,2), or folds (data.folds=5 data.fold=0,1,2,3,4).",
        ],
    ),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_the_sentences(name: str, tmp_path: Path) -> None:
    scores, expected = SWEEPS[name]
    content = made(tmp_path, scores, "data.lr" if "0.01" in scores else "model.bins")
    assert verdict(content) == expected


def test_the_page_shows_these_sentences() -> None:
    """docs/sweeps.md: of each sweep the scores, setting by setting, then every sentence."""
    page = " ".join((REPOSITORY / "docs" / "sweeps.md").read_text().split())
    for scores, sentences in SWEEPS.values():
        settings = "; ".join(f"{name}: {', '.join(map(str, values))}" for name, values in scores.items())
        assert f"{settings} {' '.join(sentences)}" in page


@pytest.mark.parametrize("name", SWEEPS)
def test_table_sentence_terminal_and_json_agree(name: str, tmp_path: Path) -> None:
    scores, _ = SWEEPS[name]
    content = made(tmp_path, scores, "data.lr" if "0.01" in scores else "model.bins")
    said = " ".join(verdict(content))
    console = Console(width=200, record=True, file=(tmp_path / "screen").open("w"))
    console.print(sweep_table(content))
    screen = console.export_text()
    written = outcome(content)["comparisons"]
    assert len(written) == len(content.comparisons) == len(scores) - 1
    for item, plain in zip(content.comparisons.values(), written, strict=True):
        words = comparison_words(content, item.difference.group)
        assert f"{words.difference}" in screen
        assert words.status in screen
        assert plain["shown"] == item.shown == (words.status == "shown")
        if item.difference.n > 1:
            assert f", p {words.p}: {words.status}." in said
        assert "noise" not in said


def test_the_number_of_pairs_is_that_of_the_power(tmp_path: Path) -> None:
    """Of many sweeps with that mean and spread, four of five show the difference, and fewer with one pair less."""
    group = Group({}, ())
    needed = Difference(group, group, (0.0, 1.0, 2.0, 0.5)).pairs_needed(comparisons=2)
    values = np.array([0.0, 1.0, 2.0, 0.5])
    assert needed is not None
    generator = np.random.default_rng(0)
    shown = []
    for n in (needed - 1, needed):
        draws = generator.normal(values.mean(), values.std(ddof=1), (20_000, n))
        shown.append(float((scipy.stats.ttest_1samp(draws, 0, axis=1).pvalue <= 0.025).mean()))
    assert shown[0] < 0.8 <= shown[1] + 0.01
    assert Difference(group, group, (1.0,)).pairs_needed() is None
    assert Difference(group, group, (0.001, -1.0, 1.0)).pairs_needed() is None, "more than 1,000"


def test_folds_have_an_end(tmp_path: Path) -> None:
    """Three folds share half of their images: no number of repetitions makes up for that."""
    content = made(tmp_path, {"[1]": [50.0, 60.0, 50.0], "[1,2,3,6]": [51.0, 60.5, 55.0]}, folds=3)
    (item,) = content.comparisons.values()
    values = np.array([-0.01, -0.005, -0.05])
    assert (item.difference.overlap, item.difference.std) == (0.5, pytest.approx(values.std(ddof=1)))
    assert item.pairs_needed is None
    assert "not shown with 3 pairs; more of this kind would hardly show it" in " ".join(verdict(content))
