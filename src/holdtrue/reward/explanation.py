"""Why an answer scored as it did: numbers for the parts of its text.

    tokens      the value after each token, for models that value tokens
    steps       the value at the end of each step, for process reward models
    sentences   reward(answer) - reward(answer without the sentence), for all others

Leaving one sentence out asks nothing of a model but rewards, so it holds for every kind, ensembles and DPO
policies too. It says what the reward would lose, not what the model thinks: two sentences that say the same
may both count nothing. Of models that compare, rewards are those within the pair.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from holdtrue.records import Answer, Group
from holdtrue.reward.kinds.process import Process
from holdtrue.reward.kinds.token_values import TokenValues
from holdtrue.reward.model import given
from holdtrue.reward.scorer import RewardScorer, Scored, StreamingScorer
from holdtrue.tokens import marks
from holdtrue.tokens.conversation import Encoder
from holdtrue.tokens.tree import Tree, grow

How = Literal["tokens", "steps", "sentences"]
Parts = list[tuple[int, int]]
MOST_PAIRS = 10
MOST_PARTS = 12
_SENTENCE_ENDS = re.compile(r"[.!?…][\"'”’)\]]*\s+|[。！？]\s*|\n\s*")


@dataclass(frozen=True)
class Explanation:
    """Numbers for parts of an answer.

    Attributes:
        spans: characters ``start`` to ``end`` (exclusive) of the answer's text and their number, in order.
        reason: why there are none.
    """

    spans: tuple[tuple[int, int, float], ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class _Explained:
    """The two answers of each pair explained, and how many answers were scored for it."""

    pairs: list[tuple[Explanation, ...]]
    cost: int


def explain_mistakes(
    scorer: StreamingScorer, groups: Sequence[Group], mistakes: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """An evaluation's ``mistakes``, the first 10 with an ``explanation``, and ``explained``: how it was made.

    ``explained`` is None where there is no mistake; else ``answers_scored`` is what it cost.
    ``explanation`` has ``spans`` and ``reasons``, the preferred answer's first.
    """
    hardest = mistakes[:MOST_PAIRS]
    if not hardest:
        return {"mistakes": list(mistakes), "explained": None}
    how = way(scorer)
    pairs = [_pair(groups[row["group"]], row["answers"]) for row in hardest]
    found = explain(scorer, pairs)
    rows = [row | _as_json(row, own) for row, own in zip(hardest, found.pairs, strict=True)]
    explained = {"how": how, "pairs": len(rows), "answers_scored": found.cost}
    return {"mistakes": [*rows, *mistakes[MOST_PAIRS:]], "explained": explained}


def way(scorer: StreamingScorer) -> How:
    """How a scorer's rewards are explained."""
    kind = scorer.loaded.model.kind if isinstance(scorer, RewardScorer) else None
    return (
        "tokens" if isinstance(kind, TokenValues) else "steps" if isinstance(kind, Process) else "sentences"
    )


def explain(scorer: StreamingScorer, pairs: Sequence[Group]) -> _Explained:
    """Both answers of groups of two, explained in the scorer's :func:`way`."""
    how = way(scorer)
    if how == "sentences":
        return _by_sentences(scorer, pairs)
    assert isinstance(scorer, RewardScorer)
    found = _by_tokens(scorer, pairs) if how == "tokens" else _by_steps(scorer, pairs)
    return _Explained(found, 2 * len(pairs))


def sentences(text: str) -> Parts:
    """Parts of a text that end with a sentence or a line, at most 12, each with the white space after it.

    A part without a letter, such as the number of a list's item, belongs to the next. Of longer texts,
    sentences that begin in the same twelfth are one part.
    """
    starts = [0]
    for match in _SENTENCE_ENDS.finditer(text):
        if any(map(str.isalpha, text[starts[-1] : match.end()])) and text[match.end() :].strip():
            starts.append(match.end())
    if len(starts) > MOST_PARTS:
        starts = list({start * MOST_PARTS // len(text): start for start in reversed(starts)}.values())[::-1]
    return list(zip(starts, [*starts[1:], len(text)], strict=True))


def _by_sentences(scorer: StreamingScorer, pairs: Sequence[Group]) -> _Explained:
    asked: list[Group] = []
    parts = [[_parts(answer) for answer in pair.answers] for pair in pairs]
    for pair, both in zip(pairs, parts, strict=True):
        asked.append(pair)
        for k, own in enumerate(both):
            asked += [_without(pair, k, start, end) for start, end in own]
    scored = scorer.stream(asked)
    found = []
    for pair, both in zip(pairs, parts, strict=True):
        whole = next(scored)
        found.append(
            tuple(
                _differences(pair.answers[k], k, whole, own, [next(scored) for _ in own])
                for k, own in enumerate(both)
            )
        )
    return _Explained(found, len(asked) + len(pairs))


def _parts(answer: Answer) -> Parts:
    """What may be left out of an answer of one turn: nothing of a single sentence."""
    one_turn = isinstance(answer.content, str) or len(answer.content) == 1
    parts = sentences(answer.text) if one_turn else []
    return parts if len(parts) > 1 else []


def _without(pair: Group, answer: int, start: int, end: int) -> Group:
    """The pair with a part of one answer left out; what is then its end has no white space after it."""
    own = pair.answers[answer]
    text = own.text[:start] + own.text[end:] if end < len(own.text) else own.text[:start].rstrip()
    content = text if isinstance(own.content, str) else (replace(own.content[0], content=text),)
    answers = list(pair.answers)
    answers[answer] = Answer(content)
    return replace(pair, answers=tuple(answers))


def _differences(answer: Answer, k: int, whole: Scored, parts: Parts, without: list[Scored]) -> Explanation:
    if not parts:
        one_turn = isinstance(answer.content, str) or len(answer.content) == 1
        return Explanation(reason="a single sentence" if one_turn else "an answer of several turns")
    for scored in (whole, *without):
        if scored.reasons[k] is not None:
            return Explanation(reason=scored.reasons[k])
    values = [float(np.float64(whole.rewards[k]) - np.float64(less.rewards[k])) for less in without]
    return _spans(answer.text, parts, values)


def _by_steps(scorer: RewardScorer, pairs: Sequence[Group]) -> list[tuple[Explanation, ...]]:
    found = []
    for pair, scored in zip(pairs, scorer.stream(pairs), strict=True):
        own = []
        for k, steps in enumerate(scored.steps or ()):
            ends = [end for end, _ in steps]
            parts = list(zip([0, *ends[:-1]], ends, strict=True))
            text, values = pair.answers[k].text, [value for _, value in steps]
            own.append(_spans(text, parts, values) if steps else Explanation(reason=scored.reasons[k]))
        found.append(tuple(own))
    return found


def _by_tokens(scorer: RewardScorer, pairs: Sequence[Group]) -> list[tuple[Explanation, ...]]:
    encoder = scorer.encoder
    assert isinstance(encoder, Encoder)
    found: dict[tuple[int, int], Explanation] = {}
    asked: list[tuple[int, int, list[marks.Piece], Tree]] = []
    for index, (pair, item) in enumerate(zip(pairs, encoder.encode(pairs), strict=True)):
        for k, ids in enumerate(item.ids):
            pieces = [] if ids is None else marks.pieces(encoder, pair, k, ids, item.cut[k])
            if ids is None or not pieces:
                why = item.reasons[k] or "the chat template changes the text, its tokens are not found"
                found[index, k] = Explanation(reason=why)
                continue
            begin = pieces[0].place
            tree = replace(grow([ids]), prompt=ids[:begin], answers=(ids[begin:],))
            asked.append((index, k, pieces, tree))
    model, trees = scorer.loaded.model, [tree for *_, tree in asked]
    with torch.inference_mode():
        for batch in model.pack(trees, scorer.max_tokens_per_pass):
            out = model(model.batch([trees[i] for i in batch]))
            values, offsets = given(out.values).tolist(), given(out.offsets).tolist()
            for i, offset in zip(batch, offsets[:-1], strict=True):
                index, k, pieces, tree = asked[i]
                own = [values[offset + piece.place - len(tree.prompt)] for piece in pieces]
                parts = [(piece.start, piece.end) for piece in pieces]
                found[index, k] = _spans(pairs[index].answers[k].text, parts, own, trim=False)
    return [tuple(found[index, k] for k in range(2)) for index in range(len(pairs))]


def _spans(text: str, parts: Parts, values: Sequence[float], *, trim: bool = True) -> Explanation:
    """Numbers for parts of a text; ``trim`` leaves the white space around them out."""
    if not np.isfinite(values).all():
        return Explanation(reason="a value is not finite")
    if trim:
        parts = [
            (end - len(text[start:end].lstrip()), start + len(text[start:end].rstrip()))
            for start, end in parts
        ]
    return Explanation(tuple((*part, value) for part, value in zip(parts, values, strict=True)))


def _pair(group: Group, answers: Sequence[int]) -> Group:
    return replace(group, answers=tuple(group.answers[k] for k in answers), comparisons=())


def _as_json(row: dict[str, Any], both: Sequence[Explanation]) -> dict[str, Any]:
    """Spans of the texts as far as the row holds them, values to 6 digits."""
    shown = [len(row[side]) for side in ("chosen", "rejected")]
    spans = [
        [[start, end, float(f"{value:.6g}")] for start, end, value in own.spans if start < most]
        for own, most in zip(both, shown, strict=True)
    ]
    return {"explanation": {"spans": spans, "reasons": [own.reason for own in both]}}
