"""`hydra/sweeper=optuna`: Hydra's sweeper interface on a current Optuna.

hydra-optuna-sweeper 1.3.0, the plugin of that name, needs Optuna 2 (of 2022), cannot store its study beside
SQLAlchemy 2, raises on an objective that is not a number, and begins at job 0 when it is started again.

The sweep's folder is the study's storage: ``trials.json`` holds what each job was given and what it answered. Trial n
is sampled from a generator of its own, seeded by (seed, n), given the trials before it; so a sweep that was killed
and continued asks for the same trials as one that was not. Optuna's own storages would do this too, but samplers
unpickle what stands in them (``CmaEsSampler`` its state), and a sweep's folder may come from somebody else:
``trials.json`` is numbers and words only.
"""

from __future__ import annotations

import logging
import math
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from pspnet_lightning.config import as_plain, build
from pspnet_lightning.launch.sweep_job import STOPPED
from pspnet_lightning.runs import history, read_job
from pspnet_lightning.runs.json_files import write_json
from pspnet_lightning.runs.plain_files import read_json

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

log = logging.getLogger(__name__)


class OptunaSweeper(Sweeper):
    """Asks Optuna for ``n_trials`` trials, ``n_jobs`` at a time, and hands them to the launcher.

    ``params`` and the command line give the search space in Hydra's words: ``choice(...)`` or a list of commas,
    ``interval(low, high)``, ``tag(log, interval(low, high))``, ``range(...)``; anything else is fixed. Lists are
    choices like any other: ``model.bins=choice([],[1],[1,2,3,6])``. ``sampler`` is a node of optuna.samplers.

    Raises ValueError where Optuna is not installed, nothing is to be searched, or the folder's trials are of another
    search space.
    """

    def __init__(
        self,
        sampler: DictConfig,
        direction: str = "maximize",
        n_trials: int = 20,
        n_jobs: int = 1,
        params: DictConfig | None = None,
    ) -> None:
        if direction not in ("maximize", "minimize"):
            raise ValueError(f"hydra.sweeper.direction={direction!r} must be maximize or minimize")
        for name, value in (("n_trials", n_trials), ("n_jobs", n_jobs)):
            if value < 1:
                raise ValueError(f"hydra.sweeper.{name}={value} must be at least 1")
        self.sampler: dict[str, Any] = as_plain(sampler)
        self.direction = direction
        self.n_trials = n_trials
        self.n_jobs = n_jobs
        self.params: dict[str, Any] = as_plain(params) or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.hydra_context = hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        assert self.config is not None
        optuna = _optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        space, fixed, words = self._space(arguments)
        trials = _Trials(folder / "trials.json", words)
        study = optuna.create_study(direction=self.direction, sampler=self._sampler(0))

        waiting = []
        for number, known in enumerate(trials.known):
            if known["value"] is not None:
                study.add_trial(_as_trial(known, space))
            else:
                study.enqueue_trial(known["params"])
                waiting.append(self._ask(study, space, number))
        while waiting or len(trials.known) < self.n_trials:
            batch, waiting = waiting[: self.n_jobs], waiting[self.n_jobs :]
            while len(batch) < self.n_jobs and len(trials.known) < self.n_trials:
                trial = self._ask(study, space, len(trials.known))
                trials.add(trial.params)
                batch.append(trial)
            for trial, answer in self._launch(batch, fixed):
                trials.tell(trial.number, _tell(study, trial, answer))
            if (folder / STOPPED).is_file():
                return

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        node = dict(self.sampler)
        if node.get("seed") is not None:
            node["seed"] = zlib.crc32(f"{node['seed']}/{number}".encode())
        sampler: optuna.samplers.BaseSampler = build(node, "hydra.sweeper.sampler")
        return sampler

    def _ask(self, study: optuna.Study, space: Mapping[str, BaseDistribution], number: int) -> optuna.Trial:
        if self.sampler.get("seed") is not None:
            study.sampler = self._sampler(number)
        trial = study.ask(dict(space))
        assert trial.number == number, "trials are numbered like the jobs"
        return trial

    def _launch(self, batch: Sequence[optuna.Trial], fixed: Sequence[str]) -> list[tuple[optuna.Trial, JobReturn]]:
        """A launcher numbers its jobs from a first one: trials that do not follow each other are launched apart."""
        assert self.launcher is not None
        answers: list[tuple[optuna.Trial, JobReturn]] = []
        rest = list(batch)
        while rest:
            first = rest[0].number
            run = [trial for place, trial in enumerate(rest) if trial.number == first + place]
            rest = rest[len(run) :]
            overrides = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in run]
            returned = self.launcher.launch(overrides, initial_job_idx=first)
            answers += zip(run, returned, strict=True)
        return answers

    def _space(self, arguments: list[str]) -> tuple[dict[str, BaseDistribution], list[str], dict[str, str]]:
        """What is searched, what is fixed (as words of a command line), and the former as text."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        given = parser.parse_overrides([*(f"{key}={value}" for key, value in self.params.items()), *arguments])
        # The command line comes last and counts.
        last = {override.get_key_element(): override for override in given}
        swept = {key: override for key, override in last.items() if override.is_sweep_override()}
        if not swept:
            raise ValueError(
                "hydra/sweeper=optuna has nothing to search: give e.g. 'model.bins=[],[1],[1,2,3,6]' or "
                "'optimizer.lr=tag(log, interval(0.001, 0.1))'"
            )
        fixed = [f"{key}={item.get_value_element_as_str()}" for key, item in last.items() if key not in swept]
        words = {key: _text(override) for key, override in swept.items()}
        return {key: distribution(override) for key, override in swept.items()}, fixed, words


def distribution(override: Override) -> BaseDistribution:
    """Optuna's distribution for a sweep in Hydra's words; the ends of an interval belong to it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        log_scale = "log" in value.tags
        if isinstance(value.start, int) and isinstance(value.end, int):
            return IntDistribution(value.start, value.end, log=log_scale)
        return FloatDistribution(value.start, value.end, log=log_scale)
    if isinstance(value, RangeSweep) and not value.shuffle:
        numbers = list(value.range())
        if len(numbers) > 1:
            step = abs(numbers[1] - numbers[0])
            if isinstance(step, int):
                return IntDistribution(int(min(numbers)), int(max(numbers)), step=step)
            return FloatDistribution(min(numbers), max(numbers), step=step)
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def _text(override: Override) -> str:
    value = override.value()
    if isinstance(value, IntervalSweep):
        return f"interval({value.start},{value.end}){' log' if 'log' in value.tags else ''}"
    return ",".join(override.sweep_string_iterator())


def _is_record(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and isinstance(content.get("space"), dict)
        and isinstance(content.get("trials"), list)
        and all(isinstance(trial, dict) and isinstance(trial.get("params"), dict) for trial in content["trials"])
    )


class _Trials:
    """``trials.json``: the search space, and the parameters and the answer of each trial, by number."""

    def __init__(self, path: Path, space: Mapping[str, str]) -> None:
        self.path = path
        self.space = dict(space)
        self.known: list[dict[str, Any]] = []
        if path.is_file():
            content = read_json(path)
            if not _is_record(content):
                raise ValueError(f"{path} is no record of a search; give another hydra.sweep.dir, or remove it")
            changed = [key for key in {**content["space"], **space} if content["space"].get(key) != space.get(key)]
            if changed:
                before = "; ".join(f"{key}={content['space'].get(key, '(not searched)')}" for key in changed)
                raise ValueError(
                    f"{path.parent} was searched in another space, there {before}. Give the same, or another "
                    f"hydra.sweep.dir"
                )
            self.known = content["trials"]

    def add(self, params: Mapping[str, Any]) -> None:
        self.known.append({"params": dict(params), "value": None, "steps": {}, "pruned": False})
        self._write()

    def tell(self, number: int, answer: Mapping[str, Any]) -> None:
        self.known[number].update(answer)
        self._write()

    def _write(self) -> None:
        write_json({"space": self.space, "trials": self.known}, self.path)


def _tell(study: optuna.Study, trial: optuna.Trial, answer: JobReturn) -> dict[str, Any]:
    """What a job answered, told to Optuna; a value that is None where the job failed."""
    from optuna.trial import TrialState

    value = answer.return_value if answer.status == JobStatus.COMPLETED else math.nan
    if not isinstance(value, int | float) or not math.isfinite(value):
        study.tell(trial, state=TrialState.FAIL)
        return {"value": None}
    folder = Path(answer.hydra_cfg.hydra.runtime.output_dir) if answer.hydra_cfg is not None else Path()
    if not read_job(folder).pruned:
        study.tell(trial, value)
        return {"value": value}
    steps = history(folder, answer.cfg.objective) if answer.cfg is not None else {}
    for epoch, reached in steps.items():
        trial.report(reached, epoch)
    study.tell(trial, state=TrialState.PRUNED)
    return {"value": value, "pruned": True, "steps": {str(epoch): reached for epoch, reached in steps.items()}}


def _as_trial(known: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> optuna.trial.FrozenTrial:
    from optuna.trial import TrialState, create_trial

    return create_trial(
        params=known["params"],
        distributions=dict(space),
        value=None if known["pruned"] else known["value"],
        state=TrialState.PRUNED if known["pruned"] else TrialState.COMPLETE,
        intermediate_values={int(epoch): value for epoch, value in known["steps"].items()},
    )


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ValueError("hydra/sweeper=optuna needs Optuna: pip install 'pspnet-lightning[optuna]'") from error
    return optuna


def register() -> None:
    """Makes the sweeper known to Hydra, which takes plugins from a package named hydra_plugins only.

    That package belongs to whichever plugins are installed; here a module of it is this one under a second name.
    """
    name = OptunaSweeper.__module__ = "hydra_plugins.pspnet_lightning"
    Plugins.instance().register(OptunaSweeper)  # has looked through what is installed
    package = sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
    sys.modules[name] = sys.modules[__name__]
    setattr(package, name.rpartition(".")[2], sys.modules[name])
