"""The report's files, each written beside its target and renamed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pspnet_lightning.disk import replacing
from pspnet_lightning.report.content import Content
from pspnet_lightning.report.html import html_report
from pspnet_lightning.report.markdown import markdown_report
from pspnet_lightning.report.tables import csv_report

_FILES: dict[str, Callable[[Content], str]] = {
    "report.html": html_report,
    "report.md": markdown_report,
    "report.csv": csv_report,
}


def write_report(content: Content, folder: Path) -> list[Path]:
    """Writes ``report.html``, ``report.md`` and ``report.csv`` into ``folder``; the paths, in this order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, make in _FILES.items():
        written = make(content).encode(errors="backslashreplace")  # names of files may hold bytes that are no text
        with replacing(folder / name) as part:
            part.write_bytes(written)
        paths.append(folder / name)
    return paths
