"""The result object of evaluate."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from holdtrue.evaluation import evaluate
from holdtrue.records import Answer, Comparison, Group, Message, Source
from holdtrue.settings import EvaluationSettings

SETTINGS = EvaluationSettings()


def make_group(
    n: int, *labels: float, texts: tuple[str, ...] = ("long answer", "short"), **meta: Any
) -> Group:
    """Prompt n with two answers, compared once for each label."""
    prompt = (Message("user", f"question {n}"),)
    comparisons = tuple(Comparison(0, 1, label) for label in labels or (1.0,))
    return Group(prompt, tuple(map(Answer, texts)), comparisons, meta, Source("f.jsonl", n))


def measure(groups: list[Group], rewards: list[list[float]], **unscored: int) -> dict[str, Any]:
    return evaluate(groups, [np.array(row, dtype=np.float32) for row in rewards], SETTINGS, "data", unscored)


def test_right_wrong_and_tied_rewards_give_sample_exact_accuracy() -> None:
    groups = [make_group(n) for n in range(4)]
    result = measure(groups, [[2, 1], [1, 2], [1, 1], [3, 0]])
    assert (result["count"], result["ties"], result["accuracy"]) == (4, 1, 2.5 / 4)
    assert result["interval_method"] == "wilson"
    assert result["longer_answer_accuracy"] == 1.0


def test_the_side_with_label_above_a_half_is_the_preferred_one() -> None:
    groups = [make_group(1, 0.9), make_group(2, 0.1), make_group(3, 0.0)]
    result = measure(groups, [[1, 0], [1, 0], [0, 1]])
    assert result["accuracy"] == pytest.approx(2 / 3)
    assert result["longer_answer_accuracy"] == pytest.approx(1 / 3)


def test_ties_of_the_raters_count_in_calibration_but_not_in_accuracy() -> None:
    result = measure([make_group(1), make_group(2, 0.5)], [[1, 0], [0, 0]])
    assert (result["count"], result["label_ties"], result["accuracy"]) == (1, 1, 1.0)
    # Mean of -log σ(1) and of -log σ(0) = log 2.
    assert result["loss"] == pytest.approx((math.log1p(math.exp(-1)) + math.log(2)) / 2)


def test_equal_lengths_count_half_for_the_longer_answer() -> None:
    assert measure([make_group(1, texts=("ab", "cd"))], [[1, 0]])["longer_answer_accuracy"] == 0.5


def test_answers_without_a_finite_reward_are_counted_with_their_reasons() -> None:
    groups = [make_group(n) for n in range(4)]
    result = measure(groups, [[1, 0], [math.nan, 0], [0, math.inf], [0, 1]], too_long=1)
    assert result["unscored"] == {"too_long": 1, "no finite reward": 1}
    assert (result["unscored_comparisons"], result["count"]) == (2, 2)
    assert result["reward"]["max"] == 1.0


def test_groups_of_one_prompt_are_resampled_together() -> None:
    groups = [make_group(n // 2) for n in range(40)]
    result = measure(groups, [[n // 2 % 2, 0.5] for n in range(40)])
    assert (result["prompts"], result["count"]) == (20, 40)
    assert result["interval_method"] == "bootstrap by prompt"
    assert result["interval"] == pytest.approx([0.3, 0.7])


def test_the_twenty_worst_mistakes_come_with_their_texts_worst_first() -> None:
    groups = [make_group(n) for n in range(30)]
    result = measure(groups, [[0, n - 3] for n in range(30)])
    mistakes = result["mistakes"]
    assert [row["gap"] for row in mistakes] == [-(26.0 - n) for n in range(20)]
    assert mistakes[0] == {
        "group": 29,
        "answers": [0, 1],
        "prompt": "question 29",
        "chosen": "long answer",
        "rejected": "short",
        "reward_chosen": 0.0,
        "reward_rejected": 26.0,
        "gap": -26.0,
        "file": "f.jsonl",
        "line": 29,
    }


def test_right_and_tied_comparisons_are_never_listed_as_mistakes() -> None:
    assert measure([make_group(1), make_group(2)], [[1, 0], [1, 1]])["mistakes"] == []


def test_a_long_text_is_cut_and_says_how_much_is_missing() -> None:
    result = measure([make_group(1, texts=("x" * 12_000, "y"))], [[0, 1]])
    assert result["mistakes"][0]["chosen"].endswith("x [… 8000 more characters]")


def test_no_margin_bar_mixes_right_and_wrong() -> None:
    result = measure([make_group(n) for n in range(5)], [[-0.1, 0], [0, 1], [0, 0], [0.1, 0], [7, 0]])
    edges, counts = result["margins"]["edges"], result["margins"]["counts"]
    below = sum(n for high, n in zip(edges[1:], counts, strict=True) if high <= 0)
    assert 0.0 in edges
    assert (below, sum(counts)) == (2, 5)


def test_the_histogram_has_one_entry_for_each_side_of_each_comparison() -> None:
    result = measure([make_group(n) for n in range(5)], [[n, 1 - n] for n in range(5)])
    assert sum(result["histogram"]["chosen"]) == sum(result["histogram"]["rejected"]) == 5


def test_at_most_two_thousand_points_are_kept() -> None:
    result = measure([make_group(n) for n in range(1500)], [[n, 0] for n in range(1500)])
    assert len(result["points"]) == 2000
    assert result["points"][0] == [len("long answer"), 0.0, True]


def test_an_answer_in_many_comparisons_is_one_point() -> None:
    group = Group(
        "p",
        (Answer("a"), Answer("bb"), Answer("ccc")),
        (Comparison(0, 1), Comparison(0, 2), Comparison(1, 2)),
    )
    result = measure([group], [[3, 2, 1]])
    assert result["points"] == [[1, 3.0, True], [2, 2.0, False], [3, 1.0, False], [2, 2.0, True]]
    assert result["count"] == 3


def test_one_comparison_is_measured() -> None:
    result = measure([make_group(1)], [[1, 0]])
    assert (result["accuracy"], result["count"], len(result["reliability"])) == (1.0, 1, 1)
    assert result["advantage_interval"] is None
    assert result["temperature_bounded"]


def test_answers_without_comparisons_have_a_mean_reward_and_no_accuracy() -> None:
    result = measure([Group("p", (Answer("a"), Answer("b")))], [[1, 2]])
    assert (result["accuracy"], result["temperature"], result["count"]) == (None, None, 0)
    assert (result["answers"], result["reward"]["mean"]) == (2, 1.5)


def test_nothing_scored_gives_nulls_and_the_reasons() -> None:
    result = measure([make_group(1)], [[math.nan, math.nan]], too_long=2)
    assert result["accuracy"] is result["interval"] is result["ece"] is result["temperature"] is None
    assert (result["count"], result["unscored"]) == (0, {"too_long": 2})
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_only_ties_of_the_raters_leave_accuracy_undefined_and_calibration_defined() -> None:
    result = measure([make_group(1, 0.5)], [[1, 0]])
    assert result["accuracy"] is None
    assert result["ece"] == pytest.approx(1 / (1 + math.exp(-1)) - 0.5)


def test_rewards_that_do_not_fit_the_groups_are_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="one reward per answer"):
        measure([make_group(1)], [[1]])


def test_a_model_that_follows_length_exactly_has_no_advantage() -> None:
    groups = [make_group(n, texts=("x" * (n % 7 + 1), "x" * 4)) for n in range(30)]
    result = measure(groups, [[n % 7 + 1, 4] for n in range(30)])
    assert result["advantage_interval"] == [0.0, 0.0]
    assert result["length_correlation"]["pearson"] == pytest.approx(1)


REWARDS = hnp.arrays(np.float32, (12, 2), elements=st.floats(width=32, allow_nan=True, allow_infinity=True))


@settings(max_examples=60, deadline=None)
@given(REWARDS, st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]), min_size=12, max_size=12))
def test_any_rewards_give_a_finite_json_object(rewards: np.ndarray, labels: list[float]) -> None:
    groups = [make_group(n // 2, labels[n], kind=n % 3) for n in range(12)]
    result = evaluate(groups, list(rewards), SETTINGS, "data", {})
    assert json.loads(json.dumps(result, allow_nan=False)) == result


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(24)))
def test_the_order_of_the_rows_does_not_matter(order: list[int]) -> None:
    rng = np.random.default_rng(1)
    groups = [make_group(n // 2, float(n % 3 > 0), kind=n % 4) for n in range(24)]
    rewards = [rng.normal(size=2).astype(np.float32) for _ in groups]
    plain = evaluate(groups, rewards, SETTINGS, "data", {})
    turned = evaluate([groups[i] for i in order], [rewards[i] for i in order], SETTINGS, "data", {})
    exact = (
        "accuracy",
        "interval",
        "ties",
        "longer_answer_interval",
        "slices",
        "margins",
        "mistakes",
        "histogram",
    )
    for row in (*plain["mistakes"], *turned["mistakes"]):
        del row["group"]
    assert {key: plain[key] for key in exact} == {key: turned[key] for key in exact}
    for key in ("loss", "ece", "brier", "temperature"):
        assert plain[key] == pytest.approx(turned[key])


@settings(max_examples=30, deadline=None)
@given(REWARDS, st.integers(0, 2**12 - 1))
def test_naming_the_other_answer_first_changes_nothing(rewards: np.ndarray, turned: int) -> None:
    plain, other = [], []
    for n in range(12):
        group = make_group(n, n % 5 / 4)
        plain.append(group)
        label = 1 - n % 5 / 4
        first, second = (1, 0) if turned >> n & 1 else (0, 1)
        comparison = Comparison(first, second, label if turned >> n & 1 else 1 - label)
        other.append(Group(group.prompt, group.answers, (comparison,), group.meta, group.source))
    results = [evaluate(groups, list(rewards), SETTINGS, "data", {}) for groups in (plain, other)]
    correlations = [result.pop("length_correlation") for result in results]
    assert results[0] == results[1]
    assert correlations[0] == pytest.approx(correlations[1])
