"""A policy of 27 words that is optimised in a second, against rewards that are functions of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, permutations
from pathlib import Path
from typing import Any

import toy
from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy.causal import load_policy
from holdtrue.policy.critic import of_policy
from holdtrue.policy.prompts import read_prompts
from holdtrue.policy.rewards import FunctionJudge, RewardStack
from holdtrue.policy.sampler import SharedPrefixSampler
from holdtrue.policy.settings import RLSettings, build
from holdtrue.policy.trainer import Optimisation, PolicyTrainer
from holdtrue.rundir import RunDir

KIND = 6
"""Id of the word ``kind``."""
TRAINING = {"max_steps": 6, "prompts_per_step": 4, "group": 4, "learning_rate": 0.01, "save_steps": 2}


def kindness(prompts: Any, texts: Any, completion_ids: Sequence[Sequence[int]]) -> list[float]:
    """Share of an answer's tokens that are ``kind``."""
    return [list(ids).count(KIND) / len(ids) for ids in completion_ids]


def write(folder: Path, prompts: int = 12) -> Path:
    """A policy in ``policy`` and its prompts in ``prompts.jsonl``."""
    toy.write_model(folder / "policy")
    pairs = islice(permutations(toy.TOPICS, 2), prompts)
    rows = [{"prompt": f"tell about {' '.join(pair)} ?"} for pair in pairs]
    toy.write_pairs(folder / "prompts.jsonl", 0, rows=rows)
    return folder


def settings(folder: Path, **changes: Any) -> RLSettings:
    """Settings of a short run on what :func:`write` wrote; ``changes`` by section."""
    values: dict[str, Any] = {
        "policy": {"path": str(folder / "policy")},
        "data": {"prompts": [str(folder / "prompts.jsonl")]},
        "rewards": [{"function": "kindness.py:kindness"}],
        "decoding": {"max_new_tokens": 12},
        "guard": {"on_hit": "none", "calibration": 64},
        "training": TRAINING,
    }
    for section, value in changes.items():
        old = values.get(section)
        values[section] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return build(values)


def trainer(made: RLSettings, run: RunDir, function: Any = kindness, **options: Any) -> PolicyTrainer:
    """A trainer of these settings with a function (or a judge) as the one reward."""
    judges = [function if hasattr(function, "judge") else FunctionJudge(function, "kindness")]
    policy, tokenizer = load_policy(made.policy, made.seed)
    vocabulary = Vocabulary.of(tokenizer)
    read = read_prompts(made.data, tokenizer, 128, made.decoding.max_new_tokens)
    if "values" in made.algorithm.needs:
        options.setdefault("critic", of_policy(policy, made.policy.lora, made.seed))
    job = Optimisation(
        policy=policy,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        sampler=SharedPrefixSampler(vocabulary, made.decoding),
        rewards=RewardStack(judges, made.rewards, made.guard, made.shaping, made.decoding.max_new_tokens),
        prompts=read.train,
        held_out=read.held_out,
        settings=made,
        run=run,
        learning_rate=made.training.learning_rate or 0.01,
        **options,
    )
    return PolicyTrainer(job)
