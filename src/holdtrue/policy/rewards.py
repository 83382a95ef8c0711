"""What a step's answers are worth: reward models and functions, whitened, clipped and added up.

    reward = Σ_k weight_k · clip((r_k - mean_k) / std_k) + shaping

with mean and std of reward k on answers of the start policy. Then the guard has its word: answers that it
ended are left out or penalised, answers without their end may get a fixed reward, whatever the sum was.
Answers without a finite reward are left out and counted.
"""

from __future__ import annotations

import importlib.util
import inspect
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from holdtrue.errors import DataError, HoldtrueError, QualityError, SettingsError
from holdtrue.policy.judges import ComparerJudge, open_model
from holdtrue.policy.normaliser import Normaliser
from holdtrue.policy.samples import Samples
from holdtrue.policy.settings import GuardSettings, RewardSettings
from holdtrue.policy.shaping import NAMES, Shaping
from holdtrue.records import Messages, Rollout
from holdtrue.rundir import find_model
from holdtrue.training.distributed import ALONE, World

Function = Callable[[Sequence[Messages | str], Sequence[str], Sequence[Sequence[int]]], Any]


class Judge(Protocol):
    """Gives each answer of a step a number."""

    def judge(self, rollouts: Sequence[Rollout], group: int) -> NDArray[np.float64]:
        """(N,) rewards, NaN where an answer has none; ``group`` answers of a prompt stand together."""
        ...


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
        values = self._call(rollouts)
        if not isinstance(values, list):
            raise DataError(
                f"reward {self.name} returned a {type(values).__name__}; a list of {len(rollouts)} numbers "
                "is needed"
            )
        if len(values) != len(rollouts):
            raise DataError(
                f"reward {self.name} returned {len(values)} rewards for {len(rollouts)} answers; one for "
                "each is needed"
            )
        return np.array([self._number(value, row) for row, value in enumerate(values)])

    def _call(self, rollouts: Sequence[Rollout]) -> Any:
        """What the function returned, as a list where it can be one, or what went wrong in it; a thread of
        its own so that it may hang."""
        done: dict[str, Any] = {}

        def run() -> None:
            try:
                returned = self.function(*_columns(rollouts))
                unordered = isinstance(returned, Mapping | Set | str | bytes)
                listed = isinstance(returned, Iterable) and not unordered
                done["value"] = list(returned) if listed else returned
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
            if not isinstance(value, str | bytes):
                return float(value)
        except (TypeError, ValueError, RuntimeError):
            pass
        raise DataError(
            f"reward {self.name} returned {value!r:.60} for answer {row}; a number or None is needed"
        )


def _columns(rollouts: Sequence[Rollout]) -> tuple[list[Any], list[str], list[Sequence[int]]]:
    ids = [one.completion_ids or () for one in rollouts]
    return [one.prompt for one in rollouts], [one.text for one in rollouts], ids


def load_function(place: str, called: str = "prompts, texts, completion_ids") -> Function:
    """The function of ``file.py:name``.

    Args:
        called: the lists it will be called with.

    Raises:
        SettingsError: there is no such file or function, the file cannot be imported, or the function
            takes another number of arguments.
    """
    file, _, name = place.rpartition(":")
    if not Path(file).is_file():
        raise SettingsError(f"function {place}: {file} does not exist")
    spec = importlib.util.spec_from_file_location(f"holdtrue_reward_{Path(file).stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SettingsError(
            f"function {place}: {file} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        raise SettingsError(f"function {place}: {file} has no function {name!r}")
    with suppress(ValueError):  # a builtin may not tell
        parameters = inspect.signature(found)
        try:
            parameters.bind(*called.split(", "))
        except TypeError as error:
            raise SettingsError(
                f"function {place} takes {parameters}; it is called with ({called})"
            ) from error
    return found  # type: ignore[no-any-return]


def open_judge(settings: RewardSettings, device: str, trust_remote_code: bool = False) -> Judge:
    """The judge a part of the reward names.

    Raises:
        ModelError, DataError, SettingsError: the model or function cannot be loaded.
    """
    if settings.function is not None:
        return FunctionJudge(load_function(settings.function), settings.name, settings.timeout)
    return open_model(find_model(str(settings.model)), settings.name, device, trust_remote_code)


@dataclass(frozen=True)
class Judged:
    """A step's rewards.

    Attributes:
        raw: (N,) Σ weight·reward as the judges gave them; NaN where one gave none.
        parts: what each answer gets from each part, (N,) by name: weight times the whitened reward, and
            shaping. They add up to ``rewards`` but for those that the guard sets.
        rewards: (N,) whitened and shaped: what is learnt from. Anything where ``keep`` is false.
        keep: (N,) bool.
        nan: answers without a finite reward.
        guarded: answers that the guard's verdict left out or penalised.
    """

    raw: Tensor
    parts: dict[str, Tensor]
    rewards: Tensor
    keep: Tensor
    nan: int
    guarded: int


class RewardStack:
    """The parts of the reward with their scales, and the guard's verdicts."""

    def __init__(
        self,
        judges: Sequence[Judge],
        settings: Sequence[RewardSettings],
        guard: GuardSettings,
        shaping: Shaping | None = None,
        longest: int = 0,
        world: World = ALONE,
    ) -> None:
        """One judge for each of the settings; ``longest``: most tokens of an answer, for the shaping.

        Each process of ``world`` judges its part of the groups, and all know the rewards of all.
        """
        self.judges, self.settings, self.guard = judges, settings, guard
        self.shaping, self.longest = shaping or Shaping(), longest
        self.normalisers = [Normaliser(one.clip) for one in settings]
        self.world = world
        self.names = _names(settings)

    @property
    def compares(self) -> bool:
        """Whether a part compares answers, and so needs another to judge a single one."""
        return any(isinstance(judge, ComparerJudge) for judge in self.judges)

    def fit(self, rollouts: Sequence[Rollout], group: int) -> Tensor:
        """Take the scales from answers of the start policy; (N,) their raw rewards.

        Raises:
            QualityError: a reward that is to be whitened is the same for all of them.
        """
        parts = self._judge(rollouts, group, np.ones(len(rollouts), np.bool_))
        for settings, normaliser, part in zip(self.settings, self.normalisers, parts, strict=True):
            if settings.whiten:
                try:
                    normaliser.fit(part)
                except QualityError as error:
                    raise QualityError(
                        f"reward {settings.name}: {error}; set whiten: false to take it as it is"
                    ) from None
        return self._weighted(parts).sum(0)

    def scale(self, part: int) -> tuple[float, float]:
        """How a part counts where it is not clipped: factor · (reward - mean), the two numbers."""
        settings, normaliser = self.settings[part], self.normalisers[part]
        if not settings.whiten:
            return settings.weight, 0.0
        if normaliser.mean is None or normaliser.std is None:
            raise ValueError("the normaliser is not fitted")
        return settings.weight / normaliser.std, normaliser.mean

    def score(
        self, rollouts: Sequence[Rollout], samples: Samples, against: Sequence[Rollout] | None = None
    ) -> Judged:
        """What each answer is worth.

        Args:
            against: another answer to each one's prompt: models that compare answers compare with that
                alone. By default with the others of the group, those left out or penalised by the guard not
                among them.

        Raises:
            QualityError: no answer has a finite reward.
        """
        hit = torch.tensor([finish in ("loop", "control") for finish in samples.finish])
        ruled = hit & (self.guard.on_hit != "none")
        judged = self._judge(rollouts, samples.group, (~ruled).numpy(), against)
        raw = self._weighted(judged).sum(0)
        known = raw.isfinite()
        if not known.any():
            raise QualityError(
                f"none of {len(raw)} answers has a finite reward; the reward model or function is broken"
            )
        scaled = [
            n(part) if s.whiten else part
            for s, n, part in zip(self.settings, self.normalisers, judged, strict=True)
        ]
        ended = torch.tensor([finish == "stop" for finish in samples.finish])
        lengths = torch.from_numpy(samples.lengths)
        parts = dict(zip(self.names, self._weighted(scaled), strict=True))
        parts |= self.shaping(lengths, ended, self.longest)
        rewards = torch.stack(list(parts.values())).sum(0)
        if self.guard.no_end_reward is not None:
            rewards = rewards.where(ended | ~known, self.guard.no_end_reward)
        keep = known
        if self.guard.on_hit == "exclude":
            keep = known & ~hit
        elif self.guard.on_hit == "penalise":
            rewards = rewards.where(~hit, self.guard.penalty)
            keep = known | hit
        return Judged(raw.float(), parts, rewards.float(), keep, int((~known).sum()), int(ruled.sum()))

    def _judge(
        self,
        rollouts: Sequence[Rollout],
        group: int,
        rivals: NDArray[np.bool_],
        against: Sequence[Rollout] | None = None,
    ) -> list[Tensor]:
        parts = []
        groups = self.world.part(len(rollouts) // group)
        own = slice(groups.start * group, groups.stop * group)
        rollouts, rivals, against = rollouts[own], rivals[own], None if against is None else against[own]
        for judge, settings in zip(self.judges, self.settings, strict=True):
            try:
                if not rollouts:
                    found = np.zeros(0)
                elif not isinstance(judge, ComparerJudge):
                    found = judge.judge(rollouts, group)
                elif against is None:
                    found = judge.judge(rollouts, group, rivals)
                else:
                    pairs = [one for pair in zip(rollouts, against, strict=True) for one in pair]
                    found = judge.judge(pairs, 2)[::2]
            except (HoldtrueError, MemoryError):
                raise
            except Exception as error:
                said = " ".join(str(error).split())[:200]
                raise DataError(f"reward {settings.name} raised {type(error).__name__}: {said}") from error
            every = self.world.gather(np.asarray(found, dtype=np.float64))
            values = torch.from_numpy(np.concatenate(every))
            parts.append(values.where(values.isfinite(), float("nan")))
        return parts

    def _weighted(self, parts: Sequence[Tensor]) -> Tensor:
        """(K, N) each part times its weight."""
        return torch.stack([one.weight * part for one, part in zip(self.settings, parts, strict=True)])

    def state_dict(self) -> list[dict[str, Any]]:
        """The scales."""
        return [one.state_dict() for one in self.normalisers]

    def load_state_dict(self, state: Sequence[dict[str, Any]]) -> None:
        """Go on from saved scales."""
        for normaliser, one in zip(self.normalisers, state, strict=True):
            normaliser.load_state_dict(one)


def _names(settings: Sequence[RewardSettings]) -> list[str]:
    """What the parts are called where they are logged: function or folder, numbered where they are alike."""
    found: list[str] = []
    for one in settings:
        name = str(one.function).rpartition(":")[2] if one.model is None else Path(one.model).name
        tries = chain([name], (f"{name}-{number}" for number in count(2)))
        found.append(next(own for own in tries if own not in (*NAMES, *found)))
    return found
