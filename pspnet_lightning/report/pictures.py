"""The same validation images as every setting of a sweep predicts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pspnet_lightning.runs import Group, Job
from pspnet_lightning.runs.fields import printable
from pspnet_lightning.visualize import read_cells

SHEET = "validation.png"


@dataclass(frozen=True)
class PictureRow:
    """One image: uint8 (h, w, 3) of itself, its truth in colours, and each group's prediction by the group's ``id``."""

    name: str
    image: np.ndarray
    truth: np.ndarray
    predictions: dict[int, np.ndarray]


def picture_rows(groups: Sequence[Group], count: int) -> list[PictureRow]:
    """Up to ``count`` images that all groups show of the seed and fold which most groups have finished.

    They are cut from the runs' ``validation.png``; runs that have none are left out.
    """
    finished = {id(group): _by_repetition(group) for group in groups}
    common = Counter(repetition for jobs in finished.values() for repetition in jobs)
    if not common:
        return []
    chosen = max(common, key=common.__getitem__)  # of equals the first
    sheets = {
        owner: dict(cells)
        for owner, jobs in finished.items()
        if chosen in jobs and (cells := read_cells(jobs[chosen].folder / SHEET))
    }
    if not sheets:
        return []
    first = next(iter(sheets.values()))
    names = [name for name in first if all(name in sheet for sheet in sheets.values())]
    return [
        PictureRow(
            name=printable(name),
            image=first[name]["image"],
            truth=first[name]["truth"],
            predictions={owner: sheet[name]["prediction"] for owner, sheet in sheets.items()},
        )
        for name in names[:count]
    ]


def _by_repetition(group: Group) -> dict[tuple[str, str], Job]:
    done = [job for job in group.jobs if job.finished and not job.pruned]
    return {(job.setting("seed"), job.setting("data.fold")): job for job in reversed(done)}
