"""Rollouts from the files of any engine, whatever its columns are called.

======================================  ===========================================================
holdtrue                                ``prompt, answer`` and the fields of a Rollout
TRL (``log_completions``, Parquet)      ``step, prompt, completion``, rewards, ``advantage``
verl (``rollout_data_dir``)             ``input, output, score, step``
OpenRLHF, LLaMA-Factory, AlpacaEval     ``input|instruction, output, reward``
ms-swift (``completions.jsonl``)        ``prompt, completion``, each a list with one item an answer
vLLM, OpenAI                            ``messages``; ``request, response.choices``; ``prompt, outputs``
======================================  ===========================================================

A row with several answers gives several rollouts. What cannot be read is counted with its reason and place.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdtrue.data.fields import BadRow, show
from holdtrue.data.files import resources, rows
from holdtrue.errors import DataError
from holdtrue.records import Message, Messages, Rollout, Source
from holdtrue.rundir import RunDir

EXAMPLES = 3
_PROMPT = ("prompt", "instruction", "question", "query", "input")
_ANSWER = ("completion", "response", "output", "completions", "outputs", "responses", "answer", "text")
"""What was written comes before what may be the right answer."""
_IDS = ("completion_ids", "response_ids", "output_ids", "token_ids", "tokens")
_MASK = ("loss_mask", "response_mask", "completion_mask", "tool_mask")
_LOGPROBS = ("logprobs", "sampling_logprobs", "sampling_per_token_logps", "rollout_log_probs")
_TRAINED = ("trained_logprobs", "old_log_probs", "old_per_token_logps", "train_logprobs")
_REWARD = ("reward", "score", "rewards")
_ADVANTAGE = ("advantage", "advantages")
_FINISH = ("finish", "finish_reason", "stop_reason")
_STEP = ("step", "global_step", "gen_step")
_POLICY = ("policy", "generator", "checkpoint", "model")
_LISTS = {*_IDS, *_MASK, *_LOGPROBS, *_TRAINED, "tools"}
"""Columns that hold a list for one answer."""
_KNOWN = {*_PROMPT, *_ANSWER, *_IDS, *_MASK, *_LOGPROBS, *_TRAINED, *_REWARD, *_ADVANTAGE, *_FINISH, *_STEP}
_OF_MODELS = frozenset(
    {
        "checkpoints",
        "model",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.json",
        "added_tokens.json",
        "special_tokens_map.json",
        "preprocessor_config.json",
        "processor_config.json",
        "chat_template.json",
        "model.safetensors.index.json",
        "adapter_config.json",
        "trainer_state.json",
    }
)
"""Files and folders inside of folders that are no rollouts."""
_LIMIT = frozenset({"length", "max_tokens", "max_length", "truncated", "model_length", "max_new_tokens"})
"""Words of engines for "the length limit was reached"."""


@dataclass
class Dump:
    """Rollouts, the index of each among all answers of the files, and what could not be read."""

    rollouts: list[Rollout] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    count: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def reject(self, fault: BadRow, at: Source) -> None:
        """Count a row that cannot be read; it keeps its index."""
        self.unreadable[fault.reason] += 1
        places = self.examples.setdefault(fault.reason, [])
        if len(places) < EXAMPLES:
            places.append(f"{at} ({fault.detail})" if fault.detail else str(at))
        self.count += 1


def read_rollouts(paths: Sequence[str]) -> Dump:
    """All rollouts of files, folders of files and run directories, in order.

    In a folder what belongs to a model or to checkpoints is passed over.

    Raises:
        DataError: a path does not exist, is a run without rollouts, or nothing in it is a rollout.
    """
    dump = Dump()
    for resource in [one for path in paths for one in _resources(path)]:
        for row in rows(resource, hashlib.sha256(), finite=False):
            at = Source(resource, row.line, row.offset)
            try:
                if row.fault is not None or row.value is None:
                    raise row.fault or BadRow("empty row")
                found = list(_rollouts(row.value, at))
            except BadRow as fault:
                dump.reject(fault, at)
                continue
            dump.indices += range(dump.count, dump.count + len(found))
            dump.rollouts += found
            dump.count += len(found)
    if not dump.rollouts:
        reasons = "; ".join(f"{reason} ({dump.examples[reason][0]})" for reason in dump.unreadable)
        raise DataError(f"no rollouts in {', '.join(map(str, paths))}: {reasons or 'no rows'}")
    return dump


def own_run(paths: Sequence[str]) -> RunDir | None:
    """The run of ``holdtrue rl`` whose rollouts these are, given as its directory or as the file in it."""
    files = {_file(path) for path in paths}
    run = RunDir(next(iter(files)).parent)
    if {one.name for one in files} != {"rollouts.jsonl"} or len(files) > 1 or not run.settings_file.is_file():
        return None
    try:
        settings = run.settings()
        own = "holdtrue" in run.info() and settings.get("task") == "rl"
    except DataError:  # another engine's files of these names
        return None
    return run if own and isinstance(settings.get("policy"), Mapping) else None


def own_tokenizer(run: RunDir) -> Path | None:
    """The folder with the tokenizer that sampled a run's ids: its model, or what it began with."""
    start = Path(str(run.settings()["policy"].get("path")))
    return next((one for one in (run.model, start) if (one / "tokenizer_config.json").is_file()), None)


def _file(path: str) -> Path:
    inside = Path(path) / "rollouts.jsonl"
    return inside if inside.is_file() else Path(path)


def _resources(path: str) -> list[str]:
    """The files with rollouts behind a path.

    Raises:
        DataError: it does not exist, is a run without rollouts, or a folder without data.
    """
    folder = _file(path)
    if not folder.is_dir():
        return resources([str(folder)])
    run = RunDir(folder)
    if run.settings_file.is_file() and "holdtrue" in run.info():
        deeper = ", ".join(str(one.parent) for one in sorted(folder.rglob("rollouts.jsonl"))[:EXAMPLES])
        raise DataError(
            f"{path} is a run of holdtrue {run.settings().get('task') or 'train'} without rollouts.jsonl; "
            + (f"give the runs in it: {deeper}" if deeper else "runs of holdtrue rl have one")
        )
    inside = [(one, Path(one).relative_to(folder).parts) for one in resources([path])]
    found = [one for one, parts in inside if not _OF_MODELS & set(parts)]
    if not found:
        raise DataError(f"folder {path} holds files of models alone, as {inside[0][0]}, and no rollouts")
    return found


def _rollouts(row: Mapping[str, Any], at: Source) -> Iterator[Rollout]:
    if (chosen := _choices(row)) is not None:
        yield from _answered(row, chosen, at)
    elif isinstance(row.get("messages"), list) and not _first(row, _ANSWER):
        prompt, answer = _split(_content(row["messages"], "messages"))
        yield _rollout(row, prompt, answer, at)
    else:
        yield from _columns(row, at)


def _columns(row: Mapping[str, Any], at: Source) -> Iterator[Rollout]:
    """One answer in a column, or a list of them."""
    name = next((column for column in _ANSWER if row.get(column) is not None), None)
    if name is None and not isinstance(_first(row, _IDS), list):
        known = f"{', '.join(_PROMPT[:3])} with {', '.join(_ANSWER[:4])}"
        raise BadRow("no answer", f"columns are {', '.join(row)}; known are {known}, messages or choices")
    value = row[name] if name else ""
    answers = value if isinstance(value, list) and not _are_messages(value) else [value]
    if not answers:
        raise BadRow("no answer", f"{name} is an empty list")
    asked = next((column for column in _PROMPT if row.get(column) is not None and column != name), None)
    for index, answer in enumerate(answers):
        own = (
            dict(row)
            if answers is not value
            else {key: _item(key, row[key], index, len(answers)) for key in row}
        )
        if isinstance(answer, Mapping) and "role" not in answer:  # vLLM's outputs
            own |= answer
            answer = answer.get("text")
        policies = own.get("policies")
        own |= {"policy": policies} if isinstance(policies, str) else {}
        prompt = _content(own[asked], asked) if asked else ""
        if asked == "instruction" and isinstance(own.get("input"), str) and own["input"]:
            prompt = f"{prompt}\n\n{own['input']}"  # Alpaca
        yield _rollout(own, prompt, _content(answer, name or "answer"), at)


def _item(key: str, column: Any, index: int, count: int) -> Any:
    """An answer's own item of a column that has one for each; any other column is shared."""
    if not isinstance(column, list) or len(column) != count or _are_messages(column):
        return column
    if key in _LISTS and not isinstance(column[index], list):
        return column
    return column[index]


def _content(value: Any, column: str) -> Messages | str:
    """Text or messages; an assistant's tool calls and thoughts become text."""
    if isinstance(value, str):
        return value
    turns = [value] if isinstance(value, Mapping) else value
    if not isinstance(turns, list):
        raise BadRow("wrong type", f"{column} is {show(value)}, expected text or messages")
    for turn in turns:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str):
            raise BadRow("broken message", f"{column} holds {show(turn)}, expected role and content")
    return tuple(Message(turn["role"], _said(turn)) for turn in turns)


def _choices(row: Mapping[str, Any]) -> Sequence[Any] | None:
    """The choices of an OpenAI response, bare, in a log of requests, or in a batch's output."""
    response = row.get("response")
    inner = response if isinstance(response, Mapping) else row
    body = inner.get("body")
    found = (body if isinstance(body, Mapping) else inner).get("choices")
    return found if isinstance(found, list) and found else None


def _answered(row: Mapping[str, Any], choices: Sequence[Any], at: Source) -> Iterator[Rollout]:
    request = row.get("request") if isinstance(row.get("request"), Mapping) else row
    body = request.get("body") if isinstance(request, Mapping) else None
    asked: Mapping[str, Any] = body if isinstance(body, Mapping) else request or {}
    prompt: Messages | str = ""
    for column in ("messages", "prompt"):
        if asked.get(column) is not None:
            prompt = _content(asked[column], column)
    for choice in choices:
        if not isinstance(choice, Mapping):
            raise BadRow("wrong type", f"choices holds {show(choice)}, expected objects")
        message = choice.get("message")
        text = _said(message) if isinstance(message, Mapping) else choice.get("text")
        if not isinstance(text, str):
            raise BadRow("no answer", f"a choice has neither message nor text: {', '.join(choice)}")
        logprobs = choice.get("logprobs")
        each = logprobs.get("content") if isinstance(logprobs, Mapping) else None
        own = {**row, **choice, "logprobs": None}
        if isinstance(each, list):
            own["logprobs"] = [one.get("logprob") for one in each if isinstance(one, Mapping)]
        yield _rollout(own, prompt, text, at)


def _said(message: Mapping[str, Any]) -> str:
    """What an assistant message says: thoughts, text and tool calls, marked as templates mark them."""
    thought = message.get("reasoning_content") or message.get("reasoning")
    text = message.get("content") or ""
    if isinstance(text, list):
        text = "".join(str(part.get("text") or "") for part in text if isinstance(part, Mapping))
    called = message.get("tool_calls")
    calls = [call for call in called if isinstance(call, Mapping)] if isinstance(called, list) else []
    parts = [f"<think>\n{thought}\n</think>"] if thought else []
    parts += [str(text)] if text or not calls else []
    parts += [f"<tool_call>\n{json.dumps(call.get('function', call))}\n</tool_call>" for call in calls]
    return "\n".join(parts)


def _split(messages: Messages | str) -> tuple[Messages, Messages]:
    """A conversation at its last user turn: what stands after it is the answer."""
    if isinstance(messages, str):
        raise BadRow("wrong type", "messages is text, expected a list of messages")
    last = max((i for i, message in enumerate(messages) if message.role in ("user", "system")), default=-1)
    if last + 1 >= len(messages):
        raise BadRow("no answer", "the last message is the user's")
    return messages[: last + 1], messages[last + 1 :]


def _rollout(row: Mapping[str, Any], prompt: Messages | str, answer: Messages | str, at: Source) -> Rollout:
    if isinstance(answer, tuple) and len(answer) == 1 and answer[0].role == "assistant":
        answer = answer[0].content
    advantage = _first(row, _ADVANTAGE)
    reward = _number(_first(row, _REWARD))
    return Rollout(
        prompt,
        answer,
        completion_ids=_ids(_first(row, _IDS)),
        loss_mask=_ids(_first(row, _MASK)),
        logprobs=_numbers(_first(row, _LOGPROBS)),
        trained_logprobs=_numbers(_first(row, _TRAINED)),
        reward=_rewards(row) if reward is None else reward,
        advantage=_numbers(advantage) if isinstance(advantage, list) else _number(advantage),
        finish=_finish(row),
        step=_step(_first(row, _STEP)),
        policy=next((row[key] for key in _POLICY if isinstance(row.get(key), str)), None),
        meta={key: value for key, value in row.items() if key not in _KNOWN},
        source=at,
    )


def _rewards(row: Mapping[str, Any]) -> float | None:
    """The sum of TRL's reward functions: beside an advantage, every other column of numbers is one."""
    if _first(row, _ADVANTAGE) is None:
        return None
    found = [_number(value) for key, value in row.items() if key not in _KNOWN]
    numbers = [value for value in found if value is not None]
    return sum(numbers) if numbers else None


def _finish(row: Mapping[str, Any]) -> str | None:
    found = _first(row, _FINISH)
    if isinstance(found, str):
        return "length" if found.lower() in _LIMIT else found
    cut = row.get("truncated", row.get("is_truncated"))
    return None if not isinstance(cut, bool) else "length" if cut else "stop"


def _first(row: Mapping[str, Any], columns: Sequence[str]) -> Any:
    return next((row[column] for column in columns if row.get(column) is not None), None)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        raise BadRow("number too large", f"{str(value)[:40]} does not fit a float") from None


def _numbers(value: Any) -> list[float] | None:
    """A number for each token; null, which stands for NaN, is kept as NaN."""
    if not isinstance(value, list):
        return None
    numbers = [math.nan if one is None else _number(one) for one in value]
    if any(one is None for one in numbers):
        raise BadRow("wrong type", f"{show(value)}, expected numbers")
    return [one for one in numbers if one is not None]


def _ids(value: Any) -> list[int] | None:
    if not isinstance(value, list):
        return None
    if not all(isinstance(one, (int, float)) and one == one // 1 and abs(one) < 2**31 for one in value):
        raise BadRow("wrong type", f"{show(value)}, expected token ids")
    return [int(one) for one in value]


def _step(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and math.isfinite(number) else None


def _are_messages(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(one, Mapping) and "role" in one for one in value)
