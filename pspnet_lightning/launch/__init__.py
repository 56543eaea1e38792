"""What starts, repeats, resumes and surrounds a job: the command line, ranks, sweeps, locks, preflight."""
