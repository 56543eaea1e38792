"""A sweep's folder read back: jobs, groups over seeds and folds, mean, standard deviation, paired differences."""

from pspnet_lightning.sweeps.groups import (
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
from pspnet_lightning.sweeps.jobs import Job, history, job_folders, read_job, read_sweep

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
