"""Answers of one policy or two to the same prompts, as numbers with intervals.

    win rate      mean over prompts of P(reward of a first policy's answer > a second's) + P(equal) / 2,
                  over all pairs of their answers to the prompt
    difference    mean over prompts of (mean reward of the first policy's answers - of the second's)

Answers to one prompt are not independent, so every interval is over prompts: Wilson's for shares (with
several answers to a prompt the bootstrap), the percentile bootstrap for means. With fewer than 10 prompts a
bootstrap would be too narrow and there is none. Shapes: P prompts, G answers of a policy to each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from holdtrue.evaluation import bootstrap
from holdtrue.evaluation.accuracy import interval
from holdtrue.evaluation.pairs import Bools, Floats, Ints, finite
from holdtrue.records import Finish

Row = dict[str, Any]
_SEED = 0


@dataclass(frozen=True)
class Answers:
    """What is known of a policy's answers.

    Attributes:
        policy: its name.
        rewards: judge -> (P, G), NaN where an answer has none.
        lengths: (P, G) tokens.
        finish: (P, G) why each ended.
        flags: what was looked for -> (P, G), True where it was found.
    """

    policy: str
    rewards: Mapping[str, Floats]
    lengths: Floats
    finish: NDArray[np.str_]
    flags: Mapping[str, Bools]


@dataclass(frozen=True)
class Measures:
    """What is measured.

    Attributes:
        confidence: level of the intervals.
        success: reward from which on an answer is a success.
        comparing: judges whose rewards are relative to the other policy's answers, so that they say who wins
            and nothing of one policy alone.
    """

    confidence: float = 0.95
    success: float | None = None
    comparing: frozenset[str] = frozenset()

    def evaluate(self, answers: Sequence[Answers], parts: Mapping[str, Mapping[str, Bools]]) -> Row:
        """Everything measured of one policy or two, as JSON.

        Args:
            answers: of each policy, to the same prompts.
            parts: column -> value -> (P,) prompts whose row has it, for slices.

        Returns:
            ``policies`` and ``against`` (by judge how the first does beside the second; None for one
            policy), and ``slices``: column -> rows of ``value``, ``prompts`` and the same two.
        """
        tables: dict[str, list[Row]] = {}
        for name, by_value in parts.items():
            rows: list[Row] = [
                {"value": value, "prompts": int(part.sum())} | self._part(answers, part)
                for value, part in by_value.items()
            ]
            tables[name] = sorted(rows, key=lambda row: (-row["prompts"], row["value"]))
        everything = np.ones(len(answers[0].lengths), dtype=np.bool_)
        return self._part(answers, everything) | {"slices": tables}

    def _part(self, answers: Sequence[Answers], part: Bools) -> Row:
        policies = [self._describe(own, part) for own in answers]
        against = self._compare(answers[0], answers[1], part) if len(answers) == 2 else None
        return {"policies": policies, "against": against}

    def _describe(self, own: Answers, part: Bools) -> Row:
        return {
            "policy": own.policy,
            "answers": int(own.lengths[part].size),
            "rewards": {
                judge: self._rewards(rewards[part])
                for judge, rewards in own.rewards.items()
                if judge not in self.comparing
            },
            "length": self._mean(own.lengths[part]),
            "finish": {reason: self._share((own.finish == reason)[part]) for reason in get_args(Finish)},
            "flags": {name: self._share(found[part]) for name, found in own.flags.items()},
        }

    def _rewards(self, rewards_PG: Floats) -> Row:
        known_PG = np.isfinite(rewards_PG)
        success = None
        if self.success is not None:
            success = self._share(np.where(known_PG, rewards_PG >= self.success, np.nan))
        return self._mean(rewards_PG) | {"unscored": int((~known_PG).sum()), "success": success}

    def _compare(self, first: Answers, second: Answers, part: Bools) -> Row:
        """By judge: win rate, paired difference, and on how many prompts both had a reward."""
        found = {}
        for judge in first.rewards:
            ours, theirs = finite([first.rewards[judge][part], second.rewards[judge][part]])
            signs = np.sign(ours[:, :, None] - theirs[:, None, :])
            wins = _means((1 + signs).reshape(len(signs), -1) / 2)
            known = wins[np.isfinite(wins)]
            # shares of several answers vary less than a coin; where none varies, a coin's interval is safe
            several = signs[0].size > 1 and len(known) >= bootstrap.FEWEST_PROMPTS and np.ptp(known) > 0
            found[judge] = {
                "win_rate": (self._mean if several else self._share)(wins[:, None]),
                "difference": self._mean((_means(ours) - _means(theirs))[:, None]),
                "prompts": int(np.isfinite(wins).sum()),
            }
        return found

    def _mean(self, values_PG: Floats) -> Row:
        """Mean over all known values, with its interval by bootstrap over prompts."""
        return self._estimate(finite([values_PG])[0], bootstrap.interval_by_prompt)

    def _share(self, values_PG: NDArray[Any]) -> Row:
        """The same for values in [0, 1]."""
        return self._estimate(values_PG.astype(np.float64), lambda *known: list(interval(*known)[:2]))

    def _estimate(
        self, values_PG: Floats, bounds: Callable[[Floats, Ints, float], list[float] | None]
    ) -> Row:
        known_PG = np.isfinite(values_PG)
        if not known_PG.any():
            return {"mean": None, "interval": None}
        values, prompt = values_PG[known_PG], np.nonzero(known_PG)[0]
        return {"mean": float(values.mean()), "interval": bounds(values, prompt, self.confidence)}


def _means(values_PN: Floats) -> Floats:
    """(P,) mean of the known values of each prompt, NaN where there are none."""
    known = np.isfinite(values_PN)
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(known, values_PN, 0.0).sum(1) / known.sum(1)
    return means


def examples(
    answers: Sequence[Answers], judge: str, count: int, others: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Which answers (prompt, place in the group) to look at, one a prompt.

    First ``count``: of two policies those whose rewards differ most, of one those with the lowest. Then
    ``others`` at random among the prompts that are left.
    """
    first, *rest = finite([own.rewards[judge] for own in answers])
    unlike_PG = np.abs(first - rest[0]) if rest else -first
    ranked_PG = np.where(np.isfinite(unlike_PG), unlike_PG, -np.inf)
    place_P, most_P = ranked_PG.argmax(1), ranked_PG.max(1)
    order = [p for p in np.argsort(-most_P, kind="stable").tolist() if np.isfinite(most_P[p])][:count]
    left = np.setdiff1d(np.arange(len(ranked_PG)), order)
    drawn = np.random.default_rng(_SEED).permutation(left)[:others]
    return [(p, int(place_P[p])) for p in order], [(p, int(place_P[p])) for p in sorted(drawn.tolist())]
