"""The health of rollouts on token ids: cycles, loops, metrics, change detection; probes. No torch."""
