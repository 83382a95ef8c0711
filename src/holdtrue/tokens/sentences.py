"""Conversations to token ids for encoders: one text or two, between the tokenizer's special tokens.

    pair    [CLS] prompt [SEP] answer [SEP]          text    [CLS] User: prompt ⏎⏎ Assistant: answer [SEP]

The special tokens and their order are the tokenizer's own, each set once; such a token that stands in a text
is read as ordinary text, so that none can be forged. A side of a single turn is that turn's content; several
turns are marked by their roles. There is no chat template.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from holdtrue.errors import ModelError, SettingsError
from holdtrue.records import Group, Messages
from holdtrue.tokens.conversation import Encoder, Ids, Refused, Truncation, encodable, require_fast

Input = Literal["text", "pair"]


class SentenceEncoder(Encoder):
    """Encodes groups for an encoder; see :class:`~holdtrue.tokens.conversation.Encoder`.

    ``left`` truncation takes from the beginning of the texts (the prompt), ``right`` from their end (the
    answer), and never a special token.

    Args:
        input: one text or a pair.

    Raises:
        SettingsError: ``max_length`` leaves no room beside the special tokens.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_length: int,
        truncation: Truncation = "drop",
        vocabulary: int | None = None,
        input: Input = "pair",
    ) -> None:
        super().__init__(tokenizer, max_length, truncation, vocabulary)
        self.input = input
        self.marks = special_tokens(tokenizer, 2 if input == "pair" else 1)
        self._literal = True
        taken = sum(map(len, self.marks))
        if max_length <= taken:
            raise SettingsError(f"max_length {max_length} leaves no room beside {taken} special tokens")

    def answer_span(self, group: Group, answer: int) -> tuple[int, int]:
        """Tokens ``start`` to ``end`` (exclusive) of the answer, with the special tokens that end it."""
        before, rests = next(iter(self._texts([group])))
        text = rests[answer]
        assert isinstance(text, str)
        encode = self.backend.encode
        if before is not None:
            start = len(self.marks[0]) + len(encode(before, add_special_tokens=False)) + len(self.marks[1])
            return start, start + len(encode(text, add_special_tokens=False)) + len(self.marks[2])
        encoding = encode(text, add_special_tokens=False)
        said = group.answers[answer].text
        boundary = len(text) - len(said) if text.endswith(said) else 0
        start = next((i for i, (_, end) in enumerate(encoding.offsets) if end > boundary), len(encoding))
        return start + len(self.marks[0]), sum(map(len, (self.marks[0], encoding.ids, self.marks[1])))

    def _texts(self, groups: Sequence[Group]) -> Iterator[tuple[str | None, list[str | Refused]]]:
        for group in groups:
            if self.input == "text":
                conversations = (group.conversation(k) for k in range(len(group.answers)))
                yield None, [encodable(c if isinstance(c, str) else turns(c)) for c in conversations]
                continue
            prompt = encodable(side(group.prompt))
            answers = [encodable(side(answer.content)) for answer in group.answers]
            yield (prompt, answers) if isinstance(prompt, str) else (None, [prompt] * len(answers))

    def _joined(self, parts: list[Ids], *, raw: bool) -> Ids:
        first, *others = self.marks
        after = [piece for part, mark in zip(parts, others, strict=True) for piece in (part, mark)]
        return np.concatenate([first, *after])

    def _shortened(self, parts: list[Ids], full: Ids, over: int) -> Ids:
        kept = []
        for part in parts if self.truncation == "left" else parts[::-1]:
            cut = min(over, len(part))
            kept.append(part[cut:] if self.truncation == "left" else part[: len(part) - cut])
            over -= cut
        return self._joined(kept if self.truncation == "left" else kept[::-1], raw=False)


def turns(messages: Messages) -> str:
    """Turns marked by their roles and parted by blank lines."""
    return "\n\n".join(f"{message.role.capitalize()}: {message.content}" for message in messages)


def side(content: Messages | str) -> str:
    """One side of a pair: a single turn's content, several turns marked by their roles."""
    if isinstance(content, str):
        return content
    return content[0].content if len(content) == 1 else turns(content)


def special_tokens(tokenizer: Any, texts: int) -> list[Ids]:
    """The special tokens before, between and after so many texts.

    Raises:
        ModelError: the tokenizer cannot say, or gives a text more than its special tokens.
    """
    require_fast(tokenizer)
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    marks: list[list[int]] = [[] for _ in range(texts + 1)]
    seen = 0
    encoding = backend.encode(*["a"] * texts)
    for token, text in zip(encoding.ids, encoding.sequence_ids, strict=True):
        if text is None:
            marks[seen].append(token)
        else:
            seen = text + 1
    if seen < texts:
        raise ModelError(f"{type(tokenizer).__name__} does not encode the letter 'a'")
    return [np.array(mark, dtype=np.int32) for mark in marks]


def parts_pairs(tokenizer: Any) -> bool:
    """Whether the tokenizer sets something between two texts."""
    return len(special_tokens(tokenizer, 2)[1]) > 0


def separator(tokenizer: Any) -> int | None:
    """The token after which a pair's token types are 1; ``None`` where the tokenizer gives no types.

    Raises:
        ModelError: its types do not follow from such a token.
    """
    encoding = tokenizer.backend_tokenizer.encode("a", "a")
    if "token_type_ids" not in tokenizer.model_input_names or not any(encoding.type_ids):
        return None
    first = encoding.type_ids.index(1)
    token: int = encoding.ids[first - 1]
    if encoding.ids.index(token) != first - 1 or encoding.type_ids != [0] * first + [1] * (
        len(encoding.ids) - first
    ):
        raise ModelError(
            f"{type(tokenizer).__name__} gives token types {encoding.type_ids}; set model.input: text"
        )
    return token
