"""The report as Markdown: for a README, an issue, a pull request. Pictures and curves are in the HTML only."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pspnet_lightning.report.content import Content
from pspnet_lightning.report.tables import comparison_words, gigabytes, job_facts, spent
from pspnet_lightning.report.verdict import as_score, headline, method, verdict


def markdown_report(content: Content) -> str:
    """The whole text."""
    parts = [f"# {plain(content.title)}", line(headline(content))]
    facts = [*((key, " · ".join(values)) for key, values in content.swept), *content.facts]
    parts += [f"## What was {'run' if content.single else 'swept'}", table(["", ""], facts)]
    parts += ["## Results", _results(content)]
    if content.classes:
        names = [content.name(group) for group in content.scored]
        rows = [[row.name, *("absent" if iou is None else f"{iou:.1f}" for iou in row.iou)] for row in content.classes]
        parts += ["## Classes", table(["IoU, %", *names], rows)]
    parts += ["## Time and memory", _jobs(content)]
    if content.lost:
        lines = [f"- {line(f'{job.name}: {content.settings(job)}: {content.end(job)}')}" for job in content.lost]
        parts += ["## Failed jobs", "\n".join(lines)]
    commands = "\n".join(line for job in content.jobs for line in content.commands(job))
    # Longer than any row of back-ticks within.
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", commands)), default=0))
    parts += ["## Commands", f"{fence}\n{commands}\n{fence}"]
    parts += [f"## {'In short' if content.single else 'Recommendation'}", *map(line, verdict(content))]
    return "\n\n".join(parts) + "\n"


def _results(content: Content) -> str:
    if content.best is None:
        return "No job has a score yet."
    several = len(content.repetitions) > 1
    heads = [", ".join(content.keys) or "run", *map(content.repetition_name, content.repetitions)]
    heads += ["mean", "std", "n"] if several else []
    heads += ["difference, 95 %", "better", "p (Holm)", "shown"] if content.comparisons else []
    rows = []
    for group in content.groups:
        values = group.by_repetition()
        row = [content.name(group), *(as_score(content, values.get(key)) for key in content.repetitions)]
        row += [as_score(content, group.mean), as_score(content, group.std), str(group.n)] if several else []
        if content.comparisons:
            words = comparison_words(content, group)
            row += [words.difference, words.pairs, words.p, words.status]
        rows.append(row)
    note = f"{line(content.metric_name)} of the best checkpoint."
    if content.comparisons:
        note += f" {method(content)}"
    return f"{table(heads, rows)}\n\n{note}"


def _jobs(content: Content) -> str:
    rows = []
    for job in content.jobs:
        facts = job_facts(content, job)
        rows.append(
            [
                job.name,
                content.settings(job),
                "stopped early" if job.pruned else job.status,
                as_score(content, job.value(content.metric)),
                spent(job.seconds),
                "" if facts.images_per_second is None else f"{facts.images_per_second:.1f}",
                gigabytes(facts.host_bytes),
                gigabytes(facts.device_bytes),
            ]
        )
    return table(
        ["job", "settings", "status", content.metric_name, "time", "images/s", "memory", "of the device"], rows
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of GitHub's Markdown."""
    lines = [list(map(plain, heads)), ["---"] * len(heads), *(list(map(plain, row)) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# What begins markup: code, emphasis, a table's cell, a tag, an entity, the target of a link, an address.
_MARKUP = re.compile(r"[\\`*|]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<=\])[(\[]|:(?=//)")


def plain(text: str) -> str:
    """Text that Markdown shows as it is: names and messages come out of files, and may hold anything."""
    return _MARKUP.sub(r"\\\g<0>", str(text).replace("\n", " "))


def line(text: str) -> str:
    """The same at the beginning of a line, where further characters mean something: headings, quotes, definitions."""
    return re.sub(r"^\s*(?=[\[#>=+~-])", r"\\", plain(text))
