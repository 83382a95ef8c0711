"""Bradley-Terry loss under the name of its Anthropic form, log(1 + exp(-gap)).

    loss = log(1 + exp(r_rejected - r_chosen))          [nats]

The same function as :mod:`~holdtrue.losses.bradley_terry` (arXiv 2204.05862, section 2.2). As printed it
overflows in float32 beyond a gap of -88; here both are computed by the same stable ``softplus``.

Needs comparisons. Choose either name; this one is for settings that follow a paper that uses it.
"""

from holdtrue.losses.bradley_terry import BradleyTerry


class LogExp(BradleyTerry):
    """log(1 + exp(-gap)), the Anthropic form of Bradley-Terry; the same numbers by another name."""
