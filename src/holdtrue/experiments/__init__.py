"""Experiments of many runs: the search for good settings, and what each ingredient of a recipe is worth."""
