"""``holdtrue goldworld``: what each way to refresh a reward model is worth where the true reward is known.

In the support-desk world a proxy is trained on noisy pairs, a policy is optimised against it in rounds, and
the true reward of everything it writes is known. An arm is a way to refresh the proxy between rounds; all
arms of a seed share the world, the first proxy and the first round, so that they are compared seed by seed.
"""
