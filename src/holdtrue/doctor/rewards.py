"""How any reward is asked: a Python function of the common signatures, or a server that RL engines speak to.

All become one thing, a :data:`Reward`: cases in, a number for each out. What can go wrong on the way
(an exception, a hang, a wrong count, text for numbers) becomes a :class:`RewardFault` in :func:`ask`.

A function is called by the names of its parameters, and these are understood:

    (prompts, texts, completion_ids) -> [float]             holdtrue's own runs; here ids are not known, so ()
    (prompts, completions, **columns) -> [float]            TRL, GRPOTrainer ``reward_funcs``; may be async
    (data_source, solution_str, ground_truth, extra_info)   verl, ``compute_score``: a float or {"score"}
    (queries, prompts, labels) -> {"rewards": [float]}      OpenRLHF, ``remote_rm_url=file.py``
    (text) -> float, (prompt, completion) -> float          anything else with one or two parameters
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import signal
import sys
import threading
from asyncio import run
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdtrue.errors import HoldtrueError, SettingsError, unknown
from holdtrue.records import Message, Messages, as_json, flatten


@dataclass(frozen=True)
class Case:
    """A prompt and one answer, as a reward is asked about them.

    ``columns`` are what else the reward may read of the row, such as ``ground_truth``; ``at`` says where
    the row stands.
    """

    prompt: Messages | str
    answer: Messages | str
    at: str
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The answer's last turn."""
        return self.answer if isinstance(self.answer, str) else self.answer[-1].content

    def saying(self, text: str) -> Case:
        """The same with another text in the answer's last turn."""
        if isinstance(self.answer, str):
            return replace(self, answer=text)
        return replace(self, answer=(*self.answer[:-1], replace(self.answer[-1], content=text)))

    def as_chat(self) -> Case:
        """The same as messages: plain strings become a user turn and an assistant turn."""
        prompt = (Message("user", self.prompt),) if isinstance(self.prompt, str) else self.prompt
        answer = (Message("assistant", self.answer),) if isinstance(self.answer, str) else self.answer
        return replace(self, prompt=prompt, answer=answer)


Reward = Callable[[Sequence[Case]], Any]
"""Cases in, a sequence of numbers out; None and NaN stand for no reward."""


class RewardFault(Exception):
    """A reward did not give a number for each case; the message says in a few words what it did."""

    def __init__(self, message: str, hung: bool = False) -> None:
        super().__init__(message)
        self.hung = hung


class _OutOfTime(BaseException):
    """Not an Exception, so that a reward which catches all of those does not catch this."""


def ask(reward: Reward, cases: Sequence[Case], limit: float) -> NDArray[np.float64]:
    """The reward of each case (N,); NaN where it gives none.

    ``limit`` is in seconds for the whole call. It is kept by the alarm signal, so only in the main
    thread and where there is one (not on Windows).

    Raises:
        RewardFault: it raised, took too long, or gave something else than N numbers.
    """
    try:
        with _at_most(limit):
            given = reward(cases)
            if not isinstance(given, list | tuple) and not hasattr(given, "tolist"):
                raise RewardFault(f"gives {_named(given)} for {len(cases)} answers, not a list of numbers")
            values = list(given.tolist() if hasattr(given, "tolist") else given)
    except _OutOfTime:
        raise RewardFault(f"gives no answer within {limit:g} s", hung=True) from None
    except (RewardFault, HoldtrueError):
        raise
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())[:200]
        raise RewardFault(f"raises {type(error).__name__}{f': {said}' if said else ''}") from error
    if len(values) != len(cases):
        raise RewardFault(f"gives {len(values)} rewards for {len(cases)} answers")
    return np.array([_number(value) for value in values], dtype=np.float64)


def _number(value: Any) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise RewardFault(f"gives {_named(value)}, not a number")
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor of several elements
        raise RewardFault(f"gives {_named(value)}, not a number") from error


def _named(value: Any) -> str:
    shown = repr(value)
    return (
        f"{type(value).__name__} {shown}" if len(shown) <= 40 and value is not None else type(value).__name__
    )


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise _OutOfTime in the body after that time, and again should the body catch it."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise _OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def from_name(name: str) -> Reward:
    """The function ``package.module:function`` or ``path/to/file.py:function``; its code is run.

    Modules are also looked for in the working directory.

    Raises:
        SettingsError: it cannot be imported, is not there, or takes parameters nobody knows.
    """
    place, _, attribute = name.rpartition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())[:200]
        raise SettingsError(f"{place} cannot be imported: {type(error).__name__}: {said}") from error
    function = getattr(module, attribute, None)
    if function is None:
        there = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise SettingsError(f"{place}: {unknown('function', attribute, there)}")
    return from_function(function)


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # a .py file has both
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses look their module up
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    spec.loader.exec_module(module)
    return module


def from_function(function: Any) -> Reward:
    """A Python function as a reward, called by the names of its parameters (see the module).

    Raises:
        SettingsError: it is not callable, is a class, or takes parameters nobody knows. The reward raises
            it too, for a column that the function needs and the cases lack.
    """
    name = getattr(function, "__name__", type(function).__name__)
    if isinstance(function, type) or not callable(function):
        raise SettingsError(f"{name} is not a function but a {type(function).__name__}; name a function")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"the parameters of {name} cannot be told; wrap it in a function") from error
    parameters = signature.parameters
    positional = [
        one for one in parameters.values() if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    needed = [one for one in positional if one.default is one.empty]
    if "texts" in parameters:
        try:
            signature.bind([], [], [])
        except TypeError as error:
            raise SettingsError(
                f"{name}{signature} reads texts, so it is called with (prompts, texts, completion_ids)"
            ) from error
        return lambda cases: _result(
            function([c.prompt for c in cases], [flatten(c.answer) for c in cases], [()] * len(cases))
        )
    if "completions" in parameters:
        return lambda cases: _result(function(**_chosen(name, parameters, _trl(cases))))
    if "solution_str" in parameters:
        return lambda cases: [_score(function(**_chosen(name, parameters, _verl(case)))) for case in cases]
    if "queries" in parameters:
        return lambda cases: rewards_of(function(**_chosen(name, parameters, openrlhf(cases, "queries"))))
    if 1 in (len(positional), len(needed)):
        return lambda cases: [_result(function(flatten(case.answer))) for case in cases]
    if 2 in (len(positional), len(needed)):
        return lambda cases: [
            _result(function(flatten(case.prompt, roles=True), flatten(case.answer))) for case in cases
        ]
    raise SettingsError(
        f"{name}({', '.join(parameters)}) is of no known form; known are (prompts, texts, completion_ids), "
        "(prompts, completions, **columns), (data_source, solution_str, ground_truth, extra_info), "
        "(queries, prompts, labels), (prompt, completion) and (text)"
    )


def _result(value: Any) -> Any:
    """What a function gives, awaited where it is a coroutine."""
    if not inspect.isawaitable(value):
        return value

    async def finished() -> Any:
        return await value

    return run(finished())


def _score(value: Any) -> Any:
    value = _result(value)
    return value.get("score") if isinstance(value, dict) else value


def _chosen(
    name: str, parameters: Mapping[str, inspect.Parameter], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Those of the values that the function takes.

    Raises:
        SettingsError: one that it needs is not there.
    """
    for key, one in parameters.items():
        if one.default is one.empty and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
            if key == "completion_ids":
                raise SettingsError(
                    f"{name} reads completion_ids; the audit changes texts and has no token ids"
                )
            if key not in values:
                raise SettingsError(
                    f"{name} needs {key!r}, which the rows lack; give rows that have it with --data FILE"
                )
    takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return {key: value for key, value in values.items() if takes_all or key in parameters}


def _trl(cases: Sequence[Case]) -> dict[str, Any]:
    """What TRL's GRPOTrainer passes (trl 1.16, ``_calculate_rewards``), but token ids and trainer state."""
    columns = {key: [case.columns.get(key) for case in cases] for key in cases[0].columns}
    return columns | {
        "prompts": [as_json(case.prompt) for case in cases],
        "completions": [as_json(case.answer) for case in cases],
        "trainer_state": None,
        "log_extra": lambda *_: None,
        "log_metric": lambda *_: None,
    }


def _verl(case: Case) -> dict[str, Any]:
    """What verl's reward managers pass; the ground truth stands in a column, or in ``reward_model``."""
    model = case.columns.get("reward_model")
    nested = model if isinstance(model, dict) else {}
    values = {"data_source": "holdtrue", "extra_info": None, **nested, **case.columns}
    return values | {"solution_str": flatten(case.answer)}


def openrlhf(cases: Sequence[Case], queries: str = "query") -> dict[str, Any]:
    """OpenRLHF's request: prompt and answer as one text, the prompts, and the ``label`` column.

    OpenRLHF has the chat template rendered into both (``openrlhf/utils/remote_rm_utils.py``). Without a
    tokenizer that cannot be done here: messages are joined by blank lines, and a reward that reads the
    template is to be given plain rows with the template in them.
    """
    prompts = [flatten(case.prompt, roles=True) for case in cases]
    joined = [
        prompt + ("" if isinstance(case.prompt, str) else "\n\n") + flatten(case.answer)
        for prompt, case in zip(prompts, cases, strict=True)
    ]
    labels = [case.columns.get("label", case.columns.get("ground_truth", "")) for case in cases]
    return {queries: joined, "prompts": prompts, "labels": labels}


def rewards_of(value: Any) -> Any:
    """``rewards`` of what OpenRLHF's functions and servers give."""
    value = _result(value)
    if not isinstance(value, dict) or "rewards" not in value:
        seen = f"the keys {', '.join(map(str, value))}" if isinstance(value, dict) else _named(value)
        raise RewardFault(f'gives {seen}, not {{"rewards": [...]}}')
    return value["rewards"]
