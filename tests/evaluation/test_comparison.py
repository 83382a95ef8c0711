"""Models on the same comparisons, against numbers derived by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.errors import DataError
from holdtrue.evaluation.comparison import compare, exact_p
from holdtrue.records import Answer, Comparison, Group

RIGHT, WRONG, TIE = [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]


def group(prompt: int, label: float = 1.0) -> Group:
    return Group(f"p{prompt}", (Answer("long"), Answer("s")), (Comparison(0, 1, label),))


def run(groups: list[Group], **rewards: list[list[float]]) -> dict:
    columns = {name: [np.array(row) for row in rows] for name, rows in rewards.items()}
    return compare(groups, columns, 0.95)


def test_the_exact_test_is_twice_the_smaller_tail_of_a_fair_coin() -> None:
    # 5 heads, 1 tail: 2 · (1 + 6) / 64. 2 and 2: the tail is more than one half.
    assert exact_p(5, 1) == exact_p(1, 5) == pytest.approx(14 / 64)
    assert exact_p(2, 2) == exact_p(0, 0) == 1.0
    assert exact_p(10, 0) == pytest.approx(2 / 1024)


def test_the_exact_test_holds_for_a_hundred_thousand_comparisons() -> None:
    # The normal tail with continuity correction: z = (50,500 - 50,000 - 0.5) / √25,000 = 3.159.
    assert exact_p(50_500, 49_500) == pytest.approx(math.erfc(3.15912 / math.sqrt(2)), rel=1e-3)


def test_prompts_of_their_own_give_accuracies_difference_test_and_agreement() -> None:
    # a is right on all 12; b on 6, wrong on 5 and undecided on one.
    found = run([group(n) for n in range(12)], a=[RIGHT] * 12, b=[RIGHT] * 6 + [WRONG] * 5 + [TIE])
    assert (found["count"], found["prompts"], found["unscored_comparisons"]) == (12, 12, 0)
    assert found["models"]["a"]["accuracy"] == found["baselines"]["longer_answer"]["accuracy"] == 1.0
    assert found["baselines"]["shorter_answer"]["accuracy"] == 0.0
    assert (found["models"]["b"]["accuracy"], found["models"]["b"]["ties"]) == (6.5 / 12, 1)
    (pair,) = found["pairs"]
    assert (pair["first"], pair["second"]) == ("a", "b")
    assert pair["difference"] == pytest.approx(5.5 / 12)
    assert (pair["first_better"], pair["second_better"], pair["agreement"]) == (6, 0, 0.5)
    assert pair["p"] == pytest.approx(2 / 64)
    low, high = pair["interval"]
    assert 0 < low < 5.5 / 12 < high


def test_repeated_prompts_have_no_exact_test_and_are_resampled_as_wholes() -> None:
    # 20 prompts, two comparisons each; a is right on both of 10 prompts where b is wrong on both.
    groups = [group(n // 2) for n in range(40)]
    (pair,) = run(groups, a=[RIGHT] * 40, b=[WRONG] * 20 + [RIGHT] * 20)["pairs"]
    assert pair["p"] is None
    assert pair["interval"] == pytest.approx([0.3, 0.7])
    assert pair["agreement_interval"] == pytest.approx([0.3, 0.7])


def test_only_what_every_model_could_score_is_compared_and_the_rest_is_counted() -> None:
    rewards = {"a": [RIGHT, [math.nan, 0.0], RIGHT, RIGHT], "b": [RIGHT, RIGHT, [0.0, math.inf], WRONG]}
    found = run([group(0), group(1), group(2), group(3)], **rewards)
    assert (found["count"], found["unscored_comparisons"]) == (2, 2)
    assert [found["models"][name]["unscored"] for name in "ab"] == [1, 1]
    assert found["models"]["a"]["accuracy"] == 1.0 and found["models"]["b"]["accuracy"] == 0.5


def test_comparisons_that_raters_tied_are_counted_apart() -> None:
    found = run([group(0), group(1, 0.5)], a=[RIGHT] * 2, b=[RIGHT] * 2)
    assert (found["count"], found["label_ties"]) == (1, 1)


def test_nothing_in_common_is_an_error_with_counts() -> None:
    with pytest.raises(DataError, match=r"2 in the data, 1 without rewards"):
        run([group(0), group(1, 0.5)], a=[[math.nan, 1.0], RIGHT], b=[RIGHT, RIGHT])


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(24)), st.booleans())
def test_order_of_rows_and_names_of_models_do_not_matter(order: list[int], own: bool) -> None:
    rng = np.random.default_rng(0)
    groups = [group(n if own else n // 2) for n in range(24)]
    rows = {name: rng.normal(size=(24, 2)).round(1).tolist() for name in ("a", "b", "c")}
    plain = run(groups, **rows)
    turned = run(
        [groups[n] for n in order], **{f"z{name}": [rows[name][n] for n in order] for name in ("c", "b", "a")}
    )
    for name in rows:
        for key in ("accuracy", "interval"):
            assert plain["models"][name][key] == pytest.approx(turned["models"][f"z{name}"][key])
    pairs = {(pair["first"], pair["second"]): pair for pair in turned["pairs"]}
    for pair in plain["pairs"]:
        other = pairs[f"z{pair['second']}", f"z{pair['first']}"]
        assert other["difference"] == pytest.approx(-pair["difference"])
        assert (other["first_better"], other["p"]) == (pair["second_better"], pair["p"])
        assert other["agreement"] == pair["agreement"]
        assert other["interval"] == pytest.approx([-bound for bound in pair["interval"][::-1]], abs=0.1)
