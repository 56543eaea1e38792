"""A sweep's outcome for the screen and for ``sweep.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from pspnet_lightning.runs.groups import Difference, Group, best_group, group_jobs, paired_differences
from pspnet_lightning.runs.jobs import Job


def sweep_table(jobs: Sequence[Job], metric: str | None = None, mode: str = "max") -> Table:
    """One row for each setting, the best first: mean, standard deviation and number of its seeds and folds.

    The last column is the paired difference to the best setting with its 95 % interval.
    """
    groups = _ranked(group_jobs(jobs, metric), mode)
    best = best_group(groups, mode)
    differences = {id(item.group): item for item in paired_differences(groups, best)} if best else {}
    keys = list(groups[0].settings)
    table = Table(title=metric or jobs[0].objective_name, title_justify="left")
    for key in keys:
        table.add_column(key, overflow="fold")
    for heading in ("n", "mean", "std", "to the best, 95 %"):
        table.add_column(heading, justify="right")
    for group in groups:
        lost = f" of {len(group.jobs)}" if group.n < len(group.jobs) else ""
        last = "best" if group is best else shown_difference(differences.get(id(group)))
        values = (short(group.settings[key]) for key in keys)
        table.add_row(*values, f"{group.n}{lost}", _number(group.mean), _number(group.std), last)
    return table


def recommendation(jobs: Sequence[Job], metric: str | None = None, mode: str = "max") -> str | None:
    """The best setting in a sentence, and which others the sweep cannot tell from it; None where nothing finished."""
    groups = group_jobs(jobs, metric)
    best = best_group(groups, mode)
    if best is None or len(groups) < 2:
        return None
    spread = "" if best.std is None else f" ± {best.std:.4f}"
    label = ", ".join(f"{key}={short(value)}" for key, value in best.settings.items())
    text = f"best: {label}   ({metric or jobs[0].objective_name} {best.mean:.4f}{spread}, n = {best.n})"
    close = [item.group.label for item in paired_differences(groups, best) if item.within_noise]
    if close:
        text += f"\nnot told from it at 95 % by the paired differences: {'; '.join(close)}"
    elif best.n == 1:
        text += "\none run each: a difference may be chance; sweep seeds or folds too (seed=0,1,2)"
    return text


def outcome(jobs: Sequence[Job], metric: str | None = None, mode: str = "max") -> dict[str, Any]:
    """The same as plain types, for JSON."""
    groups = _ranked(group_jobs(jobs, metric), mode)
    best = best_group(groups, mode)
    differences = paired_differences(groups, best) if best else []
    return {
        "metric": metric or jobs[0].objective_name,
        "mode": mode,
        "best": None if best is None else dict(best.settings),
        "groups": [
            {
                "settings": dict(group.settings),
                "n": group.n,
                "mean": group.mean,
                "std": group.std,
                "jobs": [job.name for job in group.jobs],
            }
            for group in groups
        ],
        "differences_to_the_best": [
            {"settings": dict(item.group.settings), "n": item.n, "mean": item.mean, "low": item.low, "high": item.high}
            for item in differences
        ],
        "jobs": [
            {"name": job.name, "status": job.status, "objective": job.objective, "error": job.error} for job in jobs
        ],
    }


def short(setting: str) -> str:
    """A long decimal fraction at four digits: what a sampler drew is nothing to read."""
    try:
        return f"{float(setting):.4g}" if len(setting) > 8 else setting
    except ValueError:
        return setting


def shown_difference(difference: Difference | None) -> str:
    """-0.0123 [-0.0200, -0.0046]; empty where there is no pair."""
    if difference is None:
        return ""
    interval = ""
    if difference.low is not None and difference.high is not None:
        interval = f" [{difference.low:+.4f}, {difference.high:+.4f}]"
    return f"{difference.mean:+.4f}{interval}"


def _ranked(groups: Sequence[Group], mode: str) -> list[Group]:
    sign = 1 if mode == "min" else -1
    return sorted(groups, key=lambda group: (group.mean is None, sign * (group.mean or 0.0)))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
