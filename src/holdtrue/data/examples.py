"""Training data of any layout as examples; what cannot be read is counted and said.

    messages                          a conversation of {role, content, tool_calls}
    prompt, completion                strings, or messages
    prompt, chosen, rejected          strings, or messages; without a prompt each side is a whole conversation
    prompt                            of RL: nothing to learn from but the reward
    conversations                     ShareGPT: {from, value}
    instruction, input, output        Alpaca
    text                              learned as it is

Strings become a user's and an assistant's turn, native HH-RLHF dialogues their turns. ``tools`` (a list, or
JSON) and ``system`` (a string) may stand beside each layout but ``text``; beside every one that is learned
``weight`` (of the row in the loss) and ``loss_from`` (the first character of the target to be learned).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any, Protocol

from holdtrue.data import files
from holdtrue.data.fields import BadRow, dialogue, is_dialogue, show
from holdtrue.errors import DataError

Turn = Mapping[str, Any]

_SPEAKERS = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
"""ShareGPT's names of the roles, where they differ from those of chat templates."""
_ANSWERS = ("completion", "response", "output")


@dataclass(frozen=True)
class Example:
    """A training example, and where it stands.

    Attributes:
        messages: the whole conversation, as chat templates take it; its last assistant turn is the target,
            and there is none where it ends with another role (a prompt for RL). Empty for raw text.
        at: ``file:line``.
        rejected: what would stand in the target's place for the answer that lost (pairs only).
        tools: functions offered to the model, as chat templates take them.
        text: raw text, which is learned as it is, without a template.
        given: turns at the beginning that are the row's prompt, so that none of them is learned.
        plain: prompt and answer stood in the row as two strings.
        weight: of the example in a loss.
        loss_from: characters of the target that are not to be learned.
    """

    messages: tuple[Turn, ...]
    at: str
    rejected: tuple[Turn, ...] | None = None
    tools: Sequence[Any] | None = None
    text: str | None = None
    given: int = 0
    plain: bool = False
    weight: float = 1.0
    loss_from: int = 0

    @property
    def target(self) -> str | None:
        """Text of the last assistant turn, or the raw text; None where nothing is to be learned."""
        if self.text is not None:
            return self.text
        return content_of(self.messages[-1]) if self.messages[-1]["role"] == "assistant" else None

    @property
    def learned_texts(self) -> tuple[str, ...]:
        """All that is to be learned: the target, and the thoughts and calls beside it."""
        if self.text is not None:
            return (self.text,) if self.text else ()
        return texts_of(self.messages[-1]) if self.target is not None else ()


def content_of(turn: Turn) -> str:
    """Text of a turn; parts that are not text are left out."""
    content = turn.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def beside(turn: Turn) -> Iterator[tuple[str, str]]:
    """What an answer says beside its content, as templates write it too: ``("thought", text)``, and
    ``("call", text)`` for every string among the arguments of its tool calls.
    """
    if turn.get("role") != "assistant":
        return
    thought, calls = turn.get("reasoning_content"), turn.get("tool_calls")
    if isinstance(thought, str) and thought.strip():
        yield "thought", thought
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function", call) if isinstance(call, Mapping) else {}
        given = function.get("arguments") if isinstance(function, Mapping) else None
        yield from (("call", text) for text in _strings(given) if text.strip())


def texts_of(turn: Turn) -> tuple[str, ...]:
    """All that a turn says: its content, if any, and what stands :func:`beside` it."""
    return tuple(filter(None, [content_of(turn), *(text for _, text in beside(turn))]))


def _strings(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, Mapping | list):
            waiting += reversed([*part.values()] if isinstance(part, Mapping) else part)


@dataclass
class ExampleReport:
    """Rows read, by layout, and what was wrong with the others: reason -> count, and places.

    ``files`` are those that were read, each with its ``path`` and ``sha256`` (null for hub data sets);
    ``unread_rows`` has every row that could not be read with its place, reason and detail.
    """

    files: list[dict[str, str | None]] = field(default_factory=list)
    layouts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    unread_rows: list[dict[str, str]] = field(default_factory=list)
    places: dict[str, list[str]] = field(default_factory=dict)

    @property
    def unread(self) -> int:
        return sum(self.faults.values())

    def note(self, fault: BadRow, at: str) -> None:
        """Count a row that could not be read; its reason keeps the first three places."""
        self.faults[fault.reason] += 1
        self.unread_rows.append({"at": at, "reason": fault.reason, "detail": fault.detail})
        kept = self.places.setdefault(fault.reason, [])
        if len(kept) < 3:
            kept.append(f"{at} ({fault.detail})" if fault.detail else at)


def read_examples(paths: Sequence[str]) -> tuple[list[Example], ExampleReport]:
    """Every example of the files (or folders of files), in order.

    Raises:
        DataError: a file is not there, or none of the rows can be read.
    """
    report = ExampleReport()
    return list(_read(paths, report)), report


class Examples(Protocol):
    """Examples that can be counted and gone through again: a list, or files."""

    def __iter__(self) -> Iterator[Example]: ...

    def __len__(self) -> int: ...


class ExampleFiles:
    """The examples of files (or folders of files), read anew each time they are gone through and never held.

    ``report`` says what the rows are, and which cannot be read.

    Raises:
        DataError: a file is not there, or none of the rows can be read.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = tuple(paths)
        self.report = ExampleReport()
        self._count = sum(1 for _ in _read(self._paths, self.report))

    def __iter__(self) -> Iterator[Example]:
        return _read(self._paths, ExampleReport())

    def __len__(self) -> int:
        return self._count


def _read(paths: Sequence[str], report: ExampleReport) -> Iterator[Example]:
    """Every example in order, noted in the report; raises DataError at the end where there was none."""
    for resource in files.resources(paths):
        digest = hashlib.sha256()
        for row in files.rows(resource, digest):
            at = f"{resource}:{row.line}"
            try:
                if row.value is None:
                    raise row.fault or BadRow("empty row")
                layout, example = example_of(row.value, at)
            except BadRow as fault:
                report.note(fault, at)
            else:
                report.layouts[layout] += 1
                yield example
        sha256 = None if resource.startswith(files.HUB) else digest.hexdigest()
        report.files.append({"path": resource, "sha256": sha256})
    if not report.layouts:
        why = "no rows"
        for reason, count in report.faults.most_common(1):
            why = f"{reason} ({count} rows, first at {report.places[reason][0]})"
        raise DataError(f"no example can be read from {', '.join(map(str, paths))}: {why}")


def example_of(row: Mapping[str, Any], at: str) -> tuple[str, Example]:
    """Name of the layout, and the example; raises BadRow for a row of no layout, or a broken one."""
    layout, example = _laid_out(row, at)
    return layout, replace(
        example, weight=_number(row, "weight", 1.0), loss_from=int(_number(row, "loss_from"))
    )


def _laid_out(row: Mapping[str, Any], at: str) -> tuple[str, Example]:
    tools = _tools(row.get("tools"))
    before = _system(row)
    if row.get("messages") is not None:
        return "messages", Example(before + _turns(row["messages"], "messages"), at, tools=tools)
    if row.get("conversations") is not None:
        return "sharegpt", Example(before + _spoken(row["conversations"]), at, tools=tools)
    if row.get("chosen") is not None and row.get("rejected") is not None:
        chosen, rejected, given = _pair(row)
        plain = not before and _are_strings(row, "prompt", "chosen")
        return "pair", Example(before + chosen, at, rejected, tools, given=len(before) + given, plain=plain)
    answer = next((name for name in _ANSWERS if row.get(name) is not None), None)
    if row.get("instruction") is not None and answer:
        asked = [_text(row, name) for name in ("instruction", "input") if row.get(name)]
        talk = (_turn("user", "\n\n".join(asked)), _turn("assistant", _text(row, answer)))
        return "alpaca", Example(before + talk, at, tools=tools, given=len(before) + 1, plain=not before)
    if row.get("prompt") is not None:
        prompt = _prompt(row["prompt"])
        turns = _answer(row[answer], answer) if answer else ()
        plain = bool(answer) and not before and _are_strings(row, "prompt", str(answer))
        return ("prompt and completion" if answer else "prompt"), Example(
            before + prompt + turns, at, tools=tools, given=len(before + prompt), plain=plain
        )
    if row.get("text") is not None:
        return "text", Example((), at, text=_text(row, "text"))
    raise BadRow("unknown layout", f"columns {show(sorted(map(str, row)))}")


def _pair(row: Mapping[str, Any]) -> tuple[tuple[Turn, ...], tuple[Turn, ...], int]:
    """The whole chosen conversation, the turns that stand in the target's place when rejected, and how many
    turns are before it.
    """
    chosen, rejected = _answer(row["chosen"], "chosen"), _answer(row["rejected"], "rejected")
    if row.get("prompt") is not None:
        prompt = _prompt(row["prompt"])
        if chosen[: len(prompt)] == prompt and len(chosen) > len(prompt):  # the sides repeat the prompt
            return chosen, rejected[len(prompt) :], len(prompt)
        return prompt + chosen, rejected, len(prompt)
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    return chosen, rejected[shared:], shared


def _prompt(value: Any) -> tuple[Turn, ...]:
    if is_dialogue(value):
        turns = _dialogue(value, "prompt")
        return turns[:-1] if turns[-1]["role"] == "assistant" and not turns[-1]["content"] else turns
    return (_turn("user", value),) if isinstance(value, str) else _turns(value, "prompt")


def _answer(value: Any, column: str) -> tuple[Turn, ...]:
    if is_dialogue(value):
        return _dialogue(value, column)
    return (_turn("assistant", value),) if isinstance(value, str) else _turns(value, column)


def _dialogue(value: str, column: str) -> tuple[Turn, ...]:
    return tuple(_turn(turn.role, turn.content) for turn in dialogue(value, column))


def _system(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    return (_turn("system", row["system"]),) if isinstance(row.get("system"), str) and row["system"] else ()


def _turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def _turns(value: Any, column: str) -> tuple[Turn, ...]:
    """Messages, kept whole (``tool_calls`` and other keys too)."""
    turns = [value] if isinstance(value, Mapping) else value
    if not isinstance(turns, list) or not turns:
        raise BadRow("wrong type", f"{column} is {show(value)}, expected text or messages")
    for turn in turns:
        content = turn.get("content") if isinstance(turn, Mapping) else 0
        if (
            not isinstance(content, str | list | None)
            or not isinstance(turn.get("role"), str)
            or not turn["role"]
        ):
            raise BadRow(
                "broken message", f"a message in {column} needs a role and content, got {show(turn)}"
            )
    # Parquet gives each turn the keys of all.
    return tuple(
        {key: part for key, part in turn.items() if part is not None or key == "content"} for turn in turns
    )


def _spoken(value: Any) -> tuple[Turn, ...]:
    if not isinstance(value, list) or not value:
        raise BadRow("wrong type", f"conversations is {show(value)}, expected a list of turns")
    if all(isinstance(turn, Mapping) and "role" in turn for turn in value):
        return _turns(value, "conversations")
    for turn in value:
        if not isinstance(turn, Mapping) or not all(
            isinstance(turn.get(key), str) for key in ("from", "value")
        ):
            raise BadRow("broken message", f"a turn needs text in from and value, got {show(turn)}")
    return tuple(_turn(_SPEAKERS.get(turn["from"], turn["from"]), turn["value"]) for turn in value)


def _tools(value: Any) -> Sequence[Any] | None:
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise BadRow("broken tools", f"tools is no JSON: {show(value)}") from None
    if value is not None and not isinstance(value, str | list):
        raise BadRow("broken tools", f"tools is {show(value)}, expected a list of functions")
    return value if isinstance(value, list) and value else None


def _text(row: Mapping[str, Any], column: str) -> str:
    if not isinstance(row[column], str):
        raise BadRow("wrong type", f"{column} is {show(row[column])}, expected text")
    return str(row[column])


def _are_strings(row: Mapping[str, Any], *columns: str) -> bool:
    return all(isinstance(row.get(name), str) and not is_dialogue(row[name]) for name in columns)


def _number(row: Mapping[str, Any], column: str, default: float = 0.0) -> float:
    value = row.get(column)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        raise BadRow("wrong type", f"{column} is {show(value)}, expected a number, at least 0")
    return float(value)
