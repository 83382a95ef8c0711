"""What a row of data is: a prompt with its answers and the comparisons between them, and a rollout.

Every data layout is read into a :class:`Group`; everything downstream (tokens, training, scoring,
evaluation) knows only groups. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, as chat templates take it."""

    role: str
    content: str


Messages = tuple[Message, ...]

Finish = Literal["stop", "length", "loop", "control"]
"""Why an answer that holdtrue drew ended: at an end token, at the longest length, by the loop guard, at a
control token."""


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``start`` to ``end`` (exclusive) of an answer's text, with what was said of them."""

    start: int
    end: int
    label: str
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to a prompt.

    ``content`` is the answer's messages (usually a single assistant turn), or plain text when the
    group's prompt is plain text. The other fields are what raters said of it; ``None`` or empty
    where nothing was said.
    """

    content: Messages | str
    ratings: Mapping[str, float] = field(default_factory=dict)
    label: bool | None = None
    spans: tuple[Span, ...] = ()
    steps: tuple[tuple[int, float], ...] = ()
    rater: str | None = None

    @property
    def text(self) -> str:
        """The answer as a reader sees it, turns joined by blank lines."""
        return flatten(self.content)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Answers ``first`` and ``second`` (indices into the group) compared.

    ``label`` is P(first preferred): 1 a clear win, 0.5 a tie. ``weight`` counts the comparison that
    many times in the loss; ``margin`` (reward units) is how far apart the rewards should be.
    """

    first: int
    second: int
    label: float = 1.0
    weight: float = 1.0
    margin: float | None = None
    rater: str | None = None

    @property
    def preferred(self) -> tuple[int, int] | None:
        """The preferred answer and the other; None for a tie."""
        if self.label == 0.5:
            return None
        return (self.first, self.second) if self.label > 0.5 else (self.second, self.first)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a group was read: file, line (from 1; row number for Parquet) and byte offset of the line."""

    file: str
    line: int
    offset: int | None = None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def short(self) -> str:
        """Without the folders: ``completions_00010.parquet:3``."""
        return f"{self.file.rpartition('/')[2]}:{self.line}"


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt, its answers and the comparisons between them: the one row type.

    ``prompt`` is a conversation, or plain text (``str``) which is then never put through a chat
    template. ``meta`` keeps the row's other columns, for slices; ``row`` is the row as it was read,
    for commands that write it back with something added.
    """

    prompt: Messages | str
    answers: tuple[Answer, ...]
    comparisons: tuple[Comparison, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    source: Source | None = None
    row: Mapping[str, Any] | None = None

    @property
    def prompt_text(self) -> str:
        """The prompt as a reader sees it, turns marked by their role."""
        return flatten(self.prompt, roles=True)

    @property
    def prompt_key(self) -> str:
        """Hash of the prompt: equal for equal prompts, whatever the file, process or run.

        Texts without a prompt have nothing in common, so theirs is that of their answers.
        """
        if not self.prompt:
            return content_hash("\0".join(answer.text for answer in self.answers))
        return content_hash(self.prompt)

    def conversation(self, answer: int) -> Messages | str:
        """Prompt and one answer joined, as the model is to read them."""
        content = self.answers[answer].content
        if isinstance(self.prompt, str) or isinstance(content, str):
            return flatten(self.prompt) + flatten(content)
        return self.prompt + content


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled completion of a policy, as the engine produced it.

    Attributes:
        prompt: what was asked.
        answer: what followed: one text, or turns (assistant, tool, assistant ...).
        completion_ids: the answer's tokens as sampled, never re-encoded from text.
        loss_mask: for each of them, 1 where the policy wrote it and 0 where a tool did.
        logprobs: log-probability of each token as the engine that sampled it says.
        trained_logprobs: the same as the trainer computes it.
        reward, advantage: of the whole answer; an advantage for each token is a list.
        finish: why it ended: a :data:`Finish`, or the own word of the engine that wrote it.
        step: of training.
        policy: the checkpoint or model that wrote it, such as ``reference`` or ``current``.
        images: a slot for multimodal rollouts.
        meta: other columns.
    """

    prompt: Messages | str
    answer: Messages | str
    completion_ids: Sequence[int] | None = None
    loss_mask: Sequence[int] | None = None
    logprobs: Sequence[float] | None = None
    trained_logprobs: Sequence[float] | None = None
    reward: float | None = None
    advantage: float | Sequence[float] | None = None
    finish: str | None = None
    step: int | None = None
    policy: str | None = None
    images: tuple[Any, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    source: Source | None = None

    @property
    def text(self) -> str:
        """The answer as a reader sees it, turns joined by blank lines."""
        return flatten(self.answer)

    @property
    def prompt_key(self) -> str:
        """Hash of the prompt: rollouts with the same are a group."""
        return content_hash(self.prompt)


def flatten(content: Messages | str, *, roles: bool = False) -> str:
    """Messages as one text; with ``roles`` each turn is marked ``[role]`` when there is more than one."""
    if isinstance(content, str):
        return content
    if roles and len(content) > 1:
        return "\n\n".join(f"[{m.role}] {m.content}" for m in content)
    return "\n\n".join(m.content for m in content)


def as_json(content: Messages | str) -> Any:
    """Messages as the list of dicts that transformers and TRL use; plain text stays text."""
    if isinstance(content, str):
        return content
    return [{"role": m.role, "content": m.content} for m in content]


def content_hash(content: Messages | str) -> str:
    """First 16 hex digits of the SHA-256 of messages or text."""
    data = json.dumps(as_json(content), ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(data.encode()).hexdigest()[:16]
