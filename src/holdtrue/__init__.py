"""holdtrue: reward models that hold true while the policy moves."""

__version__ = "0.1.0"
