"""Chat templates as the static checks use them: rendered on dummy conversations, and read by what surrounds
the words of a turn.

A template is code that came with a model. transformers renders it in a sandbox; here it also has a time
limit, and whatever it raises becomes :class:`Unrendered`.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from holdtrue.doctor.findings import Missing

SECONDS = 2.0
"""A template takes milliseconds; one that takes longer than this does not end."""
LONGEST = 1_000_000
"""Characters; the dummy conversations have a few hundred."""

SYSTEM = "holdtrue system words"
TOOL = {
    "type": "function",
    "function": {
        "name": "holdtrue_lookup",
        "description": "Looks up a word.",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}
ARGUMENT = "holdtrue argument"
RESULT = "holdtrue tool result"

Conversation = Sequence[Mapping[str, Any]]


class Unrendered(Missing):
    """The template does not render a conversation; the message says why, in one line."""


def question(turn: int) -> str:
    """The user's words in a turn of a dummy conversation."""
    return f"holdtrue question {turn}"


def answer(turn: int) -> str:
    """The assistant's words in a turn of a dummy conversation."""
    return f"holdtrue answer {turn}"


def thought(turn: int) -> str:
    """What the assistant thinks before it answers."""
    return f"holdtrue thought {turn}"


def plain(turns: int) -> list[dict[str, Any]]:
    """User and assistant by turns."""
    return [
        message
        for turn in range(turns)
        for message in (
            {"role": "user", "content": question(turn)},
            {"role": "assistant", "content": answer(turn)},
        )
    ]


def thinking(turns: int) -> list[dict[str, Any]]:
    """The same, each answer after a thought in ``<think>`` tags."""
    messages = plain(turns)
    for turn, message in enumerate(messages[1::2]):
        message["content"] = f"<think>\n{thought(turn)}\n</think>\n\n{message['content']}"
    return messages


def tool_use(arguments: Any = None) -> list[dict[str, Any]]:
    """A question, a tool call, its result and the answer."""
    called = {"name": "holdtrue_lookup", "arguments": arguments or {"word": ARGUMENT}}
    call = {"id": "call00001", "type": "function", "function": called}
    result = {"role": "tool", "name": "holdtrue_lookup", "tool_call_id": "call00001", "content": RESULT}
    return [
        {"role": "user", "content": question(0)},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        result,
        {"role": "assistant", "content": answer(0)},
    ]


@dataclass(frozen=True)
class Template:
    """The chat template of a tokenizer."""

    tokenizer: Any
    _stuck: list[str] = field(default_factory=list, init=False, compare=False)

    @property
    def source(self) -> str:
        """The template's text; of several named ones, the default."""
        template = self.tokenizer.chat_template
        return str(template.get("default", "") if isinstance(template, dict) else template)

    @property
    def sha256(self) -> str:
        """Hash of the text without white space around, which files add and lose."""
        return hashlib.sha256(self.source.strip().encode("utf-8", "surrogatepass")).hexdigest()

    @cached_property
    def controls(self) -> Mapping[int, str]:
        """Ids that are read as one token wherever their text stands, and their text."""
        added = {id: str(token) for id, token in self.tokenizer.added_tokens_decoder.items()}
        special = zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens, strict=True)
        return {**dict(special), **added}

    @cached_property
    def special(self) -> frozenset[int]:
        """Those of the controls that ``skip_special_tokens`` hides."""
        added = self.tokenizer.added_tokens_decoder
        marked = {id for id, token in added.items() if getattr(token, "special", False)}
        return frozenset(marked | set(self.tokenizer.all_special_ids))

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts of the controls that belong to the format, and not to what is said."""
        return tuple(text for id, text in self.controls.items() if is_mark(text, id in self.special))

    def text(
        self, messages: Conversation, *, tools: Sequence[Any] | None = None, prompt: bool = False
    ) -> str:
        """A conversation as text; ``prompt`` adds what makes the model answer.

        Raises:
            Unrendered: the template raises, does not end, or gives more text than anyone would read.
        """
        text = self._bounded(
            lambda: self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=list(tools) if tools else None,
                tokenize=False,
                add_generation_prompt=prompt,
            )
        )
        if not isinstance(text, str) or len(text) > LONGEST:
            raise Unrendered(f"the template gives {_size(text)}")
        return text

    def answer_mask(self, messages: Conversation) -> tuple[list[int], list[int]]:
        """Ids of a conversation, and 1 for each that stands between generation markers.

        Raises:
            Unrendered: the template does not render it.
        """
        given = self._bounded(
            lambda: self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
        )
        return list(given["input_ids"]), list(given["assistant_masks"])

    def ids(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """The text's tokens; a rendered template has its special tokens already.

        Raises:
            Unrendered: the text cannot be encoded.
        """
        return list(
            self._bounded(lambda: self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
        )

    def controls_in(self, text: str) -> list[int]:
        """The control ids of a text, in order."""
        return [id for id in self.ids(text) if id in self.controls]

    def show(self, ids: Sequence[int]) -> str:
        """``<|im_end|> (151645), <|endoftext|> (151643)``; "none" for none."""
        return ", ".join(f"{self.name(id)} ({id})" for id in ids) or "none"

    def name(self, id: int) -> str:
        """A token's text; "no token" for an id beyond the vocabulary, which configs can hold."""
        if id in self.controls:
            return self.controls[id]
        try:
            return str(self.tokenizer.convert_ids_to_tokens(id) or "no token")
        except (IndexError, OverflowError):
            return "no token"

    def plain(self, turns: int, *, prompt: bool = False) -> str:
        """A plain conversation as text; with ``prompt`` up to its last question.

        Raises:
            Unrendered: the template does not render it.
        """
        return self.text(plain(turns)[:-1] if prompt else plain(turns), prompt=prompt)

    @cached_property
    def turn_end(self) -> tuple[int, ...]:
        """Control ids after the words of the last answer: what ends a turn. () where nothing does.

        Raises:
            Unrendered: a plain question and answer are not rendered.
        """
        text = self.plain(1)
        if answer(0) not in text:
            raise Unrendered("the words of an assistant turn are not in the rendered text")
        return tuple(self.controls_in(text.rpartition(answer(0))[2]))

    @cached_property
    def generation_prompt(self) -> str:
        """What is added after a question so that the model answers; "" where the template adds nothing.

        Raises:
            Unrendered: a plain question is not rendered.
        """
        bare, asked = self.text(plain(1)[:1]), self.plain(1, prompt=True)
        return asked[common_prefix(bare, asked) :]

    @cached_property
    def headers(self) -> tuple[str, ...]:
        """What begins a user's turn and an answer, without white space around: ``<|im_start|>user``.

        Raises:
            Unrendered: a plain conversation is not rendered.
        """
        text = self.plain(2)
        between = text.partition(answer(0))[2].partition(question(1))[0]
        for id in self.turn_end:
            between = between.rpartition(self.controls[id])[2]
        return tuple(one for one in dict.fromkeys((between.strip(), self.generation_prompt.strip())) if one)

    def _bounded(self, render: Callable[[], Any]) -> Any:
        if self._stuck:  # what did not end once is not waited for again
            raise Unrendered(self._stuck[0])
        try:
            with time_limit(SECONDS):
                return render()
        except TimeoutError as error:
            self._stuck.append(f"the template does not end within {SECONDS:g} s")
            raise Unrendered(self._stuck[0]) from error
        except Exception as error:  # templates raise whatever they like
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise Unrendered(f"{type(error).__name__}: {lines[0][:200]}") from error


def is_mark(text: str, special: bool) -> bool:
    """Whether a control token belongs to the format: unlike ``<think>`` or ``<tool_call>``."""
    return special or text.startswith(("<|", "<｜"))


def common_prefix(first: str, second: str) -> int:
    """Length of what two texts begin with in common."""
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End a template's Python code after some time, in any thread.

    Jinja compiles templates to Python whose file is called ``<template>``; a trace function looks at the
    clock at each of its lines. A signal would need the main thread, and a thread cannot be ended.
    """
    end = time.monotonic() + seconds

    def at_line(frame: Any, event: str, argument: Any) -> Any:
        if time.monotonic() > end:
            raise TimeoutError
        return at_line

    def at_call(frame: Any, event: str, argument: Any) -> Any:
        return at_line if frame.f_code.co_filename == "<template>" else None

    before = sys.gettrace()
    sys.settrace(at_call)
    try:
        yield
    finally:
        sys.settrace(before)


def _size(text: Any) -> str:
    return f"{len(text):,} characters" if isinstance(text, str) else f"a {type(text).__name__}"
