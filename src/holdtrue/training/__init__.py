"""Training: the loop and what keeps it going (checkpoints, schedules, processes, trackers)."""
