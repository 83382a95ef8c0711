"""What a step's answers are worth: reward models and functions, whitened, clipped and added up.

    reward = Σ_k weight_k · clip((r_k - mean_k) / std_k)

with mean and std of reward k on answers of the start policy. Answers that the guard ended are left out or
penalised, answers without their end may get a fixed reward, and answers without a finite reward are left out
and counted. All judges get the answers as they were drawn, special tokens included.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdtrue.errors import DataError, HoldtrueError, QualityError, SettingsError
from holdtrue.policy.normaliser import Normaliser
from holdtrue.policy.samples import Samples
from holdtrue.policy.settings import GuardSettings, RewardSettings
from holdtrue.records import Answer, Group, Message, Messages, Rollout
from holdtrue.reward.folders import open_scorer
from holdtrue.reward.scorer import Scorer
from holdtrue.rundir import find_model

Function = Callable[[Sequence[Messages | str], Sequence[str], Sequence[Sequence[int]]], Any]


class Judge(Protocol):
    """Gives each answer of a step a number."""

    def judge(self, rollouts: Sequence[Rollout], group: int) -> NDArray[np.float64]:
        """(N,) rewards, NaN where an answer has none; ``group`` answers of a prompt stand together."""
        ...


@dataclass(frozen=True)
class ScorerJudge:
    """A reward model, or anything else that scores groups.

    ``plain_text``: what it takes prompts of plain text for, as it was trained.
    """

    scorer: Scorer
    plain_text: Literal["chat", "raw"] = "raw"

    def judge(self, rollouts: Sequence[Rollout], group: int) -> NDArray[np.float64]:
        """See :meth:`Judge.judge`; the answers to one prompt are one group, its prompt computed once."""
        groups = [self._group(rollouts[i : i + group]) for i in range(0, len(rollouts), group)]
        return np.concatenate([rewards.astype(np.float64) for rewards in self.scorer.score(groups)])

    def _group(self, rollouts: Sequence[Rollout]) -> Group:
        prompt = rollouts[0].prompt
        if isinstance(prompt, str) and self.plain_text == "chat":
            prompt = (Message("user", prompt),)
        raw = isinstance(prompt, str)
        texts = [one.text for one in rollouts]
        return Group(prompt, tuple(Answer(text if raw else (Message("assistant", text),)) for text in texts))


@dataclass(frozen=True)
class FunctionJudge:
    """A Python function ``f(prompts, texts, completion_ids)`` that returns a number for each answer."""

    function: Function
    name: str
    timeout: float = 300.0

    def judge(self, rollouts: Sequence[Rollout], group: int) -> NDArray[np.float64]:
        """See :meth:`Judge.judge`.

        Raises:
            DataError: the function raises, hangs, or returns anything else than a number or None a row.
        """
        returned = self._call(rollouts)
        try:
            values = list(returned)
        except TypeError:
            raise DataError(
                f"reward {self.name} returned a {type(returned).__name__}; a list of {len(rollouts)} numbers "
                "is needed"
            ) from None
        if len(values) != len(rollouts):
            raise DataError(
                f"reward {self.name} returned {len(values)} rewards for {len(rollouts)} answers; one for "
                "each is needed"
            )
        return np.array([self._number(value, row) for row, value in enumerate(values)])

    def _call(self, rollouts: Sequence[Rollout]) -> Any:
        """The function's result, or what went wrong in it; a thread of its own so that it may hang."""
        done: dict[str, Any] = {}

        def run() -> None:
            try:
                done["value"] = self.function(*_columns(rollouts))
            except BaseException as error:
                done["error"] = error

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self.timeout)
        if thread.is_alive():
            raise DataError(
                f"reward {self.name} took longer than {self.timeout:g} s for {len(rollouts)} answers; mend "
                "it, or raise its timeout"
            )
        error = done.get("error")
        if error is None:
            return done["value"]
        if len(rollouts) > 1 and isinstance(error, Exception):
            for row, rollout in enumerate(rollouts):
                try:
                    self._call([rollout])
                except DataError as alone:
                    raise DataError(f"{alone}, at answer {row}: {rollout.text[:60]!r}") from error
        where = f" on {len(rollouts)} answers at once" if len(rollouts) > 1 else ""
        said = " ".join(str(error).split())[:200]
        raise DataError(f"reward {self.name} raised {type(error).__name__}: {said}{where}") from error

    def _number(self, value: Any, row: int) -> float:
        if value is None:
            return float("nan")
        try:
            return float(value)
        except (TypeError, ValueError):
            raise DataError(
                f"reward {self.name} returned {value!r:.60} for answer {row}; a number or None is needed"
            ) from None


def _columns(rollouts: Sequence[Rollout]) -> tuple[list[Any], list[str], list[Sequence[int]]]:
    ids = [one.completion_ids or () for one in rollouts]
    return [one.prompt for one in rollouts], [one.text for one in rollouts], ids


def load_function(place: str) -> Function:
    """The function of ``file.py:name``.

    Raises:
        SettingsError: there is no such file or function, or the file cannot be imported.
    """
    file, _, name = place.rpartition(":")
    if not Path(file).is_file():
        raise SettingsError(f"reward function {place}: {file} does not exist")
    spec = importlib.util.spec_from_file_location(f"holdtrue_reward_{Path(file).stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SettingsError(
            f"reward function {place}: {file} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        raise SettingsError(f"reward function {place}: {file} has no function {name!r}")
    return found  # type: ignore[no-any-return]


def open_judge(settings: RewardSettings, device: str, trust_remote_code: bool = False) -> Judge:
    """The judge a part of the reward names.

    Raises:
        ModelError, DataError, SettingsError: the model or function cannot be loaded.
    """
    if settings.function is not None:
        return FunctionJudge(load_function(settings.function), settings.name, settings.timeout)
    folder = find_model(str(settings.model))
    opened = open_scorer(folder, device=device, trust_remote_code=trust_remote_code)
    return ScorerJudge(opened.scorer, opened.plain_text)


@dataclass(frozen=True)
class Judged:
    """A step's rewards.

    Attributes:
        raw: (N,) Σ weight·reward as the judges gave them; NaN where one gave none.
        rewards: (N,) whitened and shaped: what is learnt from. Anything where ``keep`` is false.
        keep: (N,) bool.
        nan: answers without a finite reward.
        guarded: answers that the guard's verdict left out or penalised.
    """

    raw: Tensor
    rewards: Tensor
    keep: Tensor
    nan: int
    guarded: int


class RewardStack:
    """The parts of the reward with their scales, and the guard's verdicts."""

    def __init__(
        self, judges: Sequence[Judge], settings: Sequence[RewardSettings], guard: GuardSettings
    ) -> None:
        """One judge for each of the settings."""
        self.judges, self.settings, self.guard = judges, settings, guard
        self.normalisers = [Normaliser(one.clip) for one in settings]

    def fit(self, rollouts: Sequence[Rollout], group: int) -> Tensor:
        """Take the scales from answers of the start policy; (N,) their raw rewards.

        Raises:
            QualityError: a reward that is to be whitened is the same for all of them.
        """
        parts = self._judge(rollouts, group)
        for settings, normaliser, part in zip(self.settings, self.normalisers, parts, strict=True):
            if settings.whiten:
                try:
                    normaliser.fit(part)
                except QualityError as error:
                    raise QualityError(
                        f"reward {settings.name}: {error}; set whiten: false to take it as it is"
                    ) from None
        return self._sum(parts)

    def scale(self, part: int) -> tuple[float, float]:
        """How a part counts where it is not clipped: factor · (reward - mean), the two numbers."""
        settings, normaliser = self.settings[part], self.normalisers[part]
        if not settings.whiten:
            return settings.weight, 0.0
        if normaliser.mean is None or normaliser.std is None:
            raise ValueError("the normaliser is not fitted")
        return settings.weight / normaliser.std, normaliser.mean

    def score(self, rollouts: Sequence[Rollout], samples: Samples) -> Judged:
        """What each answer is worth.

        Raises:
            QualityError: no answer has a finite reward.
        """
        parts = self._judge(rollouts, samples.group)
        raw = self._sum(parts)
        scaled = [
            n(part) if s.whiten else part
            for s, n, part in zip(self.settings, self.normalisers, parts, strict=True)
        ]
        rewards = self._sum(scaled)
        known = raw.isfinite()
        if not known.any():
            raise QualityError(
                f"none of {len(raw)} answers has a finite reward; the reward model or function is broken"
            )
        ended = torch.tensor([finish == "stop" for finish in samples.finish])
        if self.guard.no_end_reward is not None:
            rewards = rewards.where(ended | ~known, self.guard.no_end_reward)
        hit = torch.tensor([finish in ("loop", "control") for finish in samples.finish])
        keep = known
        if self.guard.on_hit == "exclude":
            keep = known & ~hit
        elif self.guard.on_hit == "penalise":
            rewards = rewards.where(~hit, self.guard.penalty)
            keep = known | hit
        guarded = int(hit.sum()) if self.guard.on_hit != "none" else 0
        return Judged(raw.float(), rewards.float(), keep, int((~known).sum()), guarded)

    def _judge(self, rollouts: Sequence[Rollout], group: int) -> list[Tensor]:
        parts = []
        for judge, settings in zip(self.judges, self.settings, strict=True):
            try:
                found = judge.judge(rollouts, group)
            except (HoldtrueError, MemoryError):
                raise
            except Exception as error:
                said = " ".join(str(error).split())[:200]
                raise DataError(f"reward {settings.name} raised {type(error).__name__}: {said}") from error
            values = torch.from_numpy(np.asarray(found, dtype=np.float64))
            parts.append(values.where(values.isfinite(), float("nan")))
        return parts

    def _sum(self, parts: Sequence[Tensor]) -> Tensor:
        weighted = [one.weight * part for one, part in zip(self.settings, parts, strict=True)]
        return torch.stack(weighted).sum(0)

    def state_dict(self) -> list[dict[str, Any]]:
        """The scales."""
        return [one.state_dict() for one in self.normalisers]

    def load_state_dict(self, state: Sequence[dict[str, Any]]) -> None:
        """Go on from saved scales."""
        for normaliser, one in zip(self.normalisers, state, strict=True):
            normaliser.load_state_dict(one)
