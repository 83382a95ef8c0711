"""Reward models as judges of a step's answers: those that score one answer, and those that compare two.

They get the text of the answers, special tokens included, and read it with their own tokenizer, whatever the
policy's is: what that knows as a special token is read as one (but by pair rankers and sentence encoders),
anything else as letters. An answer that a model cannot read has no reward, and the log says why.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from holdtrue.errors import ModelError
from holdtrue.records import Answer, Group, Message, Rollout
from holdtrue.reward.comparer import PairComparer, Shown, comparable, probabilities, reason_of
from holdtrue.reward.folders import compares, open_scorer
from holdtrue.reward.scorer import NOT_FINITE, RewardScorer, StreamingScorer
from holdtrue.tokens.conversation import Encoder

PlainText = Literal["chat", "raw"]
"""What a model takes prompts of plain text for, as it was trained."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScorerJudge:
    """A reward model, or anything else that scores groups."""

    scorer: StreamingScorer
    plain_text: PlainText = "raw"
    name: str = "the reward model"

    def judge(self, rollouts: Sequence[Rollout], group: int) -> NDArray[np.float64]:
        """See :meth:`Judge.judge`; the answers to one prompt are one group, its prompt computed once.

        Those whose reward is not finite are computed once more, each alone: NaN in one answer spreads to
        those that share its prompt.
        """
        scored = list(self.scorer.stream(_groups(rollouts, group, self.plain_text)))
        rewards = np.concatenate([one.rewards.astype(np.float64) for one in scored])
        reasons = [reason for one in scored for reason in one.reasons]
        for row, reason in enumerate(reasons):
            if reason == NOT_FINITE and group > 1:
                (alone,) = self.scorer.stream([_group(rollouts[row : row + 1], self.plain_text)])
                rewards[row], reasons[row] = alone.rewards[0], alone.reasons[0]
        _tell(self.name, reasons)
        return rewards


@dataclass(frozen=True)
class ComparerJudge:
    """A model that compares two answers: an answer's reward is its win rate.

        r_i = mean of P(i preferred to j) over its rivals j, other answers to the same prompt        in [0, 1]

    P is of both orders, so G answers are G(G - 1) sequences of a prompt and two answers. Where all are
    rivals a group's mean is 1/2 whatever they are worth; an answer without any rival has 1/2 too.
    """

    comparer: PairComparer
    plain_text: PlainText = "raw"
    name: str = "the reward model"

    def judge(
        self, rollouts: Sequence[Rollout], group: int, rivals: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float64]:
        """See :meth:`Judge.judge`. ``rivals`` (N,): the answers that others are compared with; by default
        all."""
        rivals_PG = np.ones(len(rollouts), np.bool_) if rivals is None else rivals
        rivals_PG = rivals_PG.reshape(-1, group)
        shown = self.comparer.show(_groups(rollouts, group, self.plain_text))
        found = [_win_rates(one, own) for one, own in zip(shown, rivals_PG, strict=True)]
        _tell(self.name, (reason for _, reasons in found for reason in reasons))
        return np.concatenate([rates for rates, _ in found])


def _win_rates(shown: Shown, rivals: NDArray[np.bool_]) -> tuple[NDArray[np.float64], list[str]]:
    """(G,) win rates against the rivals, NaN for answers that could not be compared with all, and why."""
    chances = probabilities(shown.gaps)
    kept = comparable(chances)
    rates, reasons = np.full(len(chances), np.nan), []
    for i in range(len(chances)):
        others = np.flatnonzero(rivals & (np.arange(len(chances)) != i))
        met = np.intersect1d(others, kept)
        if not len(others):
            rates[i] = 0.5
        elif i in kept and len(met):
            rates[i] = np.sort(chances[i, met]).mean()  # equal answers have equal rates, to the last bit
        else:
            reasons.append(reason_of(shown, i))
    return rates, reasons


def _groups(rollouts: Sequence[Rollout], group: int, plain_text: PlainText) -> list[Group]:
    """The answers to each prompt, in the form a model was trained on."""
    return [_group(rollouts[i : i + group], plain_text) for i in range(0, len(rollouts), group)]


def _group(rollouts: Sequence[Rollout], plain_text: PlainText) -> Group:
    prompt = rollouts[0].prompt
    if isinstance(prompt, str) and plain_text == "chat":
        prompt = (Message("user", prompt),)
    raw = isinstance(prompt, str)
    texts = [one.text for one in rollouts]
    return Group(prompt, tuple(Answer(text if raw else (Message("assistant", text),)) for text in texts))


def _tell(name: str, reasons: Iterable[str | None]) -> None:
    for reason in sorted({reason for reason in reasons if reason}):
        _say(f"reward {name}: an answer has no reward ({reason}); such answers are left out and counted")


@cache
def _say(what: str) -> None:
    """Log it, once."""
    _log.warning(what)


def open_model(
    folder: Path, name: str, device: str, trust_remote_code: bool = False
) -> ScorerJudge | ComparerJudge:
    """The judge of a model folder; ``name``: what it is called in the log and in errors.

    Raises:
        ModelError: it cannot be loaded, or is an ensemble of models that compare.
    """
    opened = open_scorer(folder, device=device, trust_remote_code=trust_remote_code)
    scorer = opened.scorer
    if not compares(folder):
        return ScorerJudge(scorer, opened.plain_text, name)
    if not isinstance(scorer, RewardScorer) or isinstance(scorer.encoder, Encoder):
        raise ModelError(
            f"reward {name} is an ensemble of models that compare answers, which has no win rate; give each "
            "member as a reward of its own"
        )
    return ComparerJudge(PairComparer(scorer.loaded, scorer.encoder), opened.plain_text, name)
