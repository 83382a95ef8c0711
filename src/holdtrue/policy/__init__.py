"""Policies: generating with a guard against loops and tokens no answer may hold."""
