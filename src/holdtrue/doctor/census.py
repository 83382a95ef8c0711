"""Where control tokens stand in data: how often, after what, in whose text, whether one follows itself."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from holdtrue.doctor.encoding import Encoded
from holdtrue.doctor.rendering import is_mark

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


def census(
    encoded: Sequence[Encoded], controls: Mapping[int, str], special: Collection[int], tokenizer: Any
) -> list[TokenCensus]:
    """Every control token that occurs, the most frequent first; counted on ids."""
    wanted = np.array(sorted(controls), np.int32)
    found: dict[int, TokenCensus] = {}
    before_ids: dict[int, Counter[int | None]] = defaultdict(Counter)
    for one in encoded:
        ids = one.ids
        places = np.flatnonzero(np.isin(ids, wanted))
        for id in np.unique(ids[places]).tolist():
            found.setdefault(id, TokenCensus(id, controls[id], id in special)).examples += 1
        for place in places.tolist():
            token = found[int(ids[place])]
            token.count += 1
            before = int(ids[place - 1]) if place else None
            before_ids[token.id][before] += 1
            where = _where(one, place)
            token.places[where] += 1
            again = before == token.id
            token.repeated += again
            if (again or where != TEMPLATE) and len(token.at) < 3 and one.example.at not in token.at:
                token.at.append(one.example.at)
    for id, counts in before_ids.items():
        for before, times in counts.most_common(5):
            found[id].before[START if before is None else tokenizer.decode([before])] = times
    return sorted(found.values(), key=lambda token: (-token.count, token.id))


def _where(one: Encoded, place: int) -> str:
    for span in one.spans:
        if span.start <= place < span.end:
            position = "first" if place == span.start else "last" if place == span.end - 1 else "inside"
            return f"{span.role} {position}"
    return TEMPLATE
