"""A sweep's outcome for the screen and for ``sweep.json``."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from pspnet_lightning.report.content import Content, short
from pspnet_lightning.report.tables import comparison_words
from pspnet_lightning.report.verdict import as_score


def sweep_table(content: Content) -> Table:
    """One row for each setting, the best first: mean, standard deviation and number of its seeds and folds.

    The last columns are those of the report: the difference to the reference with its 95 % interval, and whether it
    is shown.
    """
    table = Table(title=content.metric_name, title_justify="left")
    for key in content.keys:
        table.add_column(escape(key), overflow="fold")
    for heading in ("n", "mean", "std", f"to {'[1,2,3,6]' if content.to_paper else 'the best'}, 95 %"):
        table.add_column(heading, justify="right")
    table.add_column("shown")
    for group in content.groups:
        lost = f" of {len(group.jobs)}" if group.n < len(group.jobs) else ""
        words = comparison_words(content, group)
        values = (escape(short(group.settings[key])) for key in content.keys)
        scores = (as_score(content, group.mean), as_score(content, group.std))
        table.add_row(*values, f"{group.n}{lost}", *scores, words.difference, words.status)
    return table


def outcome(content: Content) -> dict[str, Any]:
    """The same as plain types, for JSON."""
    return {
        "metric": content.metric,
        "mode": content.mode,
        "best": None if content.best is None else dict(content.best.settings),
        "groups": [
            {
                "settings": dict(group.settings),
                "n": group.n,
                "mean": group.mean,
                "std": group.std,
                "jobs": [job.name for job in group.jobs],
            }
            for group in content.groups
        ],
        "reference": content.reference,
        "comparisons": [
            {
                "settings": dict(item.difference.group.settings),
                "reference": dict(item.difference.baseline.settings),
                "n": item.difference.n,
                "mean": item.difference.mean,
                "low": item.difference.low,
                "high": item.difference.high,
                "p": item.difference.p,
                "p_adjusted": item.adjusted,
                "shown": item.shown,
                "pairs_needed": item.pairs_needed,
            }
            for item in content.comparisons.values()
        ],
        "jobs": [
            {"name": job.name, "status": job.status, "objective": job.objective, "error": job.error}
            for job in content.jobs
        ],
    }
