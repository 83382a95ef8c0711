"""Examples to token trees of one sequence each, in which the tokens to be learned are marked.

    chat     <user> ... <assistant> [answer <end>] <user> ... <assistant> [answer <end>]
    raw      BOS prompt [completion EOS]
    text     BOS [text EOS]

An answer begins where the rendered turns before it, with the opening of an assistant turn, end, and ends with
the first control token the template writes after it: the stop. Control tokens in the answer's own text are
part of it, learned as they stand and counted. What follows that is the template's own and is
never generated, so it is not learned. A token that straddles the beginning is counted to the answer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from holdtrue.data.examples import Example, Turn, content_of
from holdtrue.errors import DataError, ModelError
from holdtrue.records import content_hash
from holdtrue.reward.store import Loaded
from holdtrue.tokens.conversation import Encoder, Ids, Refused, encodable
from holdtrue.tokens.tree import Tree, Verdict, grow
from holdtrue.training.preparation import Prepared

_CHUNK = 512
_CONTROLS_LEARNED = "answers with control tokens in their text, learned as they stand"


class Unusable(Exception):
    """Why an example cannot be learned."""


@dataclass(frozen=True)
class Rendered:
    """Text of an example, and the characters (start, end) of it that are learned."""

    text: str
    learned: tuple[tuple[int, int], ...]
    raw: bool
    bodies: tuple[int, ...] = ()
    """Where the own text of each learned answer of a chat ends; its start where that cannot be found."""
    rewritten: int = 0
    """Answers that are not learned, as the template writes them otherwise once turns follow (Qwen3 drops
    their thoughts)."""


@dataclass
class Completions:
    """Encodes the examples of one policy.

    Args:
        loaded: the policy; its tokenizer has a chat template or not.
        encoder: with the limits of the run.
        turns, plain_text: as in the settings.

    Attributes:
        stops: how often each token ends what is learned.

    Raises:
        ModelError: rows that are joined as they stand need an EOS, and conversations a chat template.
    """

    loaded: Loaded
    encoder: Encoder
    turns: Literal["all", "last"] = "all"
    plain_text: Literal["auto", "chat", "raw"] = "auto"
    stops: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.tokenizer = self.loaded.tokenizer
        self.embeddings = self.loaded.model.inner.get_input_embeddings().num_embeddings
        added = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        self.controls = added | set(self.tokenizer.all_special_ids)

    def prepare(self, examples: Sequence[Example], split: str) -> Prepared:
        """Trees of the examples, and an account of those that are left out or cut.

        Raises:
            ModelError: as for the class. DataError: an example is too long and ``truncation`` is ``error``.
        """
        prepared, before = Prepared([]), self.encoder.repaired.copy()
        for start in range(0, len(examples), _CHUNK):
            chunk = examples[start : start + _CHUNK]
            for example, found in zip(chunk, self._encoded(chunk), strict=True):
                try:
                    prepared.trees.append(self._tree(example, found, prepared.cut))
                except Unusable as reason:
                    prepared.dropped[str(reason)] += 1
                    file, _, line = example.at.rpartition(":")
                    row = {"file": file, "line": int(line), "split": split, "reason": str(reason)}
                    prepared.dropped_rows.append(row)
        prepared.cut = +prepared.cut
        prepared.prompts = len({tree.key for tree in prepared.trees})
        prepared.repaired = self.encoder.repaired - before
        return prepared

    def _encoded(self, chunk: Sequence[Example]) -> Iterator[tuple[Rendered, Any] | Unusable]:
        rendered = [self._rendered_or_reason(example) for example in chunk]
        texts = [one.text for one in rendered if isinstance(one, Rendered)]
        self.encoder.backend.no_padding()  # calling the tokenizer itself may have switched these on
        self.encoder.backend.no_truncation()
        encodings = iter(self.encoder.backend.encode_batch(texts, add_special_tokens=False))
        for one in rendered:
            yield (one, next(encodings)) if isinstance(one, Rendered) else one

    def _rendered_or_reason(self, example: Example) -> Rendered | Unusable:
        try:
            rendered = self._rendered(example)
        except Unusable as reason:
            return reason
        said = encodable(rendered.text)
        return Unusable(said.reason) if isinstance(said, Refused) else rendered

    def _rendered(self, example: Example) -> Rendered:
        if example.text is not None:
            self._require_eos()
            return Rendered(example.text, ((example.loss_from, len(example.text)),), raw=True)
        if example.target is None:
            raise Unusable("no answer to learn")
        chat = bool(self.tokenizer.chat_template) if self.plain_text == "auto" else self.plain_text == "chat"
        if example.plain and not chat:
            self._require_eos()
            prompt, answer = (content_of(turn) for turn in example.messages)
            return Rendered(
                prompt + answer, ((len(prompt) + example.loss_from, len(prompt + answer)),), raw=True
            )
        if not self.tokenizer.chat_template:
            raise ModelError(
                f"{self.loaded.base} has no chat template for conversations ({example.at}): give one with "
                "model.chat_template_path"
            )
        return self._chat(example)

    def _chat(self, example: Example) -> Rendered:
        messages = example.messages
        whole = self._template(messages, example)
        answers = [i for i, turn in enumerate(messages) if turn["role"] == "assistant" and i >= example.given]
        learned = []
        bodies = []
        for i in answers if self.turns == "all" else answers[-1:]:
            last = i == len(messages) - 1
            upto = (whole if last else self._template(messages[: i + 1], example)).rstrip()
            if not whole.startswith(upto):  # Phi-3 ends a conversation with EOS, whatever ends its turns
                upto = upto.removesuffix(str(self.tokenizer.eos_token)).rstrip()
            if whole.startswith(upto):
                start = _shared(self._template(messages[:i], example, opened=True), whole)
                learned.append((self._from(example, whole, start) if last else start, len(upto)))
                bodies.append(_body_end(messages[i], whole, start, len(upto)))
        wanted = len(answers) if self.turns == "all" else 1
        rewritten = wanted - len(learned)
        return Rendered(whole, tuple(learned), raw=False, bodies=tuple(bodies), rewritten=rewritten)

    def _from(self, example: Example, whole: str, start: int) -> int:
        """Where the last answer's learned part begins."""
        if not example.loss_from:
            return start
        answer = example.target or ""
        place = whole.find(answer.strip(), start)
        if place < 0:
            raise Unusable("loss_from has no place: the chat template changes the answer")
        return max(start, place + example.loss_from - (len(answer) - len(answer.lstrip())))

    def _template(self, messages: Sequence[Turn], example: Example, *, opened: bool = False) -> str:
        try:
            text = self.encoder.template(
                [dict(turn) for turn in messages],
                add_generation_prompt=opened,
                tools=list(example.tools) if example.tools else None,
            )
        except Exception as error:  # a template is a program from the model's folder: it may raise anything
            said = str(error).splitlines() or [type(error).__name__]
            raise Unusable(f"chat template refuses the conversation: {said[0][:120]}") from error
        return str(text)

    def _require_eos(self) -> None:
        if self.tokenizer.eos_token_id is None:
            raise ModelError(
                f"the tokenizer of {self.loaded.base} has no EOS token, so plain text has no end to learn; "
                "name it in tokenizer_config.json (eos_token)"
            )

    def _tree(self, example: Example, found: tuple[Rendered, Any] | Unusable, cut: Counter[str]) -> Tree:
        if isinstance(found, Unusable):
            raise found
        rendered, encoding = found
        ids = self.encoder.finish(np.asarray(encoding.ids, np.int32), raw=rendered.raw)
        if not len(ids):
            raise Unusable("no tokens")
        if ids.max() >= self.embeddings:
            raise Unusable("a token the model has no embedding for")
        ended = int(rendered.raw)
        shift = len(ids) - len(encoding.ids) - ended  # BOS put before, or doubled ones taken away
        places: list[int] = []
        stops: set[int] = set()
        for number, (start, end) in enumerate(rendered.learned):
            own = [i for i, (a, b) in enumerate(encoding.offsets) if b > start and a < end]
            if rendered.raw:
                own.append(len(encoding.ids))
            else:
                body = sum(encoding.offsets[i][0] < rendered.bodies[number] for i in own)
                cut[_CONTROLS_LEARNED] += any(encoding.ids[i] in self.controls for i in own[:body])
                own = self._up_to_stop(own, encoding.ids, body)
            places += [i + shift for i in own]
            stops.add(places[-1])
        ids, marks, moved = self._fitted(example, ids, [place for place in places if place > 0], cut)
        if not marks:
            raise Unusable("nothing of an answer is left to learn")
        cut["earlier answers that the chat template rewrites, not learned"] += rendered.rewritten
        self.stops.update(int(ids[mark]) for mark in marks if mark + moved in stops)
        return grow(
            [ids], verdicts=[Verdict((example.weight,))], marks=[tuple(marks)], key=prompt_key(example)
        )

    def _up_to_stop(self, own: Sequence[int], ids: Sequence[int], body: int) -> list[int]:
        """An answer's tokens with the first of the control tokens that end it; engines stop there.

        The first ``body`` are its own text, which a stop can only follow.
        """
        end = len(own)
        while end > body and (
            ids[own[end - 1]] in self.controls or not self.tokenizer.decode(ids[own[end - 1]]).strip()
        ):
            end -= 1
        stop = next((k for k in range(end, len(own)) if ids[own[k]] in self.controls), None)
        if stop is None:
            raise Unusable(
                "the chat template ends an answer with no control token, so there is no stop to learn"
            )
        return list(own[: stop + 1])

    def _fitted(
        self, example: Example, ids: Ids, marks: list[int], cut: Counter[str]
    ) -> tuple[Ids, list[int], int]:
        """The ids within the limit, the marks that are left, and how far to the left these have moved."""
        encoder = self.encoder
        over = len(ids) - encoder.max_length
        if over <= 0:
            return ids, marks, 0
        if encoder.truncation == "error":
            raise DataError(
                f"{example.at}: {len(ids)} tokens are more than max_length {encoder.max_length}; raise "
                "data.max_length or choose data.truncation: drop, left or right"
            )
        if encoder.truncation == "drop":
            raise Unusable("longer than max_length")
        if encoder.truncation == "right":
            left = [mark for mark in marks if mark < encoder.max_length]
            cut["answers learned without their stop"] += bool(left)
            return ids[: encoder.max_length], left, 0
        keep = int(ids[0] == encoder.bos_id)
        left = [
            mark - over for mark in marks if mark - over > keep
        ]  # what stands after BOS has lost its past
        cut["answers without their beginning" if len(left) < len(marks) else "prompts cut"] += bool(left)
        return encoder.without_beginning(ids, over), left, over


def prompt_key(example: Example) -> str:
    """What an example asks, so that equal prompts are held out together; raw text is its own."""
    if example.text is not None:
        return content_hash(example.text)
    asked = example.messages[:-1] if example.target is not None else example.messages
    return content_hash(json.dumps([dict(turn) for turn in asked], sort_keys=True, default=str))


def _body_end(turn: Turn, whole: str, start: int, end: int) -> int:
    """Where a turn's text ends in the rendered chat; ``start`` where the template changes it."""
    content = content_of(turn).strip()
    place = whole.find(content, start, end) if content else -1
    return place + len(content) if place >= 0 else start


def _shared(opening: str, text: str) -> int:
    """Characters a text has in common with the beginning of its answer."""
    if text.startswith(opening):
        return len(opening)
    return next((i for i, (a, b) in enumerate(zip(opening, text, strict=False)) if a != b), len(text))
