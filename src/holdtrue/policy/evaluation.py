"""Policies judged on prompts they were never trained on: what is asked, the answers, and their rewards.

Every policy answers the same prompts with the same decoding and seed. A prompt that any of them was trained
on (:mod:`holdtrue.policy.lineage`), that repeats, or that leaves one of them no room to answer is left out
for all, and counted.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from holdtrue.errors import DataError, SettingsError
from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy.causal import load_policy, vocabulary_of
from holdtrue.policy.decoding import Decoding
from holdtrue.policy.lineage import Lineage
from holdtrue.policy.prompts import encode, read_splits
from holdtrue.policy.rewards import Judge
from holdtrue.policy.sampler import SharedPrefixSampler
from holdtrue.policy.settings import PolicySettings, PromptSettings
from holdtrue.records import Group, Rollout
from holdtrue.rundir import find_model
from holdtrue.settings import Section, build_section
from holdtrue.tokens.conversation import Encoder, model_max_length

Floats = NDArray[np.float64]
_JUDGED = 32
"""Prompts whose answers are judged at once."""


class AskedSettings(Section):
    """What is asked."""

    prompts: list[str] = Field([])
    """Files (JSONL, JSON, Parquet) or folders of them: rows with ``prompt`` (text or messages), or rows of
    any layout holdtrue reads, of which the prompt is taken."""
    plain_text: Literal["chat", "raw"] = "chat"
    """Plain strings: ``chat`` makes a user turn of them; ``raw`` lets the policy continue them as they
    stand. By default as in the policy's run."""


class PolicyEvaluationSettings(Section):
    """How a policy is evaluated."""

    data: AskedSettings = AskedSettings()
    decoding: Decoding = Decoding()
    """How answers are drawn, and when the loop guard ends one. By default as in the policy's run."""
    group: int = Field(1, gt=0)
    """Answers to each prompt."""
    seed: int = Field(42, ge=0)
    """Seed of the draws, the same for both policies."""
    success: float | None = None
    """An answer with this reward or more is a success; without it no success is counted."""
    slices: list[str] = Field([])
    """Columns of the prompts' rows that everything is broken down by. By default every one with 2 to 20
    values."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Level of every interval."""


def build(values: Mapping[str, Any], lineages: Sequence[Lineage] = ()) -> PolicyEvaluationSettings:
    """Typed settings; decoding and ``plain_text`` by default as in the first run that has them.

    Raises:
        SettingsError: unknown key (names the nearest), wrong type or out of range (says what was seen).
    """
    decoding = next((one.decoding for one in lineages if one.decoding), {})
    plain = next((one.plain_text for one in lineages if one.plain_text), "chat")
    merged = {**values}
    for section, defaults in (("decoding", decoding), ("data", {"plain_text": plain})):
        if isinstance(given := merged.get(section) or {}, Mapping):
            merged[section] = {**defaults, **given}
    return build_section(merged, PolicyEvaluationSettings)


@dataclass(frozen=True)
class Contestant:
    """A policy that answers.

    Attributes:
        name: as the user calls it.
        folder: of its weights and tokenizer (or a hub name).
        room: most tokens of a prompt beside its answer.
    """

    name: str
    folder: str
    model: Any
    tokenizer: Any
    vocabulary: Vocabulary
    room: float


def enter(name: str, decoding: Decoding, device: str, trust_remote_code: bool = False) -> Contestant:
    """Load the policy of a run, a model folder or an adapter's.

    Raises:
        DataError: the run is not finished. ModelError: it cannot be read, is no causal LM or declares no end.
        SettingsError: its context leaves no room for a prompt.
    """
    folder = str(find_model(name)) if Path(name).exists() else name
    model, tokenizer = load_policy(PolicySettings(path=folder), 0, device, trust_remote_code)
    vocabulary = vocabulary_of(model, tokenizer, name)
    context = model_max_length(model.config, tokenizer)
    if context is not None and context <= decoding.max_new_tokens:
        raise SettingsError(
            f"policy {name} has a context of {context} tokens, so answers of {decoding.max_new_tokens} leave "
            "no room for a prompt; set decoding.max_new_tokens lower"
        )
    room = math.inf if context is None else context - decoding.max_new_tokens
    return Contestant(name, folder, model.eval(), tokenizer, vocabulary, room)


@dataclass(frozen=True)
class Asked:
    """P prompts for several policies.

    Attributes:
        prompts: groups without answers, ``meta`` being the other columns of their rows.
        ids: of each policy, what it reads of each prompt.
        left_out: reason -> prompts.
    """

    prompts: Sequence[Group]
    ids: Sequence[Sequence[NDArray[np.int64]]]
    left_out: dict[str, int]


def ask(
    settings: PolicyEvaluationSettings, contestants: Sequence[Contestant], lineages: Sequence[Lineage]
) -> Asked:
    """The prompts that every policy can answer and none was trained on, each once.

    Raises:
        DataError: a file cannot be read, or no prompt is left.
    """
    left_out: Counter[str] = Counter()
    files = PromptSettings(prompts=settings.data.prompts, plain_text=settings.data.plain_text)
    encoders = [Encoder(one.tokenizer, max_length=2**31) for one in contestants]
    seen: set[str] = set()
    prompts, ids = [], []
    for group in read_splits(files, left_out)[0]:
        key = group.prompt_text
        own = [encode(group.prompt, encoder) for encoder in encoders]
        full = [one.name for one, read in zip(contestants, own, strict=True) if len(read) > one.room]
        taught = next((run for one in lineages if (run := one.taught(key))), None)
        if taught:
            left_out[f"trained on by {taught}"] += 1
        elif key in seen:
            left_out["repeated"] += 1
        elif not all(map(len, own)):
            left_out["without a token"] += 1
        elif full:
            left_out[f"too long for the context of {full[0]}"] += 1
        else:
            prompts.append(group)
            ids.append(own)
        seen.add(key)
    if not prompts:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common(3)) or "no rows"
        raise DataError(
            f"no usable prompt in {', '.join(settings.data.prompts)}: {reasons}; give prompts that no policy "
            "was trained on, with room for an answer"
        )
    return Asked(prompts, list(zip(*ids, strict=True)), dict(left_out))


def draw(
    asked: Asked,
    contestants: Sequence[Contestant],
    settings: PolicyEvaluationSettings,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[list[list[Rollout]], list[float]]:
    """For each policy its N = P x G answers, those of a prompt together, and the seconds they took."""
    drawn, seconds = [], []
    for one, ids in zip(contestants, asked.ids, strict=True):
        began = time.perf_counter()
        sampler = SharedPrefixSampler(one.vocabulary, settings.decoding)
        samples = sampler.sample(one.model, ids, settings.group, settings.seed)
        seconds.append(time.perf_counter() - began)
        drawn.append(
            samples.rollouts([group.prompt for group in asked.prompts], one.tokenizer, policy=one.name)
        )
        tell(f"answers  {one.name}: {len(samples):,} in {seconds[-1]:.1f} s")
    return drawn, seconds


def judged(judge: Judge, drawn: Sequence[Sequence[Rollout]], group: int) -> list[Floats]:
    """For each policy (P, G) rewards, NaN where an answer has none.

    All answers to a prompt are judged as one group, so that a judge that compares sees both policies'.
    """
    prompts = len(drawn[0]) // group
    parts = []
    for start in range(0, prompts, _JUDGED):
        places = range(start, min(start + _JUDGED, prompts))
        rows = [row for p in places for own in drawn for row in own[p * group : (p + 1) * group]]
        parts.append(judge.judge(rows, group * len(drawn)))
    rewards_PKG = np.concatenate(parts).reshape(prompts, len(drawn), group)
    return [rewards_PKG[:, k] for k in range(len(drawn))]
