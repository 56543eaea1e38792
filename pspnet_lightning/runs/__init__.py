"""What a run leaves and how it is read back: its record, its checkpoints, the jobs of a sweep and their statistics."""

from pspnet_lightning.runs.groups import (
    PAPER_BINS,
    REPETITIONS,
    Difference,
    Group,
    against_paper,
    best_group,
    group_jobs,
    paired_differences,
    swept_keys,
)
from pspnet_lightning.runs.jobs import Job, history, job_folders, read_job, read_sweep

__all__ = [
    "PAPER_BINS",
    "REPETITIONS",
    "Difference",
    "Group",
    "Job",
    "against_paper",
    "best_group",
    "group_jobs",
    "history",
    "job_folders",
    "paired_differences",
    "read_job",
    "read_sweep",
    "swept_keys",
]
