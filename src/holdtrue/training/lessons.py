"""What rows say, set against what a loss learns from, before a model is loaded.

Rows without any of it are refused with a loss that learns from what they do hold, and so are rows that
prefer nothing to anything: a run on them would end well and have learnt nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from math import isnan
from typing import Any

from holdtrue.data.reader import ReadReport
from holdtrue.errors import DataError, nearest
from holdtrue.losses import Loss
from holdtrue.records import Group
from holdtrue.reward.kinds import RewardKind
from holdtrue.tokens.tree import ordered, verdict_of

LEARNS_FROM = {
    "comparisons": ("bradley_terry", "scalar"),
    "ratings": ("huber", "scalar"),
    "labels": ("cross_entropy", "two_class"),
    "steps": ("step_cross_entropy", "process"),
}
"""A loss that learns from each thing a row can hold, and a kind of model it trains."""
_NAMES = {"accepted": "labels", "steps": "judged steps"}
_ROUNDING = 1e-9


def require_lessons(groups: Sequence[Group], loss: Loss, kind: RewardKind, read: ReadReport) -> None:
    """Refuse training rows that the loss can learn nothing from.

    Raises:
        DataError: they hold nothing of what it learns from, or what they hold is the same everywhere.
    """
    if loss.target == "comparisons":
        _require_preferences(groups, loss, read)
    elif loss.target == "ratings":
        _require_ratings(groups, loss, kind, read)
    else:
        known = [value for *_, value in _judged(groups, loss.target)]
        if not known:
            raise DataError(_missing(_NAMES[loss.target], groups, loss, read))
        if not _differ((about, value) for *about, value in _judged(groups, loss.target)):
            raise DataError(
                f"nothing to learn: all {len(known)} {_NAMES[loss.target]} {_alike(known)}; needed are "
                + ("accepted and refused answers" if loss.target == "accepted" else "right and wrong steps")
            )
    if loss.unit == "prompt":
        _require_lists(groups, loss, kind.ratings[0])


def _require_preferences(groups: Sequence[Group], loss: Loss, read: ReadReport) -> None:
    net: defaultdict[tuple[Any, ...], float] = defaultdict(float)
    count = ties = weightless = 0
    for group in groups:
        for c in group.comparisons:
            count, ties, weightless = count + 1, ties + (c.label == 0.5), weightless + (c.weight == 0)
            first, second = group.answers[c.first].content, group.answers[c.second].content
            push = c.weight * (c.label - 0.5)
            if (group.prompt, second, first) in net:
                net[group.prompt, second, first] -= push
            else:
                net[group.prompt, first, second] += push
    if not count:
        raise DataError(_missing("comparisons", groups, loss, read))
    if not any(abs(push) > _ROUNDING for push in net.values()):
        if ties == count or weightless == count:
            why = "are ties" if ties == count else "weigh 0"
        else:
            why = "are ties, weigh 0 or contradict each other"
        raise DataError(
            f"nothing to learn: all {count} comparisons {why}; needed are some that prefer an answer"
        )


def _require_ratings(groups: Sequence[Group], loss: Loss, kind: RewardKind, read: ReadReport) -> None:
    seen = sorted({name for group in groups for answer in group.answers for name in answer.ratings})
    for name in kind.ratings:
        rated = [(group, a, a.ratings[name]) for group in groups for a in group.answers if name in a.ratings]
        if not rated and not seen:
            raise DataError(_missing(f"ratings called {name!r}", groups, loss, read))
        if not rated:
            near = f"did you mean {found!r}? " if (found := nearest(name, seen)) else ""
            names = "model.kind.names to these" if kind.name() == "aspects" else _named_kind(seen[:1])
            raise DataError(
                f"no training row has a rating called {name!r}; {near}ratings seen: {', '.join(seen)}; "
                f"set {names}"
            )
        if loss.unit != "prompt" and not _differ(((g.prompt, a.content), value) for g, a, value in rated):
            rest = (
                "leave it out of model.kind.names" if len(kind.ratings) > 1 else "needed are different ones"
            )
            values = [value for *_, value in rated]
            raise DataError(
                f"all {len(rated)} ratings of {name!r} {_alike(values)}: there is nothing to learn; {rest}"
            )


def _require_lists(groups: Sequence[Group], loss: Loss, rating: str) -> None:
    if any(ordered(_rated(group, rating)) for group in groups):
        return
    if max(len(_rated(group, rating)) for group in groups) < 2:
        why = "every row has one rated answer; loss=huber learns from single ones"
    else:
        why = "the answers of every row are rated alike, or are the same text"
    raise DataError(f"loss {loss.name()} orders the answers of a row by {rating!r}, and {why}")


def _rated(group: Group, rating: str) -> list[tuple[Any, float]]:
    return [(a.content, a.ratings[rating]) for a in group.answers if rating in a.ratings]


def _judged(groups: Sequence[Group], target: str) -> Iterator[tuple[Any, ...]]:
    """Prompt, answer, place in it, and what was said there."""
    for group in groups:
        for k, answer in enumerate(group.answers):
            if target == "steps":
                yield from ((group.prompt, answer.content, end, value) for end, value in answer.steps)
            elif not isnan(accepted := verdict_of(group, k).accepted):
                yield group.prompt, answer.content, 0, accepted


def _differ(values: Iterable[tuple[Any, float]]) -> bool:
    """Whether the means by what was judged differ: one and the same all over is nothing to learn."""
    by_thing: defaultdict[Any, list[float]] = defaultdict(list)
    for thing, value in values:
        by_thing[tuple(thing)].append(value)
    means = [sum(found) / len(found) for found in by_thing.values()]
    return max(means) - min(means) > _ROUNDING * max(1.0, *map(abs, means))


def _alike(values: Sequence[float]) -> str:
    return f"are {values[0]:g}" if len(set(values)) == 1 else "contradict each other"


def _missing(what: str, groups: Sequence[Group], loss: Loss, read: ReadReport) -> str:
    """What the loss misses, what the rows hold, and a loss that learns from that."""
    layouts = ", ".join(dict.fromkeys(str(file["format"]) for file in read.files if file["format"]))
    said = f"loss {loss.name()} learns from {what}, which none of the {len(groups)} training rows ({layouts})"
    held = _held(groups)
    if not held:
        return f"{said} holds, nor anything else to learn from; see: holdtrue list formats"
    ways = [f"{words} ({_way(found, names)})" for found, (words, names) in held.items()]
    return f"{said} holds; they hold {' and '.join(ways)}"


def _way(found: str, names: Sequence[str]) -> str:
    loss, kind = LEARNS_FROM[found]
    if names:
        return f"loss=aspect_regression with {_named_kind(names)}"
    return f"loss={loss} with model.kind={kind}"


def _named_kind(names: Sequence[str]) -> str:
    return f"model.kind={{kind: aspects, names: [{', '.join(names)}]}}"


def _held(groups: Sequence[Group]) -> dict[str, tuple[str, list[str]]]:
    """What the rows hold, in words, and the names of ratings where none is that of the whole answer."""
    answers = [answer for group in groups for answer in group.answers]
    rated = sorted({name for answer in answers for name in answer.ratings})
    names = [] if "rating" in rated else rated
    there = {
        "comparisons": (any(group.comparisons for group in groups), "comparisons"),
        "ratings": (bool(rated), f"ratings of {', '.join(names)}" if names else "ratings"),
        "labels": (any(answer.label is not None for answer in answers), "labels"),
        "steps": (any(answer.steps for answer in answers), "judged steps"),
    }
    return {key: (words, names if key == "ratings" else []) for key, (found, words) in there.items() if found}
