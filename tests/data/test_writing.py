"""Rows written in a layout say what the group said, and what they cannot say is counted."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.data import formats
from holdtrue.data.formats import Format
from holdtrue.data.reader import Reader
from holdtrue.data.writing import Writer, best_layout
from holdtrue.errors import SettingsError
from holdtrue.records import Answer, Comparison, Group, Message, Span

WRITABLE = ["completion", "completions", "hh", "preference", "unpaired"]


def named(name: str, plain_text: Literal["chat", "raw"] = "chat") -> Format:
    return formats.named(name)(plain_text=plain_text)


def turns(*texts: str, role: str = "user") -> tuple[Message, ...]:
    roles = {"user": ("user", "assistant"), "assistant": ("assistant", "user")}[role]
    return tuple(Message(roles[i % 2], text) for i, text in enumerate(texts))


def conversation(*answers: str, comparisons: Iterable[Comparison] = (), **more: Any) -> Group:
    said = tuple(Answer(turns(text, role="assistant")) for text in answers)
    return Group(turns("q"), said, tuple(comparisons), **more)


def read_again(rows: Iterable[dict[str, Any]], path: Path, plain_text: Literal["chat", "raw"]) -> list[Group]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reader = Reader([str(path)], plain_text=plain_text, on_bad_row="strict")
    return [replace(group, source=None, row=None) for group in reader]


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12).map(str.strip)
texts = words.filter(bool)
metas = st.dictionaries(st.sampled_from(["topic", "id", "tags"]), st.integers() | words | st.lists(words))
odd = st.floats(-5, 5).map(lambda x: round(x, 3))


@st.composite
def groups_of(draw: st.DrawFn, layout: str) -> Group:
    """A group whose everything the layout can hold."""
    names = st.none() | st.sampled_from(["ann", "bob"])
    prompt = turns(*draw(st.lists(texts, min_size=1, max_size=3).filter(lambda t: len(t) % 2)))
    count = {"completion": 1, "unpaired": 1, "completions": draw(st.integers(1, 4))}.get(layout, 2)
    contents = draw(st.lists(texts, min_size=count, max_size=count, unique=True))
    meta = draw(metas)
    answers = [Answer(turns(text, role="assistant")) for text in contents]
    if layout in ("preference", "hh"):
        rater = draw(names)
        comparison = Comparison(
            0,
            1,
            draw(st.sampled_from([0.5, 0.625, 0.75, 1.0])),
            draw(odd.map(abs)),
            draw(st.none() | odd),
            rater,
        )
        meta |= {"rater": rater} if rater else {}
        return Group(prompt, tuple(answers), (comparison,), meta)
    plain = st.just({}) | odd.map(lambda x: {"rating": x})
    by_name = st.fixed_dictionaries({"kind": odd, "true": odd})
    ratings = {"completion": plain, "completions": plain | by_name, "unpaired": st.just({})}[layout]
    raters = [draw(names) for _ in answers]
    answers = [replace(a, ratings=draw(ratings), rater=r) for a, r in zip(answers, raters, strict=True)]
    if layout == "unpaired":
        answers = [replace(answers[0], label=draw(st.booleans()))]
    if any(raters):
        meta |= {"rater": raters[0] if len(set(raters)) == 1 else raters}
    return replace(formats.ranked(prompt, answers), meta=meta)


@pytest.mark.parametrize("layout", WRITABLE)
@given(data=st.data())
def test_a_group_that_a_layout_holds_is_read_again_as_it_was(
    layout: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    group = data.draw(groups_of(layout))
    writer = Writer(named(layout))
    rows = list(writer.rows(group))
    if not rows:  # hh cannot hold a text with a turn marker in it
        assert layout == "hh" and writer.left_out
        return
    path = tmp_path_factory.getbasetemp() / f"again-{layout}.jsonl"
    assert read_again(rows, path, "chat") == [group]
    assert not writer.lost and not writer.left_out


@pytest.mark.parametrize("plain_text", ["chat", "raw"])
@pytest.mark.parametrize("layout", WRITABLE)
def test_the_samples_of_a_layout_survive_reading_and_writing(
    layout: str, plain_text: Literal["chat", "raw"], tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    groups = read_again(map(dict, named(layout).sample), path, plain_text)
    writer = Writer(named(layout, plain_text))
    assert read_again([row for g in groups for row in writer.rows(g)], path, plain_text) == groups
    assert not writer.lost and not writer.left_out


def test_every_layout_that_can_be_written_is_tried_here() -> None:
    can = [found.name() for found in formats.classes() if found.write is not Format.write]
    assert can == WRITABLE
    with pytest.raises(SettingsError, match="unknown format 'prefrence'; did you mean 'preference'"):
        formats.to_write("prefrence")


def test_several_comparisons_become_a_row_each_with_the_preferred_side_chosen() -> None:
    given = [Comparison(0, 1, 0.25, weight=2.0, margin=0.5, rater="ann"), Comparison(2, 0, 0.5)]
    group = conversation("a", "b", "c", comparisons=given, meta={"topic": "t"})
    writer = Writer(named("preference"))
    first, second = writer.rows(group)
    assert (first["chosen"][0]["content"], first["rejected"][0]["content"]) == ("b", "a")
    assert {key: first[key] for key in ("label", "weight", "margin", "rater", "topic")} == {
        "label": 0.75, "weight": 2.0, "margin": 0.5, "rater": "ann", "topic": "t",
    }  # fmt: skip
    assert (second["chosen"][0]["content"], second["label"]) == ("c", 0.5)
    assert "weight" not in second and "margin" not in second
    assert writer.lost == {"orders of two answers, preferred second": 1}


def test_what_a_layout_does_not_hold_is_counted() -> None:
    answers = [
        Answer(
            turns(" a", role="assistant"), {"rating": 1.0}, spans=(Span(0, 1, "wrong"),), steps=((0, 1.0),)
        ),
        Answer(turns("b", role="assistant"), label=False),
        Answer(turns("c", role="assistant"), {"rating": 2.0}),
    ]
    comparisons = (Comparison(0, 1, 0.75, margin=1.0), Comparison(1, 0, rater="ann"))
    group = Group(turns("q"), tuple(answers), comparisons)
    kept = {"ratings": 2, "labels": 1, "spans": 1, "steps": 1}
    for layout, lost in {
        "preference": kept | {"answers": 1},
        "hh": kept | {"answers": 1, "turns with white space around them": 1},
        "completions": {
            "spans": 1, "steps": 1, "labels": 1, "comparisons": 2, "margins": 1, "raters of comparisons": 1,
            "answers rated differently but not compared": 1,
        },
        "completion": {
            "spans": 1, "steps": 1, "labels": 1, "comparisons": 2, "margins": 1, "raters of comparisons": 1,
        },
        "unpaired": {
            "ratings": 2, "spans": 1, "steps": 1, "answers": 2, "comparisons": 2, "margins": 1,
            "raters of comparisons": 1, "turns with white space around them": 1,
        },
    }.items():  # fmt: skip
        writer = Writer(named(layout))
        assert list(writer.rows(group)) and not writer.left_out
        assert writer.lost == lost, layout


def test_pairs_become_unpaired_data_where_an_answer_only_won_or_only_lost() -> None:
    group = conversation(
        "a", "b", "c", comparisons=[Comparison(0, 1), Comparison(1, 2), Comparison(0, 2, 0.5)]
    )
    writer = Writer(named("unpaired"))
    rows = list(writer.rows(group))
    assert [(row["completion"][0]["content"], row["label"]) for row in rows] == [("a", True), ("c", False)]
    assert writer.lost == {"answers": 1, "comparisons": 3}
    bare = list(Writer(named("completion")).rows(group))
    assert [row["completion"][0]["content"] for row in bare] == ["a", "b", "c"] and "label" not in bare[0]


def rated(*ratings: float) -> Group:
    answers = [Answer(turns(f"a{i}", role="assistant"), {"rating": r}) for i, r in enumerate(ratings)]
    return formats.ranked(turns("q"), answers)


@pytest.mark.parametrize("layout", ["completions", "completion"])
def test_comparisons_that_ratings_imply_are_not_lost_where_the_ratings_are_written(layout: str) -> None:
    writer = Writer(named(layout))
    rows = list(writer.rows(rated(1, 3, 2)))
    assert len(rows) == {"completions": 1, "completion": 3}[layout] and not writer.lost


def test_comparisons_that_ratings_imply_become_pairs_with_their_weight() -> None:
    writer = Writer(named("preference"))
    rows = list(writer.rows(rated(1, 3, 2)))
    assert [row["weight"] for row in rows] == [1 / 3] * 3
    assert writer.lost == {"ratings": 3}


def test_comparisons_that_are_not_those_of_the_ratings_are_counted_where_only_these_are_written() -> None:
    # read again, a1 > a0, a2 > a0 and a1 > a2 weigh 1/3 each; only the first was there, with weight 1
    writer = Writer(named("completions"))
    assert len(list(writer.rows(replace(rated(1, 3, 2), comparisons=(Comparison(1, 0),))))) == 1
    assert writer.lost == {"weights": 1, "answers rated differently but not compared": 2}


@pytest.mark.parametrize(
    ("layout", "group", "why"),
    [
        ("preference", conversation("a", "b"), "no comparison"),
        ("hh", conversation("a", "b"), "no comparison"),
        (
            "hh",
            replace(
                conversation("a", "b", comparisons=[Comparison(0, 1)]),
                prompt=(Message("system", "s"), *turns("q")),
            ),
            "system turns, which hh does not have",
        ),
        (
            "hh",
            conversation("a\n\nHuman: more?\n\nAssistant: yes", "b", comparisons=[Comparison(0, 1)]),
            "would be read as other turns",
        ),
        ("completion", replace(conversation("a"), prompt="", answers=(Answer("a"),)), "empty prompt"),
        ("unpaired", conversation("a", "b", comparisons=[Comparison(0, 1, 0.5)]), "no label"),
        (
            "completion",
            conversation("a", meta={"chosen": "x", "rejected": "y"}),
            "would be read as preference",
        ),
    ],
)
def test_what_would_be_read_as_something_else_is_not_written(layout: str, group: Group, why: str) -> None:
    writer = Writer(named(layout))
    assert list(writer.rows(group)) == []
    assert writer.left_out == {why: 1} and not writer.lost


def test_metadata_whose_name_means_something_in_the_layout_is_left_out_and_counted() -> None:
    group = conversation("a", "b", comparisons=[Comparison(0, 1)], meta={"label": "odd", "topic": "t"})
    writer = Writer(named("preference"))
    (row,) = writer.rows(group)
    assert "label" not in row and row["topic"] == "t"
    assert writer.lost == {"columns called label": 1}
    writer = Writer(named("preference"))
    (row,) = writer.rows(replace(group, meta={"chosen": 0, "rater": 7}))
    assert row["chosen"][0]["content"] == "a" and row["rater"] == 7
    assert writer.lost == {"columns called chosen": 1}
    writer = Writer(named("completion"))  # where a label that is no boolean is metadata
    assert {row["label"] for row in writer.rows(replace(group, comparisons=()))} == {"odd"}
    assert not writer.lost


def test_plain_text_stays_plain_text_when_it_is_read_raw() -> None:
    group = Group("q", (Answer("a"), Answer("b")), (Comparison(0, 1),))
    assert list(Writer(named("preference", "raw")).rows(group)) == [
        {"prompt": "q", "chosen": "a", "rejected": "b"}
    ]


def test_the_best_layout_holds_most_of_the_groups() -> None:
    one, many = conversation("a"), conversation("a", "b")
    compared = conversation("a", "b", comparisons=[Comparison(0, 1)])
    assert best_layout([one, one]) == "completion"
    assert best_layout([one, many]) == "completions"
    assert best_layout([one, many, compared]) == "preference"
    labelled = Group(turns("q"), (Answer(turns("a", role="assistant"), label=False),))
    assert best_layout([labelled]) == "unpaired" and best_layout([labelled, one]) == "completion"
    by_name = Group(turns("q"), (Answer(turns("a", role="assistant"), {"kind": 1.0}),))
    assert best_layout([one, by_name]) == "completions"


def test_the_best_layout_of_rated_answers_is_the_one_of_ratings_until_they_are_made_pairs() -> None:
    assert best_layout([rated(1, 3, 2), rated(1)]) == "completions"
    assert (
        best_layout([rated(1, 3, 2), replace(rated(1, 3, 2), comparisons=(Comparison(1, 0),))])
        == "preference"
    )
