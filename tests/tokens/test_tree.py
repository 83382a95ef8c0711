from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.records import Answer, Comparison, Group, Message
from holdtrue.tokens.conversation import Encoded
from holdtrue.tokens.tree import Lesson, Tree, common_prefix_length, forest, grow

# few distinct ids and short sequences, so that prefixes, prefixes of one another and duplicates are common
ids = st.lists(st.integers(0, 2), min_size=1, max_size=7).map(lambda values: np.array(values, np.int32))


def planted(*arguments: Any) -> list[Tree]:
    return [tree for trees in forest(*arguments) for tree in trees]


def written_out(tree: Tree) -> list[list[int]]:
    return [[*tree.prompt.tolist(), *answer.tolist()] for answer in tree.answers]


def array(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


@given(st.lists(ids, min_size=1, max_size=6))
def test_a_tree_holds_exactly_the_sequences_it_was_grown_from_in_order(sequences: list[np.ndarray]) -> None:
    tree = grow(sequences)
    assert written_out(tree) == [s.tolist() for s in sequences]
    assert all(len(answer) for answer in tree.answers)
    assert tree.real_tokens == sum(map(len, sequences))
    assert tree.tokens == tree.real_tokens - len(tree.prompt) * (len(sequences) - 1)
    assert tree.longest == max(map(len, sequences))


@given(st.lists(ids, min_size=2, max_size=6))
def test_the_prompt_is_the_longest_prefix_that_leaves_each_answer_a_token(
    sequences: list[np.ndarray],
) -> None:
    found = common_prefix_length(sequences)
    lists = [s.tolist() for s in sequences]

    def fits(length: int) -> bool:
        return all(len(s) > length and s[:length] == lists[0][:length] for s in lists)

    assert fits(found) and not fits(found + 1)


def test_a_single_sequence_is_all_answer() -> None:
    tree = grow([array(5, 6, 7)])
    assert len(tree.prompt) == 0 and written_out(tree) == [[5, 6, 7]]


def test_what_was_said_of_a_comparison_is_kept_and_a_missing_margin_is_zero() -> None:
    said = [Comparison(1, 0, 0.25, 3.0, 0.5), Comparison(0, 1)]
    tree = grow([array(1, 2), array(1, 3)], said)
    assert (tree.first.tolist(), tree.second.tolist()) == ([1, 0], [0, 1])
    assert tree.label.tolist() == [0.25, 1.0]
    assert tree.weight.tolist() == [3.0, 1.0]
    assert tree.margin.tolist() == [0.5, 0.0]
    assert tree.label.dtype == tree.weight.dtype == tree.margin.dtype == np.float32


@st.composite
def encoded_groups(draw: st.DrawFn) -> list[tuple[Group, Encoded]]:
    """Groups over three prompts; answers may be unusable, cut or equal as tokens."""
    made = []
    for row in range(draw(st.integers(1, 8))):
        prompt = draw(st.integers(0, 2))
        count = draw(st.integers(2, 4))
        sequences = [draw(st.one_of(st.none(), ids)) for _ in range(count)]
        pair = st.lists(st.integers(0, count - 1), min_size=2, max_size=2, unique=True)
        comparisons = tuple(
            Comparison(*draw(pair), weight=float(100 * row + number + 1))
            for number in range(draw(st.integers(0, 4)))
        )
        group = Group(
            (Message("user", f"question {prompt}"),),
            tuple(Answer((Message("assistant", f"{row}.{k}"),)) for k in range(count)),
            comparisons,
        )
        body = [None if s is None else np.concatenate([array(10 + prompt), s]) for s in sequences]
        reasons = tuple("longer than max_length" if s is None else None for s in sequences)
        made.append((group, Encoded(tuple(body), reasons, tuple(draw(st.integers(0, 1)) for _ in body))))
    return made


@given(encoded_groups(), st.integers(2, 8))
def test_every_comparison_survives_once_with_its_own_sides_or_is_reported_once(
    groups: list[tuple[Group, Encoded]], most: int
) -> None:
    reported: list[tuple[Group, str]] = []
    trees = planted(groups, most, lambda group, reason: reported.append((group, reason)), Counter())
    found = Counter()
    for tree in trees:
        leaves = [tuple(s) for s in written_out(tree)]
        assert 2 <= len(leaves) <= most
        assert len(set(leaves)) == len(leaves)
        for first, second, weight in zip(tree.first, tree.second, tree.weight, strict=True):
            found[leaves[first], leaves[second], float(weight)] += 1
        assert set(tree.first) | set(tree.second) == set(range(len(leaves)))  # no leaf without use
    expected, unusable = Counter(), Counter()
    for group, encoded in groups:
        unusable["no comparison"] += not group.comparisons
        for c in group.comparisons:
            first, second = encoded.ids[c.first], encoded.ids[c.second]
            if first is None or second is None:
                unusable["longer than max_length"] += 1
            elif first.tolist() == second.tolist():
                cut = encoded.cut[c.first] or encoded.cut[c.second]
                unusable["identical after truncation" if cut else "identical sides"] += 1
            else:
                expected[tuple(first.tolist()), tuple(second.tolist()), c.weight] += 1
    assert found == expected
    assert Counter(reason for _, reason in reported) == unusable


@given(encoded_groups())
def test_equal_prompts_share_one_tree_where_the_cap_allows(groups: list[tuple[Group, Encoded]]) -> None:
    trees = planted(groups, 100, lambda group, reason: None, Counter())
    firsts = [written_out(tree)[0][0] for tree in trees]  # each prompt begins with a token of its own
    assert len(set(firsts)) == len(firsts)


@given(encoded_groups())
def test_truncated_answers_are_counted_once_and_only_where_a_comparison_uses_them(
    groups: list[tuple[Group, Encoded]],
) -> None:
    cut: Counter[str] = Counter()
    planted(groups, 8, lambda group, reason: None, cut)
    expected = sum(
        bool(tokens) and any(side in (c.first, c.second) for c in group.comparisons)
        for group, encoded in groups
        for side, tokens in enumerate(encoded.cut)
    )
    assert cut["answers truncated"] == expected


def test_the_answers_of_two_rows_with_one_prompt_meet_in_one_tree() -> None:
    prompt = (Message("user", "q"),)
    two = (Answer((Message("assistant", "a"),)), Answer((Message("assistant", "b"),)))
    one = Encoded((array(1, 2, 3), array(1, 2, 4)), (None, None), (0, 0))
    other = Encoded((array(1, 2, 4), array(1, 5)), (None, None), (0, 0))
    rows = [(Group(prompt, two, (Comparison(0, 1),)), one), (Group(prompt, two, (Comparison(0, 1),)), other)]
    (tree,) = planted(rows, 8, lambda group, reason: None, Counter())
    assert written_out(tree) == [[1, 2, 3], [1, 2, 4], [1, 5]]
    assert list(zip(tree.first, tree.second, strict=True)) == [(0, 1), (1, 2)]
    assert tree.prompt.tolist() == [1]


def test_a_full_tree_is_followed_by_another_with_the_comparison_whole() -> None:
    prompt = (Message("user", "q"),)
    answers = tuple(Answer((Message("assistant", str(k)),)) for k in range(4))
    sequences = tuple(array(1, k) for k in range(4))
    comparisons = tuple(Comparison(a, b) for a in range(4) for b in range(a + 1, 4))
    group = Group(prompt, answers, comparisons)
    trees = planted([(group, Encoded(sequences, (None,) * 4, (0,) * 4))], 3, lambda *_: None, Counter())
    assert sum(len(tree.first) for tree in trees) == 6
    assert all(len(tree.answers) <= 3 for tree in trees)


def test_one_answer_rated_twice_is_not_an_order() -> None:
    group = Group("q", (Answer("a", {"rating": 1.0}), Answer("a", {"rating": 2.0})))
    encoded = Encoded((array(1, 2), array(1, 2)), (None, None), (0, 0))
    reasons: list[str] = []
    lesson = Lesson("prompt", "ratings")
    assert not any(forest([(group, encoded)], 8, lambda _, why: reasons.append(why), Counter(), lesson))
    assert reasons == ["fewer than two answers with different ratings"]
