"""The health of rollouts on token ids: cycles, a loop detector, metrics, change detection. No torch."""
