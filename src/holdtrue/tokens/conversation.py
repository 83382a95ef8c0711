"""Conversations to token ids: the chat template applied once, tokenised jointly with the answer.

A conversation is rendered by the model's chat template and encoded with ``add_special_tokens=False``;
plain text is encoded as it stands between the tokenizer's own BOS (if it adds one) and EOS. The
token that is read is the last one. Nothing is guessed about where the prompt ends in tokens: trees
take the longest common prefix of the ids of their answers.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from holdtrue import steps
from holdtrue.errors import DataError, ModelError
from holdtrue.records import Group, Messages, as_json

Ids = NDArray[np.int32]
Truncation = Literal["drop", "left", "right", "error"]
Marker = Literal["prompt", "steps"]

PLAIN_TEMPLATE = (Path(__file__).parent / "plain.jinja").read_text(encoding="utf-8").rstrip("\n")
_CHUNK = 1024
_ANSWERS_BEGIN = ("", "a", " ", "\n", "1", ".")
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
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"{type(tokenizer).__name__} is not a fast tokenizer; save the model with its tokenizer.json"
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.truncation = truncation
        self.marker = marker
        self.separator = separator
        self.reply = reply
        self.repaired: Counter[str] = Counter()
        self._vocabulary = vocabulary if vocabulary is not None and len(tokenizer) > vocabulary else None
        self._backend = tokenizer.backend_tokenizer
        self._bos = _leading_bos(tokenizer)
        self._bos_id = tokenizer.bos_token_id
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
        if isinstance(rendered, _Refused):
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
        boundary = len(_common_prefix([self._opening(group.prompt), text]))
        encoding = self._backend.encode(text, add_special_tokens=False)
        start = next((i for i, (_, end) in enumerate(encoding.offsets) if end > boundary), len(encoding.ids))
        ids = self._finish(np.asarray(encoding.ids, np.int32), raw=raw)
        before = len(ids) - len(encoding.ids) - (1 if raw and self.tokenizer.eos_token_id is not None else 0)
        return max(start + before, 0), len(ids)

    def _opening(self, prompt: Messages | str) -> str:
        if isinstance(prompt, str):
            return prompt
        try:
            return str(self._template(as_json(prompt), add_generation_prompt=True))
        except Exception:
            return ""

    def _encode_chunk(self, groups: Sequence[Group]) -> Iterator[Encoded]:
        conversations = [g.conversation(k) for g in groups for k in range(len(g.answers))]
        texts = self._render_all(conversations)
        pieces: list[str] = []
        plan: list[list[int] | _Refused] = []  # per conversation: which pieces make up its ids
        at = 0
        for group in groups:
            own = texts[at : at + len(group.answers)]
            at += len(group.answers)
            rendered = [text for text in own if isinstance(text, str)]
            head = self._shared_head(rendered)
            shared = [len(pieces)] if head else []
            pieces += [head] if head else []
            for text in own:
                if isinstance(text, _Refused):
                    plan.append(text)
                else:
                    plan.append([*shared, len(pieces)])
                    pieces.append(text[len(head) :])
        self._backend.no_padding()  # calling the tokenizer itself may have switched these on
        self._backend.no_truncation()
        encodings = self._backend.encode_batch_fast(pieces, add_special_tokens=False)
        ids = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        results = iter(zip(plan, conversations, strict=True))
        openings = self._opening_ids(groups) if self.marker == "prompt" else [None] * len(groups)
        for group, opening in zip(groups, openings, strict=True):
            fitted = [self._fit(ids, *next(results), group) for _ in group.answers]
            found = Encoded(
                tuple(own for own, _, _ in fitted),
                tuple(reason for _, reason, _ in fitted),
                tuple(cut for _, _, cut in fitted),
            )
            if opening is not None:
                marks = tuple((self._shared(opening, own, cut) - 1,) for own, _, cut in fitted)
                found = replace(found, marks=marks)
            yield self._with_steps(group, found) if self.marker == "steps" else found

    def _with_steps(self, group: Group, encoded: Encoded) -> Encoded:
        """Marks at the answers' steps; an answer that is not found in what the model reads is refused."""
        ids, reasons = list(encoded.ids), list(encoded.reasons)
        found: list[list[tuple[int, int, float]]] = [[] for _ in ids]
        for k, own in enumerate(encoded.ids):
            if own is None:
                continue
            ends, values = steps.of(group.answers[k], self.separator)
            places = self._tokens_at(group, k, ends)
            if places is None:
                ids[k], reasons[k] = None, "the chat template changes the text, its steps are not found"
                continue
            kept = self._after_cut(own, places, encoded.cut[k])
            found[k] = [one for one in zip(kept, ends, values, strict=True) if one[0] >= 0]
            found[k] = found[k] or [(len(own) - 1, len(group.answers[k].text), math.nan)]
        return replace(
            encoded,
            ids=tuple(ids),
            reasons=tuple(reasons),
            marks=tuple(tuple(at for at, _, _ in own) for own in found),
            ends=tuple(tuple(end for _, end, _ in own) for own in found),
            steps=tuple(tuple(value for _, _, value in own) for own in found),
        )

    def _tokens_at(self, group: Group, answer: int, ends: Sequence[int]) -> list[int] | None:
        """The token that holds the last character of each part of an answer, before any cut."""
        conversation = group.conversation(answer)
        text, raw = self.render(conversation), isinstance(conversation, str)
        said = group.answers[answer].text
        boundary = len(_common_prefix([self._opening(group.prompt), text]))
        start = text.find(said.strip(), min(boundary, max(len(text) - len(said), 0)))
        if start < 0:
            return None
        start -= len(said) - len(said.lstrip())
        encoding = self._backend.encode(text, add_special_tokens=False)
        added = len(self._bos) if raw else 0
        ids = np.concatenate([self._bos[:added], np.asarray(encoding.ids, np.int32)])
        added -= self._doubled_bos(ids)
        reach = [end for _, end in encoding.offsets]
        places = [min(bisect_left(reach, start + end), len(reach) - 1) for end in ends]
        return [bisect_right(reach, reach[at]) - 1 + added for at in places]  # the last byte of a character

    def _after_cut(self, ids: Ids, places: list[int], cut: int) -> list[int]:
        """Places in a conversation that truncation shortened; -1 where they were cut away."""
        if not cut:
            return places
        if self.truncation == "right":
            return [at if at < len(ids) else -1 for at in places]
        keep = 1 if ids[0] == self._bos_id else 0
        return [at - cut if at >= cut + keep else -1 for at in places]

    def _opening_ids(self, groups: Sequence[Group]) -> list[Ids]:
        """The ids that every conversation of each group's prompt begins with.

        Those of the rendered prompt with the opening of an assistant turn, less the tokens that merge with
        the beginning of some answers, so that they do not depend on the answer.
        """
        openings = [self._opening(group.prompt) for group in groups]
        texts = [text if isinstance(_encodable(text), str) else "" for text in openings]
        pieces = [text + begin for text in texts for begin in _ANSWERS_BEGIN]
        encodings = self._backend.encode_batch_fast(pieces, add_special_tokens=False)
        ids = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        found = []
        for i, group in enumerate(groups):
            first, *others = ids[i * len(_ANSWERS_BEGIN) : (i + 1) * len(_ANSWERS_BEGIN)]
            for other in others:
                first = first[: _same(first, other)]
            if isinstance(group.prompt, str):
                first = np.concatenate([self._bos, first])
            found.append(first[self._doubled_bos(first) :])
        return found

    def _shared(self, opening: Ids, ids: Ids | None, cut: int) -> int:
        """Tokens a conversation has in common with its prompt's opening; at least the first one."""
        if ids is None:
            return 0
        if cut and self.truncation == "left":
            opening = self._without_beginning(opening, cut)
        return max(_same(opening, ids), 1)

    def _fit(
        self, ids: list[Ids], plan: list[int] | _Refused, conversation: Messages | str, group: Group
    ) -> tuple[Ids | None, str | None, int]:
        if isinstance(plan, _Refused):
            return None, plan.reason, 0
        joined = ids[plan[0]] if len(plan) == 1 else np.concatenate([ids[i] for i in plan])
        full = self._finish(joined, raw=isinstance(conversation, str))
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
        if self.truncation == "right":
            return full[: self.max_length], None, over
        return self._without_beginning(full, over), None, over

    def _without_beginning(self, ids: Ids, tokens: int) -> Ids:
        keep = 1 if len(ids) and ids[0] == self._bos_id else 0
        return np.concatenate([ids[:keep], ids[tokens + keep :]])

    def _finish(self, ids: Ids, *, raw: bool) -> Ids:
        if raw:
            ids = np.concatenate([self._bos, ids])
        extra = self._doubled_bos(ids)
        if extra:
            self.repaired["doubled BOS removed"] += 1
            ids = ids[extra:]
        eos = self.tokenizer.eos_token_id
        return np.append(ids, np.int32(eos)) if raw and eos is not None else ids

    def _doubled_bos(self, ids: Ids) -> int:
        extra = 0
        while len(ids) > extra + 1 and ids[extra] == ids[extra + 1] == self._bos_id:
            extra += 1
        return extra

    def _render_all(self, conversations: Sequence[Messages | str]) -> list[str | _Refused]:
        rendered: list[str | _Refused] = [c if isinstance(c, str) else "" for c in conversations]
        chats = [i for i, c in enumerate(conversations) if not isinstance(c, str)]
        try:
            texts = self._apply_template([as_json(conversations[i]) for i in chats]) if chats else []
        except Exception:  # a template is a program from the model's folder: it may raise anything
            texts = [self._render_or_refuse(as_json(conversations[i])) for i in chats]
        for i, text in zip(chats, texts, strict=True):
            rendered[i] = text
        return [_encodable(text) for text in rendered]

    def _apply_template(self, chats: list[Any]) -> list[Any]:
        return list(self._template(chats, add_generation_prompt=self.reply))

    def _template(self, chats: Any, *, add_generation_prompt: bool) -> Any:
        template = self.tokenizer.chat_template
        if "strftime_now" in template:  # else rewards would depend on the day they are computed
            template = _CLOCK + template
        return self.tokenizer.apply_chat_template(
            chats,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )

    def _render_or_refuse(self, chat: Any) -> str | _Refused:
        try:
            return str(self._apply_template([chat])[0])
        except Exception as error:
            said = str(error).splitlines() or [type(error).__name__]
            return _Refused(f"chat template refuses the conversation: {said[0][:120]}")

    def _shared_head(self, texts: list[str]) -> str:
        """Part of the texts' common prefix that may be encoded once.

        Cutting right before a special token is exact: tokenizers split there before anything else.
        """
        if len(texts) < 2 or not self._boundaries:
            return ""
        common = _common_prefix(texts)
        cut = max((common.rfind(token) for token in self._boundaries), default=-1)
        return common[:cut] if cut > 0 else ""


@dataclass(frozen=True, slots=True)
class _Refused:
    reason: str


def _encodable(text: str | _Refused) -> str | _Refused:
    if isinstance(text, str) and not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return _Refused("lone surrogates in the text")
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


def _same(one: Ids, other: Ids) -> int:
    """Ids two sequences begin with in common."""
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    return int(differs.argmax()) if differs.any() else length


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
