"""The rollout doctor: why a policy repeats itself, before, during and after training. No torch."""
