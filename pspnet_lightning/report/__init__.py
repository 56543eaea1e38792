"""The report of a run or a sweep: one HTML file that opens offline, the same as Markdown, and a CSV of the jobs."""

from pspnet_lightning.report.content import Content, gather
from pspnet_lightning.report.files import write_report
from pspnet_lightning.report.verdict import headline, verdict

__all__ = ["Content", "gather", "headline", "verdict", "write_report"]
