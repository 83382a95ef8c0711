"""Conversations to token ids: the chat template applied once, tokenised jointly with the answer.

A conversation is rendered by the model's chat template and encoded with ``add_special_tokens=False``;
plain text is encoded as it stands between the tokenizer's own BOS (if it adds one) and EOS. The
token that is read is the last one. Nothing is guessed about where the prompt ends in tokens: trees
take the longest common prefix of the ids of their answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from holdtrue.errors import DataError, ModelError
from holdtrue.records import Answer, Group, Messages, as_json
from holdtrue.tokens import marks

Ids = NDArray[np.int32]
Truncation = Literal["drop", "left", "right", "error"]
Marker = Literal["prompt", "steps"]

PLAIN_TEMPLATE = (Path(__file__).parent / "plain.jinja").read_text(encoding="utf-8").rstrip("\n")
_CHUNK = 1024
# Friday 26 July 2024 is what Llama 3's templates write where no clock is given
_CLOCK = (
    "{% macro strftime_now(format) %}{{ format | replace('%d', '26') | replace('%m', '07') | "
    "replace('%b', 'Jul') | replace('%B', 'July') | replace('%Y', '2024') | replace('%y', '24') | "
    "replace('%a', 'Fri') | replace('%A', 'Friday') }}{% endmacro %}"
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A group's conversations as token ids.

    ``ids[k]`` is prompt and answer ``k`` in full, or ``None`` where ``reasons[k]`` says why it cannot be
    used. ``cut[k]`` counts the tokens truncation took away. ``marks[k]`` are the places of tokens that are
    read besides the last, where the encoder was asked for them: the prompt's last, or the last of each step;
    ``ends[k]`` is then the character each of these steps ends with in the answer, ``steps[k]`` what was said
    of it, NaN where nothing was.
    """

    ids: tuple[Ids | None, ...]
    reasons: tuple[str | None, ...]
    cut: tuple[int, ...]
    marks: tuple[tuple[int, ...], ...] = ()
    ends: tuple[tuple[int, ...], ...] = ()
    steps: tuple[tuple[float, ...], ...] = ()


def prepare_tokenizer(tokenizer: Any, template_file: str | None = None) -> str:
    """Give the tokenizer a chat template if it has none; returns which: ``own``, ``file`` or ``plain``.

    The template is part of the tokenizer from then on, so a saved model carries it.

    Raises:
        ModelError: the template file cannot be read.
    """
    if template_file is not None:
        try:
            tokenizer.chat_template = Path(template_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"chat template {template_file} cannot be read: {error}") from error
        return "file"
    if isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = tokenizer.get_chat_template()
    if tokenizer.chat_template:
        return "plain" if tokenizer.chat_template == PLAIN_TEMPLATE else "own"
    tokenizer.chat_template = PLAIN_TEMPLATE
    return "plain"


class Encoder:
    """Encodes groups for one tokenizer.

    Args:
        tokenizer: a fast tokenizer with a chat template (see :func:`prepare_tokenizer`).
        max_length: most tokens of a conversation.
        truncation: what is done with longer ones: ``drop`` leaves the answer out with a reason,
            ``left`` keeps the end (and BOS), ``right`` the beginning, ``error`` raises DataError.
        vocabulary: embeddings the model has, where the tokenizer may know more tokens.
        marker: ``prompt`` also finds the prompt's last token, ``steps`` that of each step of an answer.
        separator: what stands between two steps.
        reply: end a chat with the opening of an assistant turn, for models that answer it.

    Attributes:
        repaired: how often something was put right, by what.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_length: int,
        truncation: Truncation = "drop",
        vocabulary: int | None = None,
        marker: Marker | None = None,
        separator: str = "\n",
        reply: bool = False,
    ) -> None:
        require_fast(tokenizer)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.truncation = truncation
        self.marker = marker
        self.separator = separator
        self.reply = reply
        self.repaired: Counter[str] = Counter()
        self._literal = False  # whether special tokens that stand in a text are read as ordinary text
        self._vocabulary = vocabulary if vocabulary is not None and len(tokenizer) > vocabulary else None
        self.backend = tokenizer.backend_tokenizer
        self.bos = _leading_bos(tokenizer)
        self.bos_id = tokenizer.bos_token_id
        self._boundaries = _exact_boundaries(tokenizer)

    def encode(self, groups: Sequence[Group]) -> Iterator[Encoded]:
        """Token ids of every answer of every group, in order."""
        for start in range(0, len(groups), _CHUNK):
            yield from self._encode_chunk(groups[start : start + _CHUNK])

    def render(self, conversation: Messages | str) -> str:
        """The text the model reads for one conversation.

        Raises:
            DataError: the chat template refuses the conversation.
        """
        rendered = self._render_all([conversation])[0]
        if isinstance(rendered, Refused):
            raise DataError(rendered.reason)
        return rendered

    def answer_span(self, group: Group, answer: int) -> tuple[int, int]:
        """Tokens ``start`` to ``end`` (exclusive) of the answer within its conversation's ids.

        The answer begins where the rendered prompt, with the opening of an assistant turn, ends; what
        the template writes after the answer (end-of-turn token, EOS) belongs to it. A token that
        straddles the boundary is counted to the answer. Where the template refuses the prompt alone, all
        of the conversation is the answer.
        """
        conversation = group.conversation(answer)
        text, raw = self.render(conversation), isinstance(conversation, str)
        boundary = self.boundary(group.prompt, text)
        encoding = self.backend.encode(text, add_special_tokens=False)
        start = next((i for i, (_, end) in enumerate(encoding.offsets) if end > boundary), len(encoding.ids))
        ids = self.finish(np.asarray(encoding.ids, np.int32), raw=raw)
        before = len(ids) - len(encoding.ids) - (1 if raw and self.tokenizer.eos_token_id is not None else 0)
        return max(start + before, 0), len(ids)

    def boundary(self, prompt: Messages | str, text: str) -> int:
        """Characters a rendered conversation has in common with its prompt's :meth:`opening`."""
        return len(_common_prefix([self.opening(prompt), text]))

    def opening(self, prompt: Messages | str) -> str:
        """The rendered prompt with the opening of an assistant turn; empty where that cannot be had."""
        if isinstance(prompt, str):
            return prompt
        try:
            text = str(self.template(as_json(prompt), add_generation_prompt=True))
        except Exception:
            return ""
        return text if isinstance(encodable(text), str) else ""

    def _encode_chunk(self, groups: Sequence[Group]) -> Iterator[Encoded]:
        pieces: list[str] = []
        plan: list[list[int] | Refused] = []  # per conversation: which pieces make up its ids
        for head, rests in self._texts(groups):
            shared = [] if head is None else [len(pieces)]
            pieces += [] if head is None else [head]
            for text in rests:
                if isinstance(text, Refused):
                    plan.append(text)
                else:
                    plan.append([*shared, len(pieces)])
                    pieces.append(text)
        self.backend.no_padding()  # calling the tokenizer itself may have switched these on
        self.backend.no_truncation()
        self.backend.encode_special_tokens = self._literal
        encodings = self.backend.encode_batch_fast(pieces, add_special_tokens=False)
        ids = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        plans = iter(plan)
        openings = marks.openings(self, groups) if self.marker == "prompt" else [None] * len(groups)
        for group, opening in zip(groups, openings, strict=True):
            fitted = [self._fit(ids, next(plans), group, answer) for answer in group.answers]
            found = Encoded(
                tuple(own for own, _, _ in fitted),
                tuple(reason for _, reason, _ in fitted),
                tuple(cut for _, _, cut in fitted),
            )
            if self.marker == "prompt":
                found = marks.with_prompt(self, opening, found)
            yield marks.with_steps(self, group, found) if self.marker == "steps" else found

    def _texts(self, groups: Sequence[Group]) -> Iterator[tuple[str | None, list[str | Refused]]]:
        """Per group the text its conversations begin with, if any, and how each goes on."""
        texts = iter(self._render_all([g.conversation(k) for g in groups for k in range(len(g.answers))]))
        for group in groups:
            own = [next(texts) for _ in group.answers]
            head = self._shared_head([text for text in own if isinstance(text, str)])
            yield head or None, [t[len(head) :] if isinstance(t, str) else t for t in own]

    def _fit(
        self, ids: list[Ids], plan: list[int] | Refused, group: Group, answer: Answer
    ) -> tuple[Ids | None, str | None, int]:
        if isinstance(plan, Refused):
            return None, plan.reason, 0
        parts = [ids[i] for i in plan]
        full = self._joined(parts, raw=isinstance(group.prompt, str) or isinstance(answer.content, str))
        over = len(full) - self.max_length
        if not len(full):
            return None, "no tokens", 0
        if self._vocabulary is not None and full.max() >= self._vocabulary:
            return None, "a token the model has no embedding for", 0
        if over <= 0:
            return full, None, 0
        if self.truncation == "error":
            where = f"{group.source}: " if group.source else ""
            raise DataError(
                f"{where}conversation of {len(full)} tokens is longer than max_length {self.max_length}; "
                "raise data.max_length or choose data.truncation: drop, left or right"
            )
        if self.truncation == "drop":
            return None, "longer than max_length", 0
        return self._shortened(parts, full, over), None, over

    def _joined(self, parts: list[Ids], *, raw: bool) -> Ids:
        return self.finish(parts[0] if len(parts) == 1 else np.concatenate(parts), raw=raw)

    def _shortened(self, parts: list[Ids], full: Ids, over: int) -> Ids:
        if self.truncation == "right":
            return full[: self.max_length]
        return self.without_beginning(full, over)

    def without_beginning(self, ids: Ids, tokens: int) -> Ids:
        """The ids less so many at the beginning; BOS stays."""
        keep = 1 if len(ids) and ids[0] == self.bos_id else 0
        return np.concatenate([ids[:keep], ids[tokens + keep :]])

    def finish(self, ids: Ids, *, raw: bool) -> Ids:
        """The ids with one BOS at most, and plain text between the tokenizer's BOS and EOS."""
        if raw:
            ids = np.concatenate([self.bos, ids])
        extra = self.doubled_bos(ids)
        if extra:
            self.repaired["doubled BOS removed"] += 1
            ids = ids[extra:]
        eos = self.tokenizer.eos_token_id
        return np.append(ids, np.int32(eos)) if raw and eos is not None else ids

    def doubled_bos(self, ids: Ids) -> int:
        """How often BOS stands at the beginning besides the once that is right."""
        extra = 0
        while len(ids) > extra + 1 and ids[extra] == ids[extra + 1] == self.bos_id:
            extra += 1
        return extra

    def _render_all(self, conversations: Sequence[Messages | str]) -> list[str | Refused]:
        rendered: list[str | Refused] = [c if isinstance(c, str) else "" for c in conversations]
        chats = [i for i, c in enumerate(conversations) if not isinstance(c, str)]
        try:
            texts = self._apply_template([as_json(conversations[i]) for i in chats]) if chats else []
        except Exception:  # a template is a program from the model's folder: it may raise anything
            texts = [self._render_or_refuse(as_json(conversations[i])) for i in chats]
        for i, text in zip(chats, texts, strict=True):
            rendered[i] = text
        return [encodable(text) for text in rendered]

    def _apply_template(self, chats: list[Any]) -> list[Any]:
        return list(self.template(chats, add_generation_prompt=self.reply))

    def template(self, chats: Any, *, add_generation_prompt: bool, tools: Any = None) -> Any:
        """What the chat template makes of one conversation or of several; raises whatever it does."""
        template = self.tokenizer.chat_template
        if "strftime_now" in template:  # else rewards would depend on the day they are computed
            template = _CLOCK + template
        return self.tokenizer.apply_chat_template(
            chats,
            chat_template=template,
            tools=tools,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )

    def _render_or_refuse(self, chat: Any) -> str | Refused:
        try:
            return str(self._apply_template([chat])[0])
        except Exception as error:
            said = str(error).splitlines() or [type(error).__name__]
            return Refused(f"chat template refuses the conversation: {said[0][:120]}")

    def _shared_head(self, texts: list[str]) -> str:
        """Part of the texts' common prefix that may be encoded once.

        Cutting right before a special token is exact: tokenizers split there before anything else.
        """
        if len(texts) < 2 or not self._boundaries:
            return ""
        common = _common_prefix(texts)
        cut = max((common.rfind(token) for token in self._boundaries), default=-1)
        return common[:cut] if cut > 0 else ""


def require_fast(tokenizer: Any) -> None:
    """Refuse a tokenizer that does not say where its tokens stand in the text.

    Raises:
        ModelError: it is a slow one.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{type(tokenizer).__name__} is not a fast tokenizer; save the model with its tokenizer.json"
        )


@dataclass(frozen=True, slots=True)
class Refused:
    """A conversation that cannot be read, and why."""

    reason: str


def encodable(text: str | Refused) -> str | Refused:
    """The text, or why no tokenizer takes it."""
    if isinstance(text, str) and not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return Refused("lone surrogates in the text")
    return text


def _leading_bos(tokenizer: Any) -> Ids:
    """The BOS token the tokenizer itself puts before a text, as an array of one id or none."""
    bos = tokenizer.bos_token_id
    ids = tokenizer("a").input_ids
    return np.array([bos] if bos is not None and len(ids) and ids[0] == bos else [], dtype=np.int32)


def _exact_boundaries(tokenizer: Any) -> tuple[str, ...]:
    """Special tokens that are matched in a text wherever they stand, whatever is around them."""
    return tuple(
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special and not (token.lstrip or token.single_word or token.normalized)
    )


def _common_prefix(texts: Sequence[str]) -> str:
    """Longest common prefix, by bisection on slices (whole-slice comparisons run at memcmp speed)."""
    first = min(texts, key=len)
    low, high = 0, len(first)
    while low < high:
        middle = (low + high + 1) // 2
        if all(text.startswith(first[:middle]) for text in texts):
            low = middle
        else:
            high = middle - 1
    return first[:low]


def model_max_length(config: Any, tokenizer: Any) -> int | None:
    """Most tokens the model can take: the smaller of its positions and the tokenizer's limit, if known.

    Rotary embeddings that are rescaled by the longest text of a batch (``longrope``, ``dynamic``) would
    make a reward depend on its neighbours, so such models are read up to their original length only.
    """
    text_config = config.get_text_config()
    limits = [
        getattr(text_config, "max_position_embeddings", None) or getattr(text_config, "n_positions", None),
        tokenizer.model_max_length if tokenizer.model_max_length < 10**8 else None,
    ]
    rope = getattr(text_config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("longrope", "dynamic"):
        limits.append(
            rope.get("original_max_position_embeddings")
            or getattr(text_config, "original_max_position_embeddings", None)
        )
    return min((int(limit) for limit in limits if limit), default=None)
