"""Policy optimisation against a reward: sampling, advantages, losses, the loop.

N rows (P prompts times G answers, those of a prompt together), T tokens. What is not a token of the policy
(padding, a tool's words) is outside the mask and moves nothing.
"""
