"""Scores groups of answers with a reward model: all that evaluation and policies know of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from holdtrue.records import Group
from holdtrue.reward.comparer import PairComparer, Ranking, judge
from holdtrue.reward.kinds.aspects import Aspects
from holdtrue.reward.store import Loaded
from holdtrue.tokens.conversation import Encoded, Encoder, Ids
from holdtrue.tokens.joint import JointEncoder
from holdtrue.tokens.tree import Tree, common_prefix_length, grow

_MAX_LEAVES = 16
Owner = tuple[str, bytes]
"""Key of a prompt, and the bytes of a conversation's ids."""
NOT_FINITE = "reward is not finite"
"""Why there is no reward where the model gave a number that is none."""


class Scorer(Protocol):
    """Anything that gives each answer of a group a number."""

    def score(self, groups: Sequence[Group]) -> list[NDArray[np.float32]]:
        """One array (N answers,) per group; NaN where an answer could not be scored."""
        ...


@dataclass(frozen=True)
class Scored:
    """Rewards (N,) of a group's answers, NaN where ``reasons`` says why there is none.

    They are made of ``aspects``, by name (N,), or of ``steps``, for each answer where in the text each one
    ends and its value, where the model's kind gives these.
    ``consistent``: for models that compare, whether each of the group's comparisons has the same winner in
    both orders. ``std`` (N,) is how far the members of an ensemble disagree.
    """

    rewards: NDArray[np.float32]
    reasons: tuple[str | None, ...]
    aspects: Mapping[str, NDArray[np.float32]] | None = None
    steps: tuple[tuple[tuple[int, float], ...], ...] | None = None
    consistent: tuple[bool, ...] = ()
    std: NDArray[np.float32] | None = None


def count_reasons(scored: Iterable[Scored]) -> Counter[str]:
    """How many answers have no reward, by reason."""
    return Counter(reason for item in scored for reason in item.reasons if reason)


def by_aspect(scored: Sequence[Scored]) -> dict[str, list[NDArray[np.float32]]]:
    """Each aspect's values, for each group (N answers,)."""
    tables = [item.aspects for item in scored if item.aspects is not None]
    return {name: [table[name] for table in tables] for name in (tables[0] if tables else ())}


def position_consistency(scored: Iterable[Scored]) -> dict[str, float]:
    """Share of comparisons with the same winner in both orders; nothing for models that do not compare."""
    said = [same for item in scored for same in item.consistent]
    return {"position_consistency": float(np.mean(said))} if said else {}


class StreamingScorer(ABC):
    """A Scorer that also says why an answer has no reward, and holds at most ``chunk`` groups at once."""

    chunk: int = 512

    def score(self, groups: Sequence[Group]) -> list[NDArray[np.float32]]:
        """Rewards of every group's answers."""
        return [scored.rewards for scored in self.stream(groups)]

    def stream(self, groups: Iterable[Group]) -> Iterator[Scored]:
        """Rewards group by group, in order, without holding more than a chunk."""
        source = iter(groups)
        while chunk := list(islice(source, self.chunk)):
            yield from self._score_chunk(chunk)

    @abstractmethod
    def _score_chunk(self, groups: Sequence[Group]) -> Iterable[Scored]:
        """Rewards of some groups together, in order."""


class RewardScorer(StreamingScorer):
    """A reward model as a Scorer: batches by tokens, each prompt computed once, order kept.

    Args:
        loaded: the model.
        encoder: how conversations become ids; by default as the model was trained.
        max_tokens_per_pass: unique tokens in one forward pass; bounds memory only.
        chunk: groups encoded and packed together.
        ranking: how rewards are made of comparisons, for models that compare.
        adapter: which of the adapters on the model it scores with, where several share it.
    """

    def __init__(
        self,
        loaded: Loaded,
        encoder: Encoder | JointEncoder | None = None,
        max_tokens_per_pass: int = 8192,
        chunk: int = 512,
        ranking: Ranking = "gap",
        adapter: str | None = None,
    ) -> None:
        self.loaded = loaded
        self.encoder = encoder or loaded.encoder()
        self.max_tokens_per_pass = max_tokens_per_pass
        self.chunk = chunk
        kind = loaded.model.kind
        self._aspects: tuple[str, ...] = kind.labels if isinstance(kind, Aspects) else ()
        self._steps = kind.marks == "steps"
        self.ranking = ranking
        self.adapter = adapter

    def _score_chunk(self, groups: Sequence[Group]) -> list[Scored]:
        if not isinstance(self.encoder, Encoder):
            comparer = PairComparer(self.loaded, self.encoder, self.max_tokens_per_pass)
            judged = judge(comparer, groups, self.ranking)
            return [Scored(j.rewards.astype(np.float32), j.reasons, consistent=j.consistent) for j in judged]
        encoded = list(self.encoder.encode(groups))
        trees, owners = plant(groups, encoded, self.max_tokens_per_pass)
        model = self.loaded.model
        if self.adapter is not None:
            model.classifier.set_adapter(self.adapter)
        rewards: dict[Owner, float] = {}
        parts: dict[Owner, list[float]] = {}
        with torch.inference_mode():
            for batch in model.pack(trees, self.max_tokens_per_pass):
                laid = model.batch([trees[i] for i in batch])
                out = model(laid)
                names = [owner for i in batch for owner in owners[i]]
                rewards.update(zip(names, out.rewards.tolist(), strict=True))
                if self._aspects:
                    parts.update(zip(names, out.logits.tolist(), strict=True))
                elif self._steps:
                    steps = out.steps.split(laid.targets.marks.tolist())
                    parts.update({name: own.tolist() for name, own in zip(names, steps, strict=True)})
        results = hand_out(groups, encoded, rewards)
        if not (self._aspects or self._steps):
            return results
        for index, (group, item) in enumerate(zip(groups, encoded, strict=True)):
            rows = [None if ids is None else parts[group.prompt_key, ids.tobytes()] for ids in item.ids]
            if self._steps:
                ended = [
                    tuple(zip(ends, row or (), strict=True))
                    for ends, row in zip(item.ends, rows, strict=True)
                ]
                results[index] = replace(results[index], steps=tuple(ended))
            else:
                missing = [float("nan")] * len(self._aspects)
                table = _finite([row or missing for row in rows]).reshape(-1, len(missing))
                aspects = {name: table[:, k] for k, name in enumerate(self._aspects)}
                results[index] = replace(results[index], aspects=aspects)
        return results


def plant(
    groups: Sequence[Group], encoded: Sequence[Encoded], budget: int
) -> tuple[list[Tree], list[list[Owner]]]:
    """Trees of all distinct answers, and whose reward each leaf's is.

    Answers to one prompt, also from different rows, share its computation; equal answers are one leaf.
    """
    leaves: dict[str, dict[bytes, Ids]] = {}
    marks: dict[Owner, tuple[int, ...]] = {}
    for group, item in zip(groups, encoded, strict=True):
        own = leaves.setdefault(group.prompt_key, {})
        for k, ids in enumerate(item.ids):
            if ids is not None:
                own.setdefault(ids.tobytes(), ids)
                if item.marks:
                    marks[group.prompt_key, ids.tobytes()] = item.marks[k]
    trees: list[Tree] = []
    owners: list[list[Owner]] = []
    for key, own in leaves.items():
        for part in _portions(list(own.items()), budget):
            names = [(key, identity) for identity, _ in part]
            trees.append(
                grow([ids for _, ids in part], marks=[marks[name] for name in names] if marks else [])
            )
            owners.append(names)
    return trees, owners


def hand_out(
    groups: Sequence[Group], encoded: Sequence[Encoded], rewards: Mapping[Owner, float]
) -> list[Scored]:
    """The leaves' rewards as those of the groups' answers."""
    results = []
    for group, item in zip(groups, encoded, strict=True):
        values = [
            float("nan") if ids is None else rewards[group.prompt_key, ids.tobytes()] for ids in item.ids
        ]
        reasons = tuple(
            NOT_FINITE if reason is None and not np.isfinite(value) else reason
            for reason, value in zip(item.reasons, values, strict=True)
        )
        results.append(Scored(_finite(values), reasons))
    return results


def _finite(values: Sequence[float] | Sequence[list[float]]) -> NDArray[np.float32]:
    array = np.array(values, dtype=np.float32)
    found: NDArray[np.float32] = np.where(np.isfinite(array), array, np.float32("nan"))
    return found


def _portions(items: list[tuple[bytes, Ids]], budget: int) -> Iterator[list[tuple[bytes, Ids]]]:
    """A prompt's answers in portions that share one tree: at most 16, and within the token budget."""
    portion: list[tuple[bytes, Ids]] = []
    tokens = 0
    for item in items:
        shared = common_prefix_length([portion[0][1], item[1]]) if portion else 0
        if portion and (len(portion) == _MAX_LEAVES or tokens + len(item[1]) - shared > budget):
            yield portion
            portion, tokens, shared = [], 0, 0
        portion.append(item)
        tokens += len(item[1]) - shared
    if portion:
        yield portion
