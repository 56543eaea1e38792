"""A sweep's folder read back: jobs, groups over seeds and folds, mean, standard deviation, paired differences."""

from pspnet_lightning.sweeps.groups import (
    REPETITIONS,
    Difference,
    Group,
    best_group,
    group_jobs,
    paired_differences,
    swept_keys,
)
from pspnet_lightning.sweeps.jobs import Job, history, job_folders, read_job, read_sweep

__all__ = [
    "REPETITIONS",
    "Difference",
    "Group",
    "Job",
    "best_group",
    "group_jobs",
    "history",
    "job_folders",
    "paired_differences",
    "read_job",
    "read_sweep",
    "swept_keys",
]
