"""How a reward model is brought up to date when the policy has moved away from the answers it was trained on.

    context (model, pairs, answers of the current policy, labeller, budget, seed) -> (scorer, report)

One strategy is one module of :mod:`holdtrue.refresh.methods`. All train with the one training loop and differ
in the rows they give it, or in its gradient step. :mod:`holdtrue.refresh.telemetry` measures the shift.
"""
