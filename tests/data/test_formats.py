import json
import math
import sys
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest

from holdtrue import kinds
from holdtrue.data import formats
from holdtrue.data.fields import BadRow
from holdtrue.data.formats import Format
from holdtrue.data.formats.completion import Completion
from holdtrue.data.formats.completions import Completions
from holdtrue.data.formats.hh import HH
from holdtrue.data.formats.judgebench import JudgeBench
from holdtrue.data.formats.preference import Preference
from holdtrue.data.formats.rewardbench2 import RewardBench2
from holdtrue.data.formats.rm_bench import RMBench
from holdtrue.data.formats.rmb import RMB
from holdtrue.errors import SettingsError
from holdtrue.records import Answer, Comparison, Group
from turns import asks, assistant, reason, says, user

EVERY = formats.classes()


def sides(group: Group) -> tuple[Any, Any, Any]:
    return group.prompt, group.answers[0].content, group.answers[1].content


@pytest.mark.parametrize("found", EVERY, ids=lambda found: found.name())
def test_the_three_rows_of_a_sample_are_of_their_layout_alone_and_parse(found: type[Format]) -> None:
    assert len(found.sample) == 3
    for row in found.sample:
        assert [other for other in EVERY if other.recognises(row)] == [found]
        group = found().parse(row)
        assert group.answers and group.prompt


@pytest.mark.parametrize("found", EVERY, ids=lambda found: found.name())
def test_a_sample_means_the_same_after_a_round_trip_through_json(found: type[Format]) -> None:
    for row in found.sample:
        again = json.loads(json.dumps(row))
        assert formats.recognise(again) is found
        assert found().parse(again) == found().parse(row)


JUNK: list[Any] = [None, True, -1, 7, 10**400, math.nan, "x", "", [], [None], [[]], [{}], {}, {"x": 1}]


def damaged(value: Any) -> Iterator[Any]:
    """Copies of a value in which one part, at any depth, is left out or replaced by junk."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        copy = value.copy()
        del copy[key]
        yield copy
        for part in (*JUNK, *damaged(value[key])):
            copy = value.copy()
            copy[key] = part
            yield copy


@pytest.mark.parametrize("found", EVERY, ids=lambda found: found.name())
def test_a_damaged_row_is_read_or_refused_with_a_reason(found: type[Format]) -> None:
    refused = 0
    for row in found.sample:
        for bad in damaged(dict(row)):
            try:
                group = formats.recognise(bad)().parse(bad)
            except BadRow:
                refused += 1
            else:
                assert group.answers
    assert refused > 20


def test_columns_of_two_layouts_together_are_read_as_one_or_refused_as_ambiguous() -> None:
    for one, other in combinations(EVERY, 2):
        row = {**one.sample[0], **other.sample[0]}
        fitting = [found.name() for found in EVERY if found.recognises(row)]
        if len(fitting) == 1:
            assert formats.recognise(row).name() == fitting[0]
        else:
            with pytest.raises(BadRow, match="layout ambiguous"):
                formats.recognise(row)


def test_a_pair_is_read_as_one_whatever_it_was_made_from() -> None:
    made = {"prompt": "q", "chosen": "a", "rejected": "b"}
    for found in EVERY:
        if not {"chosen", "rejected"} & set(found.columns):
            assert formats.recognise({**found.sample[0], **made}) is Preference


def test_a_row_that_two_layouts_fit_says_how_to_choose() -> None:
    row = {**formats.named("shp").sample[0], **formats.named("tldr").sample[0]}
    with pytest.raises(BadRow, match="the columns are those of shp and tldr; name one with --format"):
        formats.recognise(row)
    formats.require(formats.named("shp"), row)


@pytest.mark.parametrize("found", EVERY, ids=lambda found: found.name())
def test_a_module_names_every_column_its_layout_reads(found: type[Format]) -> None:
    table = sys.modules[found.__module__].__doc__ or ""
    assert [column for column in found.columns if column not in table] == []


def test_layouts_are_found_by_the_names_of_their_files() -> None:
    assert [found.name() for found in EVERY] == kinds.names(formats.FAMILY)
    assert formats.named("hh") is HH
    with pytest.raises(SettingsError, match=r"is not a subclass of holdtrue\.data\.formats\.Format"):
        formats.named("holdtrue.losses.bradley_terry:BradleyTerry")
    assert kinds.load(formats.FAMILY, "preference") is Preference


def rated(*ratings: float | None, raters: tuple[str | None, ...] = ()) -> Group:
    answers = [
        Answer(f"{i}", {} if value is None else {"rating": value}, rater=raters[i] if raters else None)
        for i, value in enumerate(ratings)
    ]
    return formats.ranked("q", answers)


def test_ratings_of_a_prompt_give_all_pairs_that_differ_and_weigh_one_together() -> None:
    # 3 > 1 (twice) and 3 > 2 and 2 > 1 (twice): 5 of the 6 pairs, the equal ones are left out
    group = rated(1, 3, 1, 2)
    assert [(c.first, c.second) for c in group.comparisons] == [(1, 0), (3, 0), (1, 2), (1, 3), (3, 2)]
    assert {(c.label, c.weight, c.margin) for c in group.comparisons} == {(1.0, 1 / 5, None)}


def test_equal_missing_or_single_ratings_give_no_comparison() -> None:
    assert rated(2, 2).comparisons == rated(2).comparisons == rated(None, 1).comparisons == ()
    assert len(rated(2).answers) == 1


def test_ratings_of_different_raters_are_not_compared() -> None:
    group = rated(1, 2, 1, 2, raters=("a", "a", "b", None))
    assert group.comparisons == (Comparison(1, 0, rater="a"),)


def test_ranks_are_ratings_turned_round() -> None:
    row = {"prompt": "q", "completions": ["a", "b", "c", "d"], "ranks": [2, 1, 2, None], "rater": "w"}
    group = Completions().parse(row)
    assert [dict(a.ratings) for a in group.answers] == [{"rating": -2}, {"rating": -1}, {"rating": -2}, {}]
    assert {answer.rater for answer in group.answers} == {"w"}
    assert group.comparisons == (
        Comparison(1, 0, weight=0.5, rater="w"),
        Comparison(1, 2, weight=0.5, rater="w"),
    )


def test_text_becomes_turns_in_chat_and_stays_text_in_raw() -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert sides(Preference().parse(row)) == (asks("q"), says("a"), says("b"))
    assert sides(Preference(plain_text="raw").parse(row)) == ("q", "a", "b")


def test_messages_single_messages_and_text_can_be_mixed_around_a_conversation() -> None:
    row = {"prompt": [user("q")], "chosen": assistant("a"), "rejected": "b"}
    assert sides(Preference().parse(row)) == (asks("q"), says("a"), says("b"))
    row = {"prompt": "q", "chosen": [assistant("a")], "rejected": [assistant("b")]}
    assert sides(Preference(plain_text="raw").parse(row)) == (asks("q"), says("a"), says("b"))


def test_text_parts_of_a_message_are_joined_and_other_parts_refused() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    row = {"prompt": "q", "chosen": {"role": "assistant", "content": parts}, "rejected": "c"}
    assert sides(Preference().parse(row))[1] == says("ab")
    parts.append({"type": "image", "url": "x"})
    assert "not text: a message in chosen has content other than text" in reason(Preference(), row)


def test_an_implicit_prompt_is_the_longest_common_prefix_of_turns() -> None:
    row = {
        "chosen": [user("q"), assistant("a"), user("r"), assistant("b")],
        "rejected": [user("q"), assistant("a"), user("s"), assistant("c")],
    }
    prompt, chosen, rejected = sides(Preference().parse(row))
    assert prompt == asks("q") + says("a")
    assert (chosen, rejected) == (asks("r") + says("b"), asks("s") + says("c"))


def test_an_implicit_prompt_leaves_a_turn_on_each_side() -> None:
    row = {
        "chosen": [user("q"), assistant("a")],
        "rejected": [user("q"), assistant("a"), user("r"), assistant("b")],
    }
    assert sides(Preference().parse(row)) == (asks("q"), says("a"), says("a") + asks("r") + says("b"))


def test_whole_conversations_beside_their_prompt_are_not_repeated() -> None:
    row = {
        "prompt": "q",
        "chosen": [user("q"), assistant("a")],
        "rejected": [user("q"), assistant("b")],
    }
    assert sides(Preference().parse(row)) == (asks("q"), says("a"), says("b"))
    row["prompt"] = "another"
    assert "answer does not continue the prompt" in reason(Preference(), row)


def test_two_plain_texts_without_prompt_stay_text() -> None:
    row = {"chosen": "The sky is blue.", "rejected": "The sky is green."}
    assert sides(Preference().parse(row)) == ("", "The sky is blue.", "The sky is green.")


def test_one_empty_side_is_kept_because_silence_can_be_preferred() -> None:
    row = {"prompt": "q", "chosen": "", "rejected": "b"}
    assert sides(Preference().parse(row)) == (asks("q"), says(""), says("b"))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "identical sides"),
        ({"prompt": "q", "chosen": " ", "rejected": ""}, "empty answer: neither side has text"),
        ({"prompt": " \n", "chosen": "a", "rejected": "b"}, "empty prompt"),
        ({"prompt": [], "chosen": "a", "rejected": "b"}, "empty prompt"),
        ({"prompt": [user("")], "chosen": "a", "rejected": "b"}, "empty prompt"),
        ({"prompt": "q", "chosen": [], "rejected": "b"}, "empty answer"),
        ({"prompt": None, "chosen": "a", "rejected": "b"}, "missing field: prompt is null"),
        ({"prompt": "q", "chosen": None, "rejected": "b"}, "missing field: chosen is null"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "wrong type: prompt is 3, expected text or messages"),
        ({"prompt": "q", "chosen": ["a"], "rejected": "b"}, "wrong type: chosen holds 'a'"),
        ({"prompt": "q", "chosen": [{"from": "gpt", "value": "a"}], "rejected": "b"}, "broken message"),
        ({"prompt": "q", "chosen": {"role": "assistant", "content": None}, "rejected": "b"}, "broken mess"),
        ({"prompt": "q", "chosen": [assistant("a"), user("r")], "rejected": "b"}, "last turn is not the"),
        ({"chosen": [user("q"), assistant("a")], "rejected": "b"}, "mixed text and messages"),
        ({"chosen": [user("q"), assistant("a")], "rejected": [user("r"), assistant("b")]}, "no common"),
        ({"chosen": [user("q"), assistant("a")], "rejected": [user("q"), user("b")]}, "its role is 'user'"),
        ({"chosen": [user("q"), assistant("a")], "rejected": []}, "empty answer"),
    ],
)  # fmt: skip
def test_a_pair_that_cannot_be_used_says_why(row: dict[str, Any], expected: str) -> None:
    assert expected in reason(Preference(), row)


@pytest.mark.parametrize(
    ("columns", "label", "weight", "margin"),
    [
        ({}, 1.0, 1.0, None),
        ({"label": 0.7, "weight": 2, "margin": -1.5}, 0.7, 2.0, -1.5),
        ({"label": None, "weight": None, "margin": None, "tie": None}, 1.0, 1.0, None),
        ({"label": False}, 0.0, 1.0, None),
        ({"label": True, "weight": 0}, 1.0, 0.0, None),
        ({"label": "tie"}, 0.5, 1.0, None),
        ({"tie": True}, 0.5, 1.0, None),
        ({"tie": 1, "label": 0.5}, 0.5, 1.0, None),
        ({"tie": False, "label": 1}, 1.0, 1.0, None),
    ],
)
def test_label_weight_margin_and_tie_reach_the_comparison(
    columns: dict[str, Any], label: float, weight: float, margin: float | None
) -> None:
    group = Preference().parse({"prompt": "q", "chosen": "a", "rejected": "b", **columns})
    (comparison,) = group.comparisons
    assert (comparison.label, comparison.weight, comparison.margin) == (label, weight, margin)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"label": 1.2}, "label out of range: label is 1.2, must be between 0 and 1"),
        ({"label": "a"}, "label is not a probability: label is 'a'"),
        ({"label": [1]}, "label is not a probability"),
        ({"weight": -1}, "weight out of range: weight is -1, must be at least 0"),
        ({"weight": True}, "weight is not a number: weight is True, expected a number"),
        ({"margin": -1e19}, "margin out of range: margin is -1e+19, must be within ±1e+18"),
        ({"margin": "2"}, "margin is not a number: margin is '2'"),
        ({"margin": float("inf")}, "margin is not finite"),
        ({"margin": 10**400}, "margin is not finite"),
        ({"tie": "yes"}, "tie is not a boolean: tie is 'yes'"),
        ({"tie": True, "label": 1.0}, "tie and label disagree: tie is True, label is 1.0"),
        ({"tie": False, "label": "tie"}, "tie and label disagree"),
    ],
)
def test_a_number_out_of_range_names_column_and_value(columns: dict[str, Any], expected: str) -> None:
    assert expected in reason(Preference(), {"prompt": "q", "chosen": "a", "rejected": "b", **columns})


def test_native_dialogues_become_turns_and_the_common_ones_the_prompt() -> None:
    start = "\n\nHuman: q\n\nAssistant: a: b\n\nstill a"
    row = {
        "chosen": f"{start}\n\nHuman: r\n\nAssistant: c ",
        "rejected": f"{start}\n\nHuman: s\n\nAssistant: d",
    }
    prompt, chosen, rejected = sides(HH().parse(row))
    assert prompt == asks("q") + says("a: b\n\nstill a")
    assert (chosen, rejected) == (asks("r") + says("c"), asks("s") + says("d"))


def test_raw_dialogues_are_divided_after_the_last_common_marker_and_keep_every_character() -> None:
    row = {
        "chosen": "\n\nHuman: q\n\nAssistant: same start, yes",
        "rejected": "\n\nHuman: q\n\nAssistant: same start, no",
    }
    group = HH(plain_text="raw").parse(row)
    assert sides(group) == ("\n\nHuman: q\n\nAssistant:", " same start, yes", " same start, no")
    assert [group.conversation(i) for i in (0, 1)] == [row["chosen"], row["rejected"]]


def test_a_dialogue_as_prompt_takes_plain_answers() -> None:
    row = {"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": " yes", "rejected": " no"}
    assert sides(HH().parse(row)) == (asks("q"), says("yes"), says("no"))
    assert sides(HH(plain_text="raw").parse(row)) == (row["prompt"], " yes", " no")
    completion = {"prompt": row["prompt"], "completion": "yes"}
    assert Completion().parse(completion).prompt == asks("q")


def test_dialogues_without_leading_blank_lines_are_recognised() -> None:
    row = {"chosen": "Human: q\n\nAssistant: yes", "rejected": "Human: q\n\nAssistant: no"}
    assert formats.recognise(row) is HH
    assert formats.recognise({"chosen": "Human: is a word", "rejected": "so is this"}) is Preference


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        ("\n\nHuman: q\n\nAssistant: a", "\n\nHuman: q\n\nAssistant: a", "identical sides"),
        ("\n\nHuman: q\n\nAssistant: a", "\n\nHuman: q\n\nAssistant: a ", "identical sides"),
        ("\n\nHuman: q\n\nAssistant: a", "b", "not a dialogue: rejected does not start with"),
        ("\n\nHuman: q\n\nAssistant: a", "\n\nAssistant: b", "not a dialogue"),
        ("\n\nHuman: q\n\nAssistant: a", "\n\nHuman: q", "last turn is not the assistant's"),
        ("\n\nHuman: q\n\nAssistant: a", "\n\nHuman: r\n\nAssistant: b", "no common prompt"),
        ("\n\nHuman: q\n\nAssistant: a", [assistant("b")], "mixed text and messages"),
    ],
)
def test_a_dialogue_that_cannot_be_used_says_why(chosen: Any, rejected: Any, expected: str) -> None:
    row = {"chosen": chosen, "rejected": rejected}
    assert HH.recognises(row) and not Preference.recognises(row)
    assert expected in reason(HH(), row)


def test_completions_keep_their_ratings_and_empty_answers() -> None:
    row = {"prompt": "q", "completions": ["a", "", [assistant("c")]], "ratings": [1, None, 0.5]}
    group = Completions().parse(row)
    assert [answer.content for answer in group.answers] == [says("a"), says(""), says("c")]
    assert [dict(answer.ratings) for answer in group.answers] == [{"rating": 1.0}, {}, {"rating": 0.5}]
    assert group.comparisons == (Comparison(0, 2),)  # 1 against 0.5; the second has no rating


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"completions": []}, "wrong type: completions is [], expected a list of answers"),
        ({"completions": "a"}, "wrong type"),
        ({"completions": ["a", None]}, "missing field: completions[1] is null"),
        ({"completions": ["a", 3]}, "completions[1] is 3, expected text or messages"),
        ({"completions": ["a", "b"], "ratings": [1]}, "ratings do not fit: 2 answers need as many ratings"),
        ({"completions": ["a"], "ratings": ["good"]}, "ratings is not a number"),
        ({"completions": ["a"], "ratings": [math.nan]}, "ratings is not finite: ratings is nan"),
        ({"completions": ["a"], "ratings": "good"}, "ratings do not fit"),
        ({"completions": ["a", "b"], "ranks": [1]}, "ranks do not fit: 2 answers need as many ranks"),
        ({"completions": ["a"], "ranks": [True]}, "ranks is not a number: ranks is True"),
        ({"completions": ["a"], "ranks": [1], "ratings": [1]}, "both ratings and ranks: answers are ordered"),
        ({"completions": ["a"], "rater": 3.5}, "wrong type: rater is 3.5, expected text or an integer"),
        ({"completions": ["a"], "rater": ["x", "y"]}, "rater do not fit: 1 answers need as many rater"),
        ({"completions": ["a"], "prompt": None}, "missing field: prompt is null"),
    ],
)
def test_completions_that_cannot_be_used_say_why(columns: dict[str, Any], expected: str) -> None:
    assert expected in reason(Completions(), {"prompt": "q", **columns})


def test_a_completion_is_an_answer_or_the_last_turn_of_a_conversation() -> None:
    assert Completion().parse({"prompt": "q", "completion": "a"}).answers[0].content == says("a")
    group = Completion().parse({"messages": [user("q"), assistant("a"), user("r"), assistant("b")]})
    assert group.prompt == asks("q") + says("a") + asks("r")
    assert group.answers[0].content == says("b")


def test_a_completion_can_have_a_rating_and_a_label_in_text() -> None:
    row = {"prompt": "q", "completion": "a", "rating": 4, "label": "fine"}
    assert formats.recognise(row) is Completion
    assert Completion().parse(row) == Group(asks("q"), (Answer(says("a"), {"rating": 4.0}),))
    assert "rating is not a number: rating is 'good'" in reason(Completion(), {**row, "rating": "good"})


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [user("q")]}, "last turn is not the assistant's"),
        ({"messages": [assistant("a")]}, "empty prompt"),
        ({"messages": []}, "empty answer"),
        ({"messages": None}, "missing field: messages is null"),
        ({"prompt": "q", "completion": None}, "missing field: completion is null"),
        ({"prompt": None, "completion": "a"}, "missing field: prompt is null"),
    ],
)
def test_a_completion_that_cannot_be_used_says_why(row: dict[str, Any], expected: str) -> None:
    assert expected in reason(Completion(), row)


def test_a_pair_with_messages_and_completions_beside_it_is_still_a_pair() -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "b", "messages": [], "completions": [], "completion": ""}
    assert [found for found in EVERY if found.recognises(row)] == [Preference]


def test_lists_of_answers_are_compared_across_the_sides_only() -> None:
    row = {"prompt": "q", "chosen": ["a", "b"], "rejected": ["c", "", "a"], "subset": "Ties"}
    group = RewardBench2().parse(row)
    assert [answer.text for answer in group.answers] == ["a", "b", "c", "", "a"]
    pairs = [comparison.preferred for comparison in group.comparisons]
    assert pairs == [(0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4)]
    assert RewardBench2(plain_text="raw").parse(row).prompt == "q"


def test_a_dialogue_as_prompt_of_lists_is_no_pair() -> None:
    row = {"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": ["a"], "rejected": ["b"]}
    assert [found for found in EVERY if found.recognises(row)] == [RewardBench2]


@pytest.mark.parametrize(
    ("layout", "columns", "expected"),
    [
        (RewardBench2, {"rejected": []}, "wrong type: rejected is [], expected a list of answers"),
        (RewardBench2, {"chosen": "a"}, "wrong type: chosen is 'a'"),
        (RewardBench2, {"chosen": ["a", 3]}, "wrong type: chosen[1] is 3"),
        (RewardBench2, {"prompt": None}, "missing field: prompt is null"),
        (RMBench, {}, "not three styles: chosen and rejected hold 1 and 1 answers"),
        (JudgeBench, {"label": "A=B"}, "label is neither A>B nor B>A: label is 'A=B'"),
        (JudgeBench, {"question": None}, "missing field: question is null"),
        (JudgeBench, {"response_B": None}, "missing field: response_B is null"),
        (RMB, {"reject": "b"}, "wrong type: reject holds 'b', expected an object with text in 'answer'"),
        (RMB, {"bon_best": {"answer": "a"}, "loser_list": []}, "loser_list is [], expected a list"),
    ],
)
def test_a_benchmark_row_that_cannot_be_used_says_why(
    layout: type[Format], columns: dict[str, Any], expected: str
) -> None:
    rows: dict[type[Format], dict[str, Any]] = {
        RewardBench2: {"prompt": "q", "chosen": ["a"], "rejected": ["b"]},
        RMBench: {"prompt": "q", "chosen": ["a"], "rejected": ["b"], "domain": "math"},
        JudgeBench: {"question": "q", "response_A": "a", "response_B": "b", "label": "A>B"},
        RMB: {"conversation_input": [user("q")], "chosen": {"answer": "a"}, "reject": {"answer": "b"}},
    }
    assert expected in reason(layout(), rows[layout] | columns)


def test_the_right_response_is_the_one_the_label_names() -> None:
    row = {"question": "q", "response_A": "a", "response_B": "b"}
    assert JudgeBench().parse({**row, "label": "A>B"}).comparisons[0].preferred == (0, 1)
    assert JudgeBench().parse({**row, "label": "B>A"}).comparisons[0].preferred == (1, 0)


def test_an_unknown_layout_lists_what_was_seen_and_what_is_known() -> None:
    with pytest.raises(
        BadRow,
        match=r"columns seen: question, answer; needed is one of preference: chosen.*others: --column",
    ):
        formats.recognise({"question": "?", "answer": "!"})
    with pytest.raises(
        BadRow, match="needed is one of shp: history, human_ref_A, human_ref_B, labels; "
    ) as told:
        formats.recognise({"history": "?", "human_ref_A": "!", "labels": 1})
    assert len(str(told.value)) < 450


def test_one_answer_can_have_a_rating_and_a_rater() -> None:
    row = {"prompt": "q", "completion": "a", "rating": 3, "rater": 7}
    group = Completion().parse(row)
    assert group.answers == (Answer(says("a"), {"rating": 3.0}, rater="7"),)
    assert group.meta == {"rater": 7}  # for slices
    assert "rater is True, expected text or an integer" in reason(Completion(), row | {"rater": True})


def test_several_answers_have_a_rater_each_or_one_for_all_and_ratings_by_name() -> None:
    row = {
        "prompt": "q",
        "completions": ["a", "b"],
        "ratings": [{"kind": 1, "true": None}, 2],
        "rater": "ann",
    }
    group = Completions().parse(row)
    first, second = group.answers
    assert (first.ratings, second.ratings) == ({"kind": 1.0}, {"rating": 2.0})
    assert (first.rater, second.rater) == ("ann", "ann")
    assert group.comparisons == () and group.meta == {"rater": "ann"}
    parsed = Completions().parse(row | {"rater": ["ann", None]})
    assert [answer.rater for answer in parsed.answers] == ["ann", None]
    assert reason(Completions(), row | {"ratings": [{"kind": "x"}, 2]}).startswith("kind is not a number")


def test_ratings_are_compared_within_one_rater_of_several() -> None:
    row = {"prompt": "q", "completions": ["a", "b", "c"], "ratings": [1, 2, 3], "rater": ["x", "x", "y"]}
    assert Completions().parse(row).comparisons == (Comparison(1, 0, rater="x"),)


def test_a_pair_says_who_compared_it() -> None:
    group = Preference().parse({"prompt": "q", "chosen": "a", "rejected": "b", "rater": "ann"})
    assert group.comparisons[0].rater == "ann" and group.meta == {"rater": "ann"}
