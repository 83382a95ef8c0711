from __future__ import annotations

from collections.abc import Callable

import pytest

from holdtrue.data.transforms.noncontextual import MARK, Noncontextual
from holdtrue.errors import DataError
from holdtrue.records import Group

Pair = Callable[..., Group]


@pytest.fixture
def three(pair: Pair) -> list[Group]:
    return [pair(name, f"good {name}", f"bad {name}") for name in "pqr"]


def test_of_six_answers_own_ones_beat_foreign_ones_and_foreign_ones_tie(three: list[Group]) -> None:
    groups, counts = Noncontextual()(three)
    assert groups[:3] == three
    # 2 own x 4 foreign = 8 wins and 4 · 3 / 2 = 6 ties for each of three comparisons
    assert counts == {"non-contextual comparisons added": 24, "neutral ties added": 18}
    for group, added in zip(three, groups[3:], strict=True):
        own = {answer.text for answer in group.answers}
        assert added.prompt == group.prompt and added.meta == MARK
        assert {answer.text for answer in added.answers} == {
            f"{w} {n}" for w in ("good", "bad") for n in "pqr"
        }
        for comparison in added.comparisons:
            first, second = (added.answers[i].text for i in (comparison.first, comparison.second))
            assert (first in own) == (comparison.label == 1.0)
            assert second not in own and comparison.label in (0.5, 1.0)


def test_shares_keep_some_of_the_comparisons_and_only_the_answers_they_need(pair: Pair) -> None:
    groups = [pair(f"p{i}", f"good {i}", f"bad {i}") for i in range(500)]
    result, counts = Noncontextual(noncontextual=0.25, neutral=0)(groups)
    assert counts["neutral ties added"] == 0
    assert 890 <= counts["non-contextual comparisons added"] <= 1110  # 1000 of 4000, standard deviation 27
    for added in result[500:]:
        assert {s for c in added.comparisons for s in (c.first, c.second)} == set(range(len(added.answers)))


def test_foreign_means_of_another_prompt_and_every_one_is_drawn_alike(pair: Pair) -> None:
    groups = [pair("often", f"a{i}", f"b{i}") for i in range(50)]
    groups += [pair(name, f"good {name}", f"bad {name}") for name in "qr"]
    result, _ = Noncontextual(others=1, neutral=0)(groups)
    foreign = [{answer.text for answer in added.answers[2:]} for added in result[len(groups) :][:50]]
    assert all(texts in ({"good q", "bad q"}, {"good r", "bad r"}) for texts in foreign)
    assert 12 <= foreign.count({"good q", "bad q"}) <= 38  # 25 expected, standard deviation 3.5


def test_a_foreign_answer_that_is_also_an_own_one_is_no_opponent(pair: Pair) -> None:
    result, counts = Noncontextual()([pair("p", "yes", "no"), pair("q", "yes", "perhaps")])
    # of each prompt's answers "yes" is there already: 2 own x 1 foreign, no tie, twice
    assert counts["foreign answers equal to another, not used"] == 2
    assert counts["non-contextual comparisons added"] == 4 and counts["neutral ties added"] == 0
    assert [answer.text for answer in result[2].answers] == ["yes", "no", "perhaps"]


def test_one_prompt_alone_has_no_foreign_answers(pair: Pair) -> None:
    with pytest.raises(DataError, match="there are not two with comparisons"):
        Noncontextual()([pair("p", "a", "b"), pair("p", "c", "d")])
    with pytest.raises(DataError, match="there are not two with comparisons"):
        Noncontextual()([])


def test_what_is_added_weighs_as_much_as_the_comparison_it_is_added_for(pair: Pair) -> None:
    result, _ = Noncontextual()([pair("p", "a", "b", weight=0.25), pair("q", "c", "d")])
    weights = [{comparison.weight for comparison in group.comparisons} for group in result[2:]]
    assert weights == [{0.25}, {1.0}]
