"""What a run leaves and how it is read back: its record, its checkpoints, the jobs of a sweep and their statistics."""

from pspnet_lightning.runs.differences import (
    Comparison,
    Difference,
    against_paper,
    compare,
    paired_differences,
)
from pspnet_lightning.runs.groups import (
    PAPER_BINS,
    REPETITIONS,
    Group,
    best_group,
    group_jobs,
    swept_keys,
)
from pspnet_lightning.runs.jobs import Job, history, job_folders, read_job, read_sweep

__all__ = [
    "PAPER_BINS",
    "REPETITIONS",
    "Comparison",
    "Difference",
    "Group",
    "Job",
    "against_paper",
    "best_group",
    "compare",
    "group_jobs",
    "history",
    "job_folders",
    "paired_differences",
    "read_job",
    "read_sweep",
    "swept_keys",
]
