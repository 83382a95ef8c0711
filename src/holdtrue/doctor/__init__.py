"""The rollout doctor: why a policy repeats itself, before, during and after training. No torch."""

from holdtrue.health.monitor import Monitor

__all__ = ["Monitor"]
