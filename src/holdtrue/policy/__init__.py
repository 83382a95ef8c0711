"""Policy optimisation against a reward: generating with a guard, advantages, losses.

N rows (P prompts times G answers, those of a prompt together), T tokens. What is not a token of the policy
(padding, a tool's words) is outside the mask and moves nothing.
"""
