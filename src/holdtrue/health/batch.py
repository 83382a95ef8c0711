"""A batch of rollouts as a training loop has it, and what is seen in each of its rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdtrue.errors import DataError
from holdtrue.health.metrics import (
    Floats,
    Ids,
    confident_run,
    distinct,
    entropy_summary,
    is_in,
    logprob_gap,
    seq_rep,
    tail_zlib,
)
from holdtrue.health.stream import LoopDetector, RepetitionDetection
from holdtrue.health.vocabulary import Vocabulary
from holdtrue.records import Rollout

CUT = frozenset({"length", "max_tokens", "max_length"})
"""Finish reasons of an answer that was cut."""
REPEATED = frozenset({"repetition", "repetition_detected", "loop"})
"""Finish reasons of an answer that was stopped because it looped."""


@dataclass(frozen=True)
class Batch:
    """The rollouts of one training step.

    Rows may be lists, numpy arrays or torch tensors, of different lengths or padded to one; a tensor of rows
    will do as well. Everything but the ids may be missing, as a whole or (None, NaN) for a row.

    Attributes:
        ids: the tokens of each answer, as sampled, never re-encoded from text.
        step: of training.
        mask: for each token whether the policy wrote it; tools' tokens and padding are 0.
        logprobs: of each token, by the engine that sampled it.
        trained_logprobs: of each token, by the trainer.
        entropies: of the policy at each token, in nats.
        rewards: one a row.
        advantages: one a row.
        groups: which rows answer the same prompt.
        finish: why the engine stopped: ``stop``, ``length`` or its own word; None while it has not.
        restarted: the sampler was started anew, or its caches were emptied, since the last batch.
    """

    ids: Sequence[Any]
    step: int
    mask: Sequence[Any] | None = None
    logprobs: Sequence[Any] | None = None
    trained_logprobs: Sequence[Any] | None = None
    entropies: Sequence[Any] | None = None
    rewards: Sequence[Any] | None = None
    advantages: Sequence[Any] | None = None
    groups: Sequence[Hashable] | None = None
    finish: Sequence[str | None] | None = None
    restarted: bool = False

    @classmethod
    def of(cls, rollouts: Sequence[Rollout], step: int, *, restarted: bool = False) -> Batch:
        """A batch of rollouts that hold token ids."""
        without = sum(one.completion_ids is None for one in rollouts)
        if without:
            raise DataError(
                f"{without} of {len(rollouts)} rollouts hold no token ids; completion_ids is needed"
            )
        alone = [one.advantage if isinstance(one.advantage, int | float) else None for one in rollouts]
        return cls(
            ids=[one.completion_ids for one in rollouts],
            step=step,
            mask=[one.loss_mask for one in rollouts],
            logprobs=[one.logprobs for one in rollouts],
            trained_logprobs=[one.trained_logprobs for one in rollouts],
            rewards=[one.reward for one in rollouts],
            advantages=alone,
            groups=[one.prompt_key for one in rollouts],
            finish=[one.finish for one in rollouts],
            restarted=restarted,
        )


def as_array(values: Any) -> NDArray[Any]:
    """A list, array or tensor as an array, without importing torch."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if str(values.dtype) == "torch.bfloat16":
            values = values.float()  # numpy knows none
    return np.asarray(values)


@dataclass(frozen=True)
class Row:
    """One answer: the tokens the policy wrote, where each stands in the row as given, and the rest."""

    ids: Ids
    places: NDArray[np.int64]
    logprobs: Floats | None
    trained_logprobs: Floats | None
    entropies: Floats | None
    finish: str | None


def rows_of(batch: Batch, vocabulary: Vocabulary) -> list[Row]:
    """The rows of a batch without padding and without what tools wrote.

    Raises:
        DataError: a column has another number of rows, or a row of it another number of tokens, than the ids.
    """
    count = len(batch.ids)
    for name in (
        "mask",
        "logprobs",
        "trained_logprobs",
        "entropies",
        "rewards",
        "advantages",
        "groups",
        "finish",
    ):
        column = getattr(batch, name)
        if column is not None and len(column) != count:
            raise DataError(f"{name} has {len(column)} rows where ids has {count}")

    rows = []
    for index, given in enumerate(batch.ids):
        ids = as_array(given).ravel()
        if ids.size and not np.issubdtype(ids.dtype, np.integer):
            raise DataError(f"ids of row {index} are {ids.dtype}; token ids are integers")
        ids = ids.astype(np.int64)
        mask = _cells(batch.mask, "mask", index, len(ids))
        if mask is None:
            places = np.arange(len(vocabulary.strip(ids)))
        else:
            places = np.flatnonzero(mask)
        sampled = _cells(batch.logprobs, "logprobs", index, len(ids), places)
        trained = _cells(batch.trained_logprobs, "trained_logprobs", index, len(ids), places)
        entropies = _cells(batch.entropies, "entropies", index, len(ids), places)
        finish = batch.finish[index] if batch.finish is not None else None
        rows.append(Row(ids[places], places, sampled, trained, entropies, finish))
    return rows


def _cells(
    column: Sequence[Any] | None, name: str, index: int, tokens: int, places: NDArray[np.int64] | None = None
) -> Floats | None:
    if column is None or column[index] is None:
        return None
    values = as_array(column[index]).ravel().astype(np.float64)
    if len(values) != tokens:
        raise DataError(f"{name} of row {index} has {len(values)} values where ids has {tokens} tokens")
    return values if places is None else values[places]


NOT_BY_ROW = frozenset({"distinct_4", "flat_reward", "advantage_on_junk"})


@dataclass(frozen=True)
class Seen:
    """What is seen in a batch.

    Attributes:
        values: metric -> a value for each row (R,), NaN where it has none. Those of :data:`NOT_BY_ROW` have
            one for each group of two rows or more, or one for the batch.
        onsets: metric -> for each row where it begins, in the row as given; -1 where it does not.
        ended_on: id -> rows that ended with it although the engine said they were cut.
        periods: (R,) of the loops, 0 without.
        tokens: (R,) the token each loop begins with, -1 without.
    """

    values: dict[str, Floats]
    onsets: dict[str, NDArray[np.int64]]
    ended_on: dict[int, int]
    periods: NDArray[np.int64]
    tokens: NDArray[np.int64]


def observe(
    batch: Batch,
    vocabulary: Vocabulary,
    rule: RepetitionDetection | None = None,
    near: RepetitionDetection | None = None,
) -> Seen:
    """Measure every row of a batch; ``near`` is the rule for loops with their numbers made equal."""
    rows = rows_of(batch, vocabulary)
    values: dict[str, Floats] = {}
    onsets: dict[str, NDArray[np.int64]] = {}

    def mark(name: str, first: NDArray[np.int64]) -> None:
        """A row metric that is 1 where something begins in a row: at token ``first``, not at -1."""
        values[name] = (first >= 0).astype(np.float64)
        onsets[name] = np.array(
            [
                row.places[at] if at >= 0 and len(row.places) else -1
                for row, at in zip(rows, first, strict=True)
            ],
            dtype=np.int64,
        )

    body = [row.ids[:-1] if len(row.ids) and int(row.ids[-1]) in vocabulary.eos else row.ids for row in rows]
    loops = LoopDetector.over(body, rule)
    told = np.array([row.finish in REPEATED for row in rows], dtype=np.bool_)
    onset = np.where(told & ~loops.looping, np.maximum(loops.lengths - 1, 0), loops.onset)
    mark("loop", onset)
    if vocabulary.numbers is not None:
        counting = LoopDetector.over(body, near, numbers=vocabulary.numbers)
        mark("near_loop", np.where(loops.looping, -1, counting.onset))
    for name, members in (("control", vocabulary.control), ("attractor", vocabulary.attractors)):
        if members:
            table = np.array(sorted(members), dtype=np.int64)
            mark(name, _first([is_in(ids, table) for ids in body]))
    if vocabulary.size is not None:
        mark("phantom", _first([ids >= vocabulary.size for ids in body]))
    mark("not_finite", _first([_not_finite(row) for row in rows]))

    values["empty"] = np.array([float(len(ids) == 0) for ids in body])
    values["length"] = np.array([float(len(row.ids)) for row in rows])
    values["truncated"], ended_on = _truncation(rows, vocabulary)
    values["miscounted"] = np.array(
        [float(row.finish in CUT and len(row.ids) > 0 and int(row.ids[-1]) in vocabulary.eos) for row in rows]
    )
    values["seq_rep_4"] = np.array([seq_rep(ids) for ids in body], dtype=np.float64)
    values["tail_zlib"] = np.array([tail_zlib(ids) for ids in body], dtype=np.float64)
    _probabilities(rows, values)
    _rewards(batch, values)
    _groups(batch, body, values)
    junk = _junk(rows, vocabulary, loops.onset)
    if batch.advantages is not None:
        weight = np.abs(np.array([np.nan if a is None else float(a) for a in batch.advantages]))
        weight[~np.isfinite(weight)] = 0
        whole = float(weight @ values["length"])
        values["advantage_on_junk"] = np.array([float(weight @ junk) / whole if whole else np.nan])
    tokens = [int(ids[at]) if at >= 0 else -1 for ids, at in zip(body, loops.onset, strict=True)]
    return Seen(values, onsets, ended_on, loops.period, np.array(tokens, dtype=np.int64))


def _first(marks: Sequence[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """The first marked token of each row, or -1."""
    return np.array([int(one.argmax()) if one.any() else -1 for one in marks], dtype=np.int64)


def _not_finite(row: Row) -> NDArray[np.bool_]:
    bad = np.zeros(len(row.ids), dtype=np.bool_)
    for values in (row.logprobs, row.trained_logprobs):
        if values is not None:
            bad |= ~np.isfinite(values)
    return bad


def _truncation(rows: Sequence[Row], vocabulary: Vocabulary) -> tuple[Floats, dict[int, int]]:
    """Whether each row was cut; a row that ended with an EOS was not, whatever the engine says."""
    cut = np.full(len(rows), np.nan)
    ended_on: dict[int, int] = {}
    for index, row in enumerate(rows):
        last = int(row.ids[-1]) if len(row.ids) else None
        if last in vocabulary.eos:
            cut[index] = 0
            if row.finish in CUT and last is not None:
                ended_on[last] = ended_on.get(last, 0) + 1
        elif row.finish is not None:
            cut[index] = row.finish in CUT
        elif vocabulary.eos:
            cut[index] = len(row.ids) > 0
    return cut, ended_on


def _probabilities(rows: Sequence[Row], values: dict[str, Floats]) -> None:
    if any(row.logprobs is not None for row in rows):
        values["confident_run"] = np.array(
            [np.nan if row.logprobs is None else confident_run(row.logprobs) for row in rows]
        )
    if any(row.logprobs is not None and row.trained_logprobs is not None for row in rows):
        none = np.zeros(0)
        pairs = [(row.logprobs, row.trained_logprobs) for row in rows]
        gaps = [logprob_gap(none, none) if a is None or b is None else logprob_gap(a, b) for a, b in pairs]
        values["gap"] = np.array([gap.mean for gap in gaps])
        values["gap_k3"] = np.array([gap.k3 for gap in gaps])
        values["effective_sample"] = np.array([gap.effective for gap in gaps])
    if any(row.entropies is not None for row in rows):
        values["entropy"] = np.array(
            [np.nan if row.entropies is None else entropy_summary(row.entropies).mean for row in rows]
        )


def _junk(rows: Sequence[Row], vocabulary: Vocabulary, loops: NDArray[np.int64]) -> Floats:
    """Tokens of each row that are in a loop, or control or phantom ids."""
    control = np.array(sorted(vocabulary.control), dtype=np.int64)
    junk = []
    for row, onset in zip(rows, loops.tolist(), strict=True):
        bad = is_in(row.ids, control)
        if vocabulary.size is not None:
            bad |= row.ids >= vocabulary.size
        if onset >= 0:
            bad[onset:] = True
        junk.append(float(bad.sum()))
    return np.array(junk)


def _rewards(batch: Batch, values: dict[str, Floats]) -> None:
    """None is a reward nobody gave; one that is not a finite number is a fault."""
    if batch.rewards is None:
        return
    rewards = np.array([np.nan if r is None else float(r) for r in batch.rewards], dtype=np.float64)
    given = np.array([r is not None for r in batch.rewards], dtype=np.bool_)
    values["bad_reward"] = np.where(given, ~np.isfinite(rewards), np.nan)
    values["reward"] = np.where(np.isfinite(rewards), rewards, np.nan)


def _groups(batch: Batch, body: Sequence[Ids], values: dict[str, Floats]) -> None:
    if batch.groups is None:
        return
    members: dict[Hashable, list[int]] = {}
    for index, key in enumerate(batch.groups):
        members.setdefault(key, []).append(index)
    groups = [np.array(rows) for rows in members.values() if len(rows) > 1]
    values["distinct_4"] = np.array([distinct([body[i] for i in rows]) for rows in groups], dtype=np.float64)
    if "reward" in values:
        rewards = values["reward"]
        known = [rewards[rows][np.isfinite(rewards[rows])] for rows in groups]
        values["flat_reward"] = np.array([float(np.ptp(r) == 0) if len(r) > 1 else np.nan for r in known])
