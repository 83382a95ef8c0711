"""Random steps of policy optimisation, for tests of the algorithms: P prompts, G answers each, T tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from holdtrue.policy.inputs import LossInputs, Scored

GROUP, MAX_NEW_TOKENS = 3, 10


def scored(seed: int, prompts: int = 4, tokens: int = 6, group: int = GROUP) -> Scored:
    """All there can be to a step; one row in five is not kept."""
    random = torch.Generator().manual_seed(seed)
    rows = prompts * group
    lengths = torch.randint(1, tokens + 1, (rows,), generator=random)
    old = -torch.rand(rows, tokens, generator=random, dtype=torch.float64)
    return Scored(
        rewards=torch.randn(rows, generator=random, dtype=torch.float64),
        mask=torch.arange(tokens) < lengths[:, None],
        keep=torch.rand(rows, generator=random) < 0.8,
        group=group,
        kl_coef=0.1,
        old_logprobs=old,
        reference_logprobs=old + 0.3 * torch.randn(rows, tokens, generator=random, dtype=torch.float64),
        old_values=torch.randn(rows, tokens, generator=random, dtype=torch.float64),
    )


def inputs(
    seed: int, step: Scored, advantages: Tensor, returns: Tensor | None, drift: float = 0.2
) -> LossInputs:
    """The step's rows under a policy that has moved; log-probs, values and entropy are leaves."""
    random = torch.Generator().manual_seed(seed + 1)
    assert step.old_logprobs is not None and step.old_values is not None

    def near(value: Tensor) -> Tensor:
        moved = value + drift * torch.randn(value.shape, generator=random, dtype=value.dtype)
        return moved.requires_grad_()

    return LossInputs(
        logprobs=near(step.old_logprobs),
        old_logprobs=step.old_logprobs,
        mask=step.counted,
        advantages=advantages,
        max_new_tokens=MAX_NEW_TOKENS,
        kl_coef=step.kl_coef,
        reference_logprobs=step.reference_logprobs,
        values=near(step.old_values),
        old_values=step.old_values,
        returns=returns,
        entropy=near(-step.old_logprobs),
    )


def select(step: Scored | LossInputs, rows: Tensor) -> dict[str, Tensor]:
    """Changes that leave only these rows, for ``dataclasses.replace``."""
    return {name: value[rows] for name, value in vars(step).items() if isinstance(value, Tensor)}


def pad(step: Scored | LossInputs, width: int, filler: float) -> dict[str, Tensor]:
    """Changes that add columns of filler outside the mask on the right."""
    changes = {}
    for name, value in vars(step).items():
        if isinstance(value, Tensor) and value.ndim == 2:
            fill = False if value.dtype == torch.bool else filler
            changes[name] = torch.cat([value, value.new_full((len(value), width), fill)], 1)
    return changes
