"""Where control tokens stand in data: how often, after what, in whose text, whether one follows itself."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from holdtrue.doctor.encoding import Encoded
from holdtrue.doctor.rendering import Template, is_mark
from holdtrue.doctor.subject import Subject
from holdtrue.doctor.tallies import SHOWN, of_encoded

START = "(start)"
TEMPLATE = "template"
FOREIGN = re.compile(r"<\|[A-Za-z]\w*\|>|<｜[^｜<>]{1,40}｜>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>")
"""Control strings of chat formats, whatever the tokenizer: in a text they are traces of another template."""


@dataclass
class TokenCensus:
    """One control token in the data.

    Attributes:
        count, examples: how often it stands, and in how many examples.
        repeated: how often the token before it was the same one.
        before: the five most frequent tokens before it (``(start)`` where there is none) -> times.
        places: ``template`` (the chat template wrote it), or role and position in a turn's text, such as
            ``assistant inside`` -> times.
        at: the first three examples in whose text it stands, or in which it follows itself.
    """

    id: int
    text: str
    special: bool
    count: int = 0
    examples: int = 0
    repeated: int = 0
    before: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    at: list[str] = field(default_factory=list)

    @property
    def in_text(self) -> int:
        """How often it stands in a turn's own text."""
        return self.count - self.places[TEMPLATE]

    @property
    def follows_itself(self) -> float:
        """P(next is this token | this token): the share of its places after which it comes again."""
        return self.repeated / self.count

    @property
    def structural(self) -> bool:
        """Whether it belongs to the format and not to what is said."""
        return is_mark(self.text, self.special)

    def as_values(self, examples: int, tokens: int) -> dict[str, Any]:
        """Plain values, with its shares of the data's examples and tokens."""
        return {
            "id": self.id,
            "token": self.text,
            "count": self.count,
            "share_of_examples": self.examples / examples,
            "share_of_tokens": self.count / tokens,
            "follows_itself": self.follows_itself,
            "written_by_template": self.places[TEMPLATE],
            "in_text": self.in_text,
            "before": dict(self.before.most_common()),
            "places": dict(self.places.most_common()),
            "at": self.at,
        }


@of_encoded
class Census:
    """The control tokens of the examples that the template renders, counted on ids.

    Attributes:
        examples, tokens: that were counted.
        targets: id -> how many targets hold it, raw texts aside.
        foreign: control strings of other chat formats -> the examples that would teach one.
    """

    def __init__(self, subject: Subject) -> None:
        self._tokenizer = subject.tokenizer
        named = Template(self._tokenizer)
        self._controls, self._special = named.controls, named.special
        self._wanted = np.array(sorted(self._controls), np.int32)
        self._own = set(self._controls.values())
        self._found: dict[int, TokenCensus] = {}
        self._before: dict[int, Counter[int | None]] = defaultdict(Counter)
        self.examples = self.tokens = 0
        self.targets = Counter[int]()
        self.foreign: dict[str, list[str]] = {}

    def see(self, one: Encoded) -> None:
        if one.fault is not None:
            return
        ids = one.ids
        self.examples += 1
        self.tokens += len(ids)
        places = np.flatnonzero(np.isin(ids, self._wanted))
        for id in np.unique(ids[places]).tolist():
            new = TokenCensus(id, self._controls[id], id in self._special)
            self._found.setdefault(id, new).examples += 1
            if one.target and one.target.role != "text" and one.target_holds(id):
                self.targets[id] += 1
        for place in places.tolist():
            self._note(one, place)
        said = {mark for text in one.example.learned_texts for mark in FOREIGN.findall(text)}
        for mark in sorted(said - self._own):
            self.foreign.setdefault(mark, []).append(one.example.at)

    def _note(self, one: Encoded, place: int) -> None:
        token = self._found[int(one.ids[place])]
        token.count += 1
        before = int(one.ids[place - 1]) if place else None
        self._before[token.id][before] += 1
        where = _where(one, place)
        token.places[where] += 1
        again = before == token.id
        token.repeated += again
        if (again or where != TEMPLATE) and len(token.at) < SHOWN and one.example.at not in token.at:
            token.at.append(one.example.at)

    def control_tokens(self) -> list[TokenCensus]:
        """Every control token that occurs, the most frequent first."""
        for id, counts in self._before.items():
            self._found[id].before = Counter(
                {
                    START if before is None else self._tokenizer.decode([before]): times
                    for before, times in counts.most_common(5)
                }
            )
        return sorted(self._found.values(), key=lambda token: (-token.count, token.id))


def _where(one: Encoded, place: int) -> str:
    for span in one.spans:
        if span.start <= place < span.end:
            position = "first" if place == span.start else "last" if place == span.end - 1 else "inside"
            return f"{span.role} {position}"
    return TEMPLATE
