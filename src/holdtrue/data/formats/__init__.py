"""Formats: one module per layout that data sets come in; each reads a row into a Group.

A layout is recognised from the columns of each row, so that files of several layouts can be mixed
and none is read as another. Adding one is a file with one :class:`Format` and a three-row sample.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import Any, ClassVar, Literal

from holdtrue import kinds
from holdtrue.data.fields import (
    BadRow,
    Content,
    as_number,
    common_length,
    content,
    dialogue,
    is_dialogue,
    messages,
    number,
    rater,
    show,
)
from holdtrue.errors import SettingsError
from holdtrue.kinds import Kind
from holdtrue.records import Answer, Comparison, Group, Message, Messages, flatten

FAMILY = "holdtrue.data.formats"

PAIR_COLUMNS = {
    "prompt": "text or messages; may be left out when chosen and rejected are whole conversations",
    "chosen": "the preferred answer: text, messages or one message",
    "rejected": "the other answer, in the same form",
    "margin": "how far apart the rewards should be (reward units)",
    "weight": "how many times the comparison counts, at least 0",
    "label": "P(chosen preferred) between 0 and 1, a boolean, or 'tie'",
    "tie": "true when neither answer is better",
    "rater": "who compared the answers",
}


class Format(Kind):
    """Base of the layouts."""

    columns: ClassVar[Mapping[str, str]]
    """Columns the layout reads, and what each holds. All others become metadata."""
    needs: ClassVar[tuple[str, ...]]
    """Columns without which a row is not of this layout."""
    sample: ClassVar[tuple[Mapping[str, Any], ...]]
    """Three rows, shown in the documentation and parsed by a test."""

    plain_text: Literal["chat", "raw"] = "chat"
    """Plain strings become a user turn and an assistant turn, or stay text."""

    @classmethod
    @abstractmethod
    def recognises(cls, row: Mapping[str, Any]) -> bool:
        """True when the row is of this layout; a row of which two layouts say so is rejected."""

    @abstractmethod
    def parse(self, row: Mapping[str, Any]) -> Group:
        """The row's prompt, answers and comparisons (the reader adds the other columns and the source).

        Raises:
            BadRow: a value is missing, of the wrong type or out of range.
        """

    def write(self, group: Group) -> list[dict[str, Any]]:
        """Rows that say what the group says, as far as the layout holds it; the writer adds metadata.

        Raises:
            BadRow: it holds nothing of the group. NotImplementedError: the layout is only read.
        """
        raise NotImplementedError(f"{self.name()} is only read")


@cache
def classes() -> tuple[type[Format], ...]:
    """Every layout, by name."""
    return tuple(named(name) for name in kinds.names(FAMILY))


def named(name: str) -> type[Format]:
    """The layout of that name.

    Raises:
        SettingsError: there is none.
    """
    found = kinds.load(FAMILY, name)
    assert issubclass(found, Format)  # load has seen to it
    return found


def to_write(name: str) -> type[Format]:
    """The layout of that name, which can be written.

    Raises:
        SettingsError: there is none, or it is only read.
    """
    found = named(name)
    if found.write is Format.write:
        known = ", ".join(cls.name() for cls in classes() if cls.write is not Format.write)
        raise SettingsError(f"{name} is a layout to read; those to write are {known}")
    return found


def recognise(row: Mapping[str, Any]) -> type[Format]:
    """The layout of a row.

    Raises:
        BadRow: no layout has these columns, or several have.
    """
    fitting = [found for found in classes() if found.recognises(row)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = " and ".join(found.name() for found in fitting)
        raise BadRow("layout ambiguous", f"the columns are those of {names}; name one with --format")
    shared = {found: len(found.columns.keys() & row.keys()) for found in classes()}
    near = [found for found in sorted(shared, key=lambda found: -shared[found])[:3] if shared[found]]
    usual = named("preference")
    by_far = near and shared[near[0]] > 1  # one column in common says little: most people have pairs
    listed = dict.fromkeys((*near, usual) if by_far else (usual, *near))
    known = "; ".join(f"{found.name()}: {', '.join(found.needs)}" for found in listed)
    raise BadRow(
        "layout not recognised",
        f"columns seen: {_listed(row)}; needed is one of {known}; to name others: --column chosen=NAME",
    )


def require(found: type[Format], row: Mapping[str, Any]) -> None:
    """Check a row against a layout that the user named."""
    if not found.recognises(row):
        raise BadRow(
            f"not a {found.name()} row",
            f"columns seen: {_listed(row)}; {found.name()} needs {', '.join(found.needs)}",
        )


def holds(row: Mapping[str, Any], *columns: str) -> bool:
    """True for a row with all these columns that is not a pair already.

    Conversions often add ``chosen`` and ``rejected`` beside the columns they were made from.
    """
    return row.keys() >= set(columns) and not ("chosen" in row and "rejected" in row)


def _listed(row: Mapping[str, Any]) -> str:
    names = [name if len(name) <= 40 else name[:37] + "..." for name in row]
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "") if names else "none"


def with_prompt(
    prompt: Any, answers: Sequence[Content], plain_text: str, column: str = "prompt"
) -> tuple[Content, list[Content]]:
    """Prompt and answers in one form: all messages, or all text when all are and ``plain_text`` is raw."""
    if prompt is None:
        raise BadRow("missing field", f"{column} is null")
    if isinstance(prompt, str):
        if not prompt.strip():
            raise BadRow("empty prompt")
        if plain_text == "raw" and all(isinstance(answer, str) for answer in answers):
            return prompt, list(answers)
        turns: Messages = _dialogue_prompt(prompt) if is_dialogue(prompt) else (Message("user", prompt),)
    else:
        turns = messages(prompt, column)
    if not any(turn.content.strip() for turn in turns):
        raise BadRow("empty prompt")
    return turns, [_answer_turns(turns, answer) for answer in answers]


def _dialogue_prompt(prompt: str) -> Messages:
    turns = dialogue(prompt, "prompt")
    if turns[-1] == Message("assistant", ""):  # "...\n\nAssistant:" only announces the answer
        turns = turns[:-1]
    return turns


def _answer_turns(prompt: Messages, answer: Content) -> Messages:
    if isinstance(answer, str):
        return (Message("assistant", answer),)
    if len(answer) > len(prompt) and answer[: len(prompt)] == prompt:
        answer = answer[len(prompt) :]
    if answer and answer[0].role != "assistant":
        raise BadRow(
            "answer does not continue the prompt",
            f"an answer starts with a turn of {show(answer[0].role)} that is not in the prompt",
        )
    return ended(answer)


def divide(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """Two conversations as their longest common prefix and what follows it, at least a turn on each side."""
    length = common_length(ended(chosen)[:-1], ended(rejected)[:-1])
    if not length:
        raise BadRow("no common prompt", "chosen and rejected differ from the first turn on")
    return chosen[:length], chosen[length:], rejected[length:]


def ended(answer: Messages) -> Messages:
    """An answer that ends as an answer must, with a turn of the assistant."""
    if not answer:
        raise BadRow("empty answer", "an answer has no messages")
    if answer[-1].role != "assistant":
        raise BadRow("last turn is not the assistant's", f"its role is {show(answer[-1].role)}")
    return answer


def ranked(prompt: Content, answers: Sequence[Answer]) -> Group:
    """A Group with the comparisons that the answers' ratings named "rating" imply.

    Two answers rated differently by the same rater give one comparison, the higher first, of weight
    ``1 / (number of comparisons of the group)``: they are not independent, so all comparisons of one
    ranking count as one in the loss (InstructGPT, arXiv 2203.02155, eq. 1). Equal ratings give none.
    """
    rated = [(i, a.rater, a.ratings["rating"]) for i, a in enumerate(answers) if "rating" in a.ratings]
    pairs = [
        (i, j, rater) if one > other else (j, i, rater)
        for (i, rater, one), (j, second_rater, other) in combinations(rated, 2)
        if rater == second_rater and one != other
    ]
    weight = 1 / max(1, len(pairs))
    return Group(
        prompt, tuple(answers), tuple(Comparison(i, j, weight=weight, rater=rater) for i, j, rater in pairs)
    )


def pair(prompt: Content, chosen: Content, rejected: Content, row: Mapping[str, Any]) -> Group:
    """A Group of two answers and their comparison, with the row's margin, weight, label, tie and rater.

    One empty side is kept: people do prefer silence to some answers, and policies can be silent.
    """
    if chosen == rejected:
        raise BadRow("identical sides")
    if not flatten(chosen).strip() and not flatten(rejected).strip():
        raise BadRow("empty answer", "neither side has text")
    weight = number(row, "weight", low=0.0)
    weight = 1.0 if weight is None else weight
    comparison = Comparison(0, 1, _label(row), weight, number(row, "margin"), rater(row.get("rater")))
    return Group(prompt, (Answer(chosen), Answer(rejected)), (comparison,), kept(row, "rater"))


def pairs(group: Group) -> list[tuple[Content, Content, dict[str, Any]]]:
    """Chosen, rejected and the other pair columns of each comparison, the preferred side first."""
    if not group.comparisons:
        raise BadRow("no comparison")
    result = []
    for c in group.comparisons:
        better, worse = c.preferred or (c.first, c.second)
        label = max(c.label, 1 - c.label)
        columns = {
            "margin": c.margin,
            "weight": None if c.weight == 1 else c.weight,
            "label": None if label == 1 else label,
            "rater": c.rater,
        }
        given = {name: value for name, value in columns.items() if value is not None}
        result.append((group.answers[better].content, group.answers[worse].content, given))
    return result


def kept(row: Mapping[str, Any], column: str) -> dict[str, Any]:
    """A column that a layout reads and that is metadata as well, for slices."""
    return {} if row.get(column) is None else {column: row[column]}


def has_lists(row: Mapping[str, Any]) -> bool:
    """True when chosen or rejected is a list of answers, not one answer or a conversation."""
    sides = (row.get("chosen"), row.get("rejected"))
    return any(isinstance(side, list) and any(isinstance(item, str) for item in side) for side in sides)


def set_against(
    prompt: Any, right: Sequence[Any], wrong: Sequence[Any], plain_text: Literal["chat", "raw"]
) -> Group:
    """A Group in which each of the ``right`` answers is preferred to each of the ``wrong`` ones.

    The right answers come first, both in the order given. Answers may be equal or empty: published sets
    hold such rows, and each is to be scored.
    """
    if prompt is None:
        raise BadRow("missing field", "prompt is null")
    given = {f"chosen[{i}]": answer for i, answer in enumerate(right)}
    given |= {f"rejected[{i}]": answer for i, answer in enumerate(wrong)}
    prompt, answers = with_prompt(prompt, [content(given, place) for place in given], plain_text)
    count = len(right)
    comparisons = [Comparison(i, j) for i in range(count) for j in range(count, len(answers))]
    return Group(prompt, tuple(map(Answer, answers)), tuple(comparisons))


def answers_of(row: Mapping[str, Any], column: str) -> list[Any]:
    """The list of answers in a column, at least one."""
    found = row.get(column)
    if not isinstance(found, list) or not found:
        raise BadRow("wrong type", f"{column} is {show(found)}, expected a list of answers")
    return found


def _label(row: Mapping[str, Any]) -> float:
    tie, label = row.get("tie"), row.get("label")
    if tie not in (None, True, False):
        raise BadRow("tie is not a boolean", f"tie is {show(tie)}")
    if label is None:
        return 0.5 if tie else 1.0
    if isinstance(label, str) and label.casefold() == "tie":
        label = 0.5
    elif not isinstance(label, (bool, int, float)):
        raise BadRow(
            "label is not a probability",
            f"label is {show(label)}, expected P(chosen) between 0 and 1 or 'tie'; "
            "--column label=NAME reads it from another column, --column label= from none",
        )
    result = as_number(float(label) if isinstance(label, bool) else label, "label", 0.0, 1.0)
    if tie is not None and bool(tie) != (result == 0.5):
        raise BadRow("tie and label disagree", f"tie is {show(tie)}, label is {show(row['label'])}")
    return result
