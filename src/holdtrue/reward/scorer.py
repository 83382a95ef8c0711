"""Scores groups of answers with a reward model: all that evaluation and policies know of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from holdtrue.records import Group
from holdtrue.reward.comparer import PairComparer, Ranking, judge
from holdtrue.reward.kinds.aspects import Aspects
from holdtrue.reward.kinds.process import Process
from holdtrue.reward.store import Loaded
from holdtrue.tokens.conversation import Encoder, Ids
from holdtrue.tokens.joint import JointEncoder
from holdtrue.tokens.tree import Tree, common_prefix_length, grow

_MAX_LEAVES = 16


class Scorer(Protocol):
    """Anything that gives each answer of a group a number."""

    def score(self, groups: Sequence[Group]) -> list[NDArray[np.float32]]:
        """One array (N answers,) per group; NaN where an answer could not be scored."""
        ...


@dataclass(frozen=True)
class Scored:
    """Rewards (N,) of a group's answers, NaN where ``reasons`` says why there is none.

    ``aspects`` (N, K), or for each answer the values of its ``steps``, are what they were made of, where the
    model's kind gives them.
    ``consistent``: for models that compare, whether each of the group's comparisons has the same winner in
    both orders.
    """

    rewards: NDArray[np.float32]
    reasons: tuple[str | None, ...]
    aspects: NDArray[np.float32] | None = None
    steps: tuple[NDArray[np.float32], ...] | None = None
    consistent: tuple[bool, ...] = ()


def count_reasons(scored: Iterable[Scored]) -> Counter[str]:
    """How many answers have no reward, by reason."""
    return Counter(reason for item in scored for reason in item.reasons if reason)


def by_aspect(names: Sequence[str], scored: Sequence[Scored]) -> dict[str, list[NDArray[np.float32]]]:
    """Each aspect's values, for each group (N answers,)."""
    tables = [item.aspects for item in scored if item.aspects is not None]
    return {name: [table[:, k] for table in tables] for k, name in enumerate(names)}


def position_consistency(scored: Iterable[Scored]) -> dict[str, float]:
    """Share of comparisons with the same winner in both orders; nothing for models that do not compare."""
    said = [same for item in scored for same in item.consistent]
    return {"position_consistency": float(np.mean(said))} if said else {}


class RewardScorer:
    """A reward model as a Scorer: batches by tokens, each prompt computed once, order kept.

    Args:
        loaded: the model.
        encoder: how conversations become ids; by default as the model was trained.
        max_tokens_per_pass: unique tokens in one forward pass; bounds memory only.
        chunk: groups encoded and packed together.
        ranking: how rewards are made of comparisons, for models that compare.
    """

    def __init__(
        self,
        loaded: Loaded,
        encoder: Encoder | JointEncoder | None = None,
        max_tokens_per_pass: int = 8192,
        chunk: int = 512,
        ranking: Ranking = "gap",
    ) -> None:
        self.loaded = loaded
        self.encoder = encoder or loaded.encoder()
        self.max_tokens_per_pass = max_tokens_per_pass
        self.chunk = chunk
        kind = loaded.model.kind
        self.aspects: tuple[str, ...] = kind.labels if isinstance(kind, Aspects) else ()
        self.separator = kind.separator if isinstance(kind, Process) else ""
        self.ranking = ranking

    def score(self, groups: Sequence[Group]) -> list[NDArray[np.float32]]:
        """Rewards of every group's answers."""
        return [scored.rewards for scored in self.stream(groups)]

    def stream(self, groups: Iterable[Group]) -> Iterator[Scored]:
        """Rewards group by group, in order, without holding more than a chunk."""
        source = iter(groups)
        while chunk := list(islice(source, self.chunk)):
            yield from self._score_chunk(chunk)

    def _score_chunk(self, groups: Sequence[Group]) -> list[Scored]:
        if not isinstance(self.encoder, Encoder):
            comparer = PairComparer(self.loaded, self.encoder, self.max_tokens_per_pass)
            judged = judge(comparer, groups, self.ranking)
            return [Scored(j.rewards.astype(np.float32), j.reasons, consistent=j.consistent) for j in judged]
        encoded = list(self.encoder.encode(groups))
        # answers to one prompt, also from different rows, share its computation; equal answers are one leaf
        leaves: dict[str, dict[bytes, Ids]] = {}
        marks: dict[tuple[str, bytes], tuple[int, ...]] = {}
        for group, item in zip(groups, encoded, strict=True):
            own = leaves.setdefault(group.prompt_key, {})
            for k, ids in enumerate(item.ids):
                if ids is not None:
                    own.setdefault(ids.tobytes(), ids)
                    if item.marks:
                        marks[group.prompt_key, ids.tobytes()] = item.marks[k]
        found = self._score_leaves(leaves, marks)
        nothing = [float("nan")] * (1 + len(self.aspects))
        results = []
        for group, item in zip(groups, encoded, strict=True):
            values = [nothing if ids is None else found[group.prompt_key, ids.tobytes()] for ids in item.ids]
            reasons = tuple(
                "reward is not finite" if reason is None and not np.isfinite(value[0]) else reason
                for reason, value in zip(item.reasons, values, strict=True)
            )
            rewards, parts = _finite([value[0] for value in values]), [_finite(value[1:]) for value in values]
            aspects = np.stack(parts) if self.aspects else None
            results.append(Scored(rewards, reasons, aspects, tuple(parts) if self.separator else None))
        return results

    def _score_leaves(
        self, leaves: dict[str, dict[bytes, Ids]], marks: dict[tuple[str, bytes], tuple[int, ...]]
    ) -> dict[tuple[str, bytes], list[float]]:
        """Reward of each answer, and the aspects or steps it is made of."""
        trees: list[Tree] = []
        owners: list[list[tuple[str, bytes]]] = []
        for key, own in leaves.items():
            for part in _portions(list(own.items()), self.max_tokens_per_pass):
                own_marks = [marks[key, identity] for identity, _ in part] if marks else []
                trees.append(grow([ids for _, ids in part], marks=own_marks))
                owners.append([(key, identity) for identity, _ in part])
        model = self.loaded.model
        found: dict[tuple[str, bytes], list[float]] = {}
        with torch.inference_mode():
            for batch in model.pack(trees, self.max_tokens_per_pass):
                laid = model.batch([trees[i] for i in batch])
                out = model(laid)
                names = [owner for i in batch for owner in owners[i]]
                rewards = out.rewards.tolist()
                parts: list[list[float]] = out.logits.tolist() if self.aspects else [[]] * len(rewards)
                if out.steps is not None:
                    parts = [part.tolist() for part in out.steps.split(laid.targets.marks.tolist())]
                found.update({n: [r, *p] for n, r, p in zip(names, rewards, parts, strict=True)})
        return found


def _finite(values: Sequence[float]) -> NDArray[np.float32]:
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
