"""The Optuna sweeper with a launcher that answers at once: what is asked, told, stored and continued."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

optuna = pytest.importorskip("optuna")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402

from pspnet_lightning.launch.optuna_sweeper import OptunaSweeper, distribution  # noqa: E402

SPACE = {"model.bins": "choice([],[1],[1,2,3,6])", "lr": "tag(log, interval(0.001, 0.1))"}
Answer = Callable[[int, dict[str, str]], float]


class Killed(BaseException):
    pass


class Launcher:
    """Notes what it is to launch, and answers with ``answer(number, settings)``."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.launched: list[tuple[int, dict[str, str]]] = []

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        returned = []
        for place, words in enumerate(job_overrides):
            number = initial_job_idx + place
            settings = dict(word.split("=", 1) for word in words)
            self.launched.append((number, settings))
            found = JobReturn(status=JobStatus.COMPLETED)
            found.return_value = self.answer(number, settings)
            found.cfg = OmegaConf.create({"objective": "val/miou"})
            found.hydra_cfg = OmegaConf.create({"hydra": {"runtime": {"output_dir": f"nowhere/{number}"}}})
            returned.append(found)
        return returned


def score(number: int, settings: dict[str, str]) -> float:
    return len(settings["model.bins"]) / 10 - abs(math.log(float(settings["lr"]) / 0.02))


def sweep(folder: Path, answer: Answer = score, *, arguments: Sequence[str] = (), **options: Any) -> Launcher:
    sampler = {"_target_": "optuna.samplers.TPESampler", "seed": 0, "n_startup_trials": 4}
    sweeper = OptunaSweeper(**{"sampler": OmegaConf.create(sampler), "params": OmegaConf.create(SPACE), **options})
    sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}})
    sweeper.hydra_context = SimpleNamespace(config_loader=None)  # type: ignore[assignment]
    sweeper.launcher = launcher = Launcher(answer)  # type: ignore[assignment]
    sweeper.sweep(list(arguments))
    return launcher


def trials(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "trials.json").read_text())["trials"]
    return found


def test_lists_are_choices_and_fixed_words_go_along(tmp_path: Path) -> None:
    launcher = sweep(tmp_path, n_trials=40, arguments=["data.epochs=3", "+extra=[1,2]"])
    assert [number for number, _ in launcher.launched] == list(range(40))
    for _, settings in launcher.launched:
        assert settings["model.bins"] in ("[]", "[1]", "[1,2,3,6]")
        assert 0.001 <= float(settings["lr"]) <= 0.1
        assert (settings["data.epochs"], settings["+extra"]) == ("3", "[1,2]")
    # It learns.
    values = [trial["value"] for trial in trials(tmp_path)]
    assert sum(values[-15:]) / 15 > -0.4  # at random: -0.8
    assert max(values) > 0.8  # of 0.9


def test_the_command_line_counts_more_than_the_file(tmp_path: Path) -> None:
    launcher = sweep(tmp_path, n_trials=3, arguments=["lr=0.02"])
    assert {settings["lr"] for _, settings in launcher.launched} == {"0.02"}
    assert all("lr" not in trial["params"] for trial in trials(tmp_path))


@pytest.mark.parametrize("n_jobs", [1, 3])
@pytest.mark.parametrize("killed_at", [1, 5, 8])
def test_a_killed_search_continues_as_if_it_had_not_been(tmp_path: Path, n_jobs: int, killed_at: int) -> None:
    sweep(tmp_path / "whole", n_trials=10, n_jobs=n_jobs)

    def dying(number: int, settings: dict[str, str]) -> float:
        if number == killed_at:
            raise Killed
        return score(number, settings)

    with pytest.raises(Killed):
        sweep(tmp_path / "parts", dying, n_trials=10, n_jobs=n_jobs)
    again = sweep(tmp_path / "parts", n_trials=10, n_jobs=n_jobs)
    assert trials(tmp_path / "parts") == trials(tmp_path / "whole")
    # What was told before the batch that died is not launched again.
    first = killed_at // n_jobs * n_jobs
    assert [number for number, _ in again.launched] == list(range(first, 10))


def test_a_failed_trial_is_repeated_with_its_own_settings(tmp_path: Path) -> None:
    first = sweep(tmp_path, lambda number, settings: math.nan if number == 1 else score(number, settings), n_trials=4)
    assert [trial["value"] is None for trial in trials(tmp_path)] == [False, True, False, False]
    again = sweep(tmp_path, n_trials=4)
    assert again.launched == [first.launched[1]]
    assert trials(tmp_path)[1]["value"] == pytest.approx(score(1, first.launched[1][1]))


def test_another_space_in_the_same_folder_is_an_error(tmp_path: Path) -> None:
    sweep(tmp_path, n_trials=1)
    with pytest.raises(ValueError, match=r"another space, there model\.bins=\[\],\[1\],\[1,2,3,6\]"):
        sweep(tmp_path, n_trials=2, arguments=["model.bins=[],[2]"])


def test_pruned_trials_are_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    tell = optuna.Study.tell

    def note(study: Any, trial: Any, *arguments: Any, **options: Any) -> Any:
        told.append(tell(study, trial, *arguments, **options))
        return told[-1]

    monkeypatch.setattr(optuna.Study, "tell", note)
    folder = tmp_path / "1"
    folder.mkdir()
    (folder / "pruned.json").write_text("{}")
    (folder / "metrics.csv").write_text("epoch,val/miou\n0,0.1\n1,0.2\n")

    class Here(Launcher):
        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
            returned = super().launch(job_overrides, initial_job_idx)
            for place, found in enumerate(returned):
                found.hydra_cfg.hydra.runtime.output_dir = str(tmp_path / str(initial_job_idx + place))  # type: ignore
            return returned

    monkeypatch.setitem(globals(), "Launcher", Here)
    sweep(tmp_path, n_trials=2)
    assert [trial.state.name for trial in told] == ["COMPLETE", "PRUNED"]
    assert told[1].intermediate_values == {0: 0.1, 1: 0.2}
    sweep(tmp_path, n_trials=3)  # rebuilt from the file
    assert trials(tmp_path)[1]["steps"] == {"0": 0.1, "1": 0.2}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("interval(1,8)", FloatDistribution(1.0, 8.0)),
        ("int(interval(1,8))", IntDistribution(1, 8)),
        ("tag(log,int(interval(1,8)))", IntDistribution(1, 8, log=True)),
        ("interval(0.1,0.8)", FloatDistribution(0.1, 0.8)),
        ("tag(log,interval(1e-4,1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("range(1,10,3)", IntDistribution(1, 7, step=3)),  # Hydra's range leaves out its end
        ("range(0.0,1.0,0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("choice(a,b)", CategoricalDistribution(["a", "b"])),
        ("[],[1],[1,2]", CategoricalDistribution(["[]", "[1]", "[1,2]"])),
        ("true,false", CategoricalDistribution(["True", "False"])),
    ],
)
def test_hydras_words_as_distributions(words: str, expected: Any) -> None:
    assert distribution(OverridesParser.create().parse_overrides([f"x={words}"])[0]) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "up"}, "direction='up' must be maximize or minimize"),
        ({"n_trials": 0}, "n_trials=0 must be at least 1"),
        ({"params": OmegaConf.create({})}, "has nothing to search"),
        ({"sampler": OmegaConf.create({"_target_": "optuna.samplers.TPESampler", "sed": 1})}, "did you mean 'seed'"),
    ],
)
def test_mistakes(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sweep(tmp_path, **options)
