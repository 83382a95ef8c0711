"""Groups written as rows of a layout, with an account of what the layout does not hold.

What is lost is found by reading each row back: whatever a group says and its rows do not is counted. A row
that would be read as something else (another layout, other turns) is not written. Ratings tell the
comparisons that reading makes of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from holdtrue.data import formats
from holdtrue.data.fields import BadRow
from holdtrue.data.formats import Format
from holdtrue.records import Comparison, Group, Messages

Fact = tuple[str, Any]

_MUST_STAY = ("prompts", "answers", "comparisons")


class Writer:
    """Rows of one layout.

    Attributes:
        left_out: why groups, or rows of them, were not written -> how many.
        lost: what written groups had that the layout does not hold -> how many.
    """

    def __init__(self, layout: Format) -> None:
        self.layout = layout
        self.left_out: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()

    def rows(self, group: Group) -> Iterator[dict[str, Any]]:
        """The group's rows, each with the group's metadata."""
        facts = _facts(group)
        implied = _facts_of_comparisons(replace(group, comparisons=_by_ratings(group)))
        told: set[Fact] = set()
        try:
            rows = self.layout.write(group)
        except BadRow as fault:
            self.left_out[fault.reason] += 1
            return
        for own in rows:
            try:
                row = self._with_meta(group, own)
                said = self._read_back(row, facts | implied)
            except BadRow as fault:
                self.left_out[fault.reason] += 1
            else:
                told |= said
                yield row
        if told:
            self._count(facts, implied, told)

    def _count(self, facts: set[Fact], implied: set[Fact], told: set[Fact]) -> None:
        """Count what the rows of a group do not say, and what their ratings say that the group did not."""
        unwanted = sum(what == "comparisons" for what, _ in told - facts)
        if unwanted:
            self.lost["answers rated differently but not compared"] += unwanted
        if not any(what == "ratings" for what, _ in facts - told):
            told = told | implied
        compared = {details for what, details in told if what == "comparisons"}
        for what, details in facts - told:
            if what != "weights" or details[:3] in compared:  # else lost with their comparison
                self.lost[what] += 1

    def _with_meta(self, group: Group, own: dict[str, Any]) -> dict[str, Any]:
        """The row with those columns of metadata that stay metadata when it is read."""
        row = own | {name: value for name, value in group.meta.items() if name not in own}
        try:
            meta = self.layout.parse(row).meta
        except BadRow:
            meta = {}
        for name, value in group.meta.items():
            if name in own and str(own[name]) != str(value):
                self.lost[f"columns called {name}"] += 1
            elif name not in own and name in self.layout.columns and name not in meta:
                del row[name]
                self.lost[f"columns called {name}"] += 1
        return row

    def _read_back(self, row: dict[str, Any], facts: set[Fact]) -> set[Fact]:
        found = formats.recognise(row)
        if found is not type(self.layout):
            raise BadRow(f"would be read as {found.name()}")
        told = _facts(self.layout.parse(row))
        if any(fact not in facts for fact in told if fact[0] in _MUST_STAY):
            raise BadRow("would be read as other turns")
        return told


def best_layout(groups: Sequence[Group]) -> str:
    """The layout that holds most of the groups: pairs where ratings do not say the same, labelled answers,
    several answers a row or ratings by name, else one answer a row."""
    answers = [answer for group in groups for answer in group.answers]
    if any(group.comparisons and group.comparisons != _by_ratings(group) for group in groups):
        return "preference"
    if all(answer.label is not None for answer in answers):
        return "unpaired"
    if any(len(group.answers) > 1 for group in groups) or any(a.ratings.keys() - {"rating"} for a in answers):
        return "completions"
    return "completion"


def _by_ratings(group: Group) -> tuple[Comparison, ...]:
    """The comparisons that reading makes of the group's ratings."""
    return formats.ranked(group.prompt, group.answers).comparisons


def _facts(group: Group) -> set[Fact]:
    """All a group says, one by one, as (what, details); white space around turns is a fact of its own."""
    prompt = _stripped(group.prompt)
    texts = [_stripped(answer.content) for answer in group.answers]
    facts: set[Fact] = {("prompts", prompt)}
    for content in (group.prompt, *(answer.content for answer in group.answers)):
        edges = [] if isinstance(content, str) else [turn for turn in content if _has_edges(turn.content)]
        facts |= {("turns with white space around them", turn) for turn in edges}
    for answer, text in zip(group.answers, texts, strict=True):
        facts.add(("answers", text))
        facts |= {("ratings", (text, answer.rater, *rating)) for rating in answer.ratings.items()}
        facts |= {("spans", (text, span)) for span in answer.spans}
        facts |= {("steps", (text, step)) for step in answer.steps}
        if answer.label is not None:
            facts.add(("labels", (text, answer.label)))
        if answer.rater is not None and not answer.ratings:
            facts.add(("raters of answers", (text, answer.rater)))
    return facts | _facts_of_comparisons(group)


def _facts_of_comparisons(group: Group) -> set[Fact]:
    texts = [_stripped(answer.content) for answer in group.answers]
    facts: set[Fact] = set()
    for c in group.comparisons:
        first, second, label = texts[c.first], texts[c.second], c.label
        if label < 0.5:
            facts.add(("orders of two answers, preferred second", (first, second)))
            first, second, label = second, first, 1 - label
        sides = (first, second, round(label, 12), c.rater)
        facts.add(("comparisons", sides[:3]))
        facts |= {("raters of comparisons", sides)} if c.rater is not None else set()
        facts.add(("weights", (*sides[:3], c.weight)))
        facts |= {("margins", (sides, c.margin))} if c.margin is not None else set()
    return facts


def _has_edges(text: str) -> bool:
    return text != text.strip()


def _stripped(content: Messages | str) -> Hashable:
    if isinstance(content, str):
        return content.strip()
    return tuple((turn.role, turn.content.strip()) for turn in content)
