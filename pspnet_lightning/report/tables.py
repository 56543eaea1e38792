"""Words and numbers that the HTML, the Markdown and the CSV share; and the CSV itself."""

from __future__ import annotations

import csv
import io
import statistics
from dataclasses import dataclass

from pspnet_lightning.report.content import Content
from pspnet_lightning.report.verdict import difference, p_value, status
from pspnet_lightning.runs import Group, Job, history
from pspnet_lightning.runs.fields import cell


@dataclass(frozen=True)
class ComparisonWords:
    """A setting's comparison in words: the difference with its interval, pairs won, p value, whether it is shown."""

    difference: str
    pairs: str
    p: str
    status: str


def comparison_words(content: Content, group: Group) -> ComparisonWords:
    """Empty words where there is nothing to compare."""
    found = content.comparisons.get(id(group))
    if found is None:
        return ComparisonWords("reference" if id(group) in content.references else "", "", "", "")
    item = found.difference
    p = "" if found.adjusted is None else p_value(found.adjusted)
    return ComparisonWords(difference(content, item), f"{item.wins(content.mode)} of {item.n}", p, status(found))


@dataclass(frozen=True)
class JobFacts:
    """What a job took and gave."""

    epochs: int
    best_epoch: int | None
    seconds_per_epoch: float | None
    images_per_second: float | None
    host_bytes: int | None
    device_bytes: int | None
    attempts: int | None


def job_facts(content: Content, job: Job) -> JobFacts:
    """From run.json and metrics.csv; None for what is not there."""
    scores = history(job.folder, content.metric if "/" in content.metric else f"val/{content.metric}")
    epochs = len(history(job.folder, "train/loss") or scores)
    rates = history(job.folder, "images_per_second")
    memory = job.record.get("peak_memory_bytes") or {}
    choose = min if content.mode == "min" else max
    return JobFacts(
        epochs=epochs,
        best_epoch=choose(scores, key=scores.__getitem__) + 1 if scores else None,
        seconds_per_epoch=job.seconds / epochs if job.seconds and epochs else None,
        images_per_second=statistics.fmean(rates.values()) if rates else None,
        host_bytes=memory.get("host") or None,
        device_bytes=memory.get("device") or None,
        attempts=job.record.get("attempts"),
    )


def spent(seconds: float | None) -> str:
    """ "2 h 05 min", "3 min 07 s", "9.4 s"; empty for None."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def gigabytes(count: int | None) -> str:
    """Bytes as "1.23 GB"; empty for None."""
    return "" if count is None else f"{count / 1e9:.2f} GB"


def csv_report(content: Content) -> str:
    """One row for each job: what was set, how it ended, its scores (shares of 1), what it took."""
    keys = [key for key, _ in content.swept]
    classes = [row.name for row in content.classes]
    columns = ["job", "status", "pruned", *keys, content.metric, "miou", "macc", "aacc"]
    columns += [f"iou/{name}" for name in classes]
    columns += ["epochs", "best_epoch", "seconds", "images_per_second", "host_bytes", "device_bytes", "attempts"]
    columns += ["error", "folder"]
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(map(cell, columns))
    for job in content.jobs:
        facts, iou = job_facts(content, job), job.results.get("iou") or []
        row = [job.name, job.status, job.pruned, *(job.setting(key) for key in keys), job.value(content.metric)]
        row += [job.results.get(key) for key in ("miou", "macc", "aacc")]
        row += [iou[index] if index < len(iou) else None for index in range(len(classes))]
        row += [facts.epochs, facts.best_epoch, job.seconds, facts.images_per_second]
        row += [facts.host_bytes, facts.device_bytes, facts.attempts, job.error, str(job.folder)]
        writer.writerow(map(cell, row))
    return stream.getvalue()
