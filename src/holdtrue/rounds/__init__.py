"""Rounds: a policy optimised, answered anew and its reward model refreshed, again and again.

    reference -> reward model -> [ RL -> fresh answers -> refresh -> telemetry ] x rounds

Every part is an ordinary run in a folder of its own, so rounds that were stopped anywhere go on from there.
"""
