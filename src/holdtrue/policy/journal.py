"""What a step writes down: its metrics, and its answers with what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import Any, get_args

import numpy as np
from torch import Tensor

from holdtrue.policy.rewards import Judged
from holdtrue.policy.samples import PaddedSamples, Samples
from holdtrue.records import Finish, Rollout, as_json

Row = dict[str, Any]


def summary(samples: Samples, judged: Judged) -> Row:
    """A step's rewards and how its answers ended.

    ``entropy`` is -log π of the drawn tokens, an unbiased estimate of the mean entropy in nats per token; an
    algorithm that learns from the entropy itself replaces it by that.
    ``reward_parts`` are means over the answers that are learnt from, as ``reward_whitened`` is.
    """
    raw = judged.raw[judged.raw.isfinite()]
    used = judged.rewards[judged.keep]
    parts = {name: part[judged.keep & part.isfinite()] for name, part in judged.parts.items()}
    finish = {f"finish_{why}": samples.finish.count(why) / len(samples) for why in get_args(Finish)}
    drawn = np.concatenate(list(samples.logprobs))
    return {
        "reward": float(raw.mean()),
        "reward_std": float(raw.std()) if len(raw) > 1 else 0.0,
        "reward_whitened": float(used.mean()) if len(used) else None,
        "reward_parts": {name: mean(part.tolist()) for name, part in parts.items()},
        "length": float(samples.lengths.mean()),
        **finish,
        "entropy": float(-drawn.mean()),
        "excluded": int((~judged.keep).sum()),
        "nan_rewards": judged.nan,
    }


def completed(
    rollouts: Sequence[Rollout],
    judged: Judged,
    advantages: Tensor,
    padded: PaddedSamples,
    trained: Tensor | None,
) -> list[Rollout]:
    """The rollouts with what the step made of them."""
    result = []
    for row, one in enumerate(rollouts):
        inside = padded.completion_NT[row]
        kept = bool(judged.keep[row])
        alone = advantages.ndim == 1
        result.append(
            replace(
                one,
                reward=float(judged.raw[row]),
                meta={**one.meta, "reward_parts": {k: float(part[row]) for k, part in judged.parts.items()}},
                advantage=float(advantages[row]) if alone else advantages[row][inside].tolist(),
                trained_logprobs=trained[row][inside].tolist() if kept and trained is not None else None,
            )
        )
    return result


def as_row(rollout: Rollout) -> Row:
    """A rollout as a row of ``rollouts.jsonl``; what is not known, or not finite, is left out or null."""
    values = {
        **rollout.meta,
        "step": rollout.step,
        "policy": rollout.policy,
        "prompt": as_json(rollout.prompt),
        "answer": as_json(rollout.answer),
        "reward": rollout.reward,
        "advantage": rollout.advantage,
        "finish": rollout.finish,
        "completion_ids": rollout.completion_ids,
        "logprobs": rollout.logprobs,
        "trained_logprobs": rollout.trained_logprobs,
    }
    found: Row = finite({name: value for name, value in values.items() if value is not None})
    return found


def finite(value: Any) -> Any:
    """Plain values with null for numbers that JSON has none for."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def mean(values: Sequence[float | None]) -> float | None:
    """Of the numbers that are known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
