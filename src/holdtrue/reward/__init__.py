"""Reward models: backbone, pool and head; saving, loading, scoring and proving them."""
