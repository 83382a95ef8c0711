"""Every row of real data sets is read by the layout it should be, or rejected and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from holdtrue.data.reader import Reader
from holdtrue.records import Group

SAME = "identical sides"
FILES = [  # file, layout, rows (as in README.md of the data), rejected, answers, comparisons
    ("autoj_pairs_ties/train", "auto_j", 807, {SAME: 4}, 1606, 803),
    ("fine_grained_qa/train.pairs", "fine_grained", 291, {}, 4 * 291, 6 * 291),
    ("fine_grained_qa/test.pairs", "fine_grained", 70, {}, 4 * 70, 6 * 70),
    ("fine_grained_qa/train.spans", "fine_grained", 291, {}, 291, 0),
    ("fine_grained_qa/test.spans", "fine_grained", 70, {}, 70, 0),
    ("hh_unpaired_bad/train", "unpaired", 2188, {}, 2188, 0),
    ("rmb_bon/harmless.train", "completions", 834, {}, 2700, 2700 - 834),  # one best, each other loses to it
    ("rmb_bon/harmless.test", "completions", 149, {}, 489, 489 - 149),
    ("rmb_bon/helpful.train", "completions", 980, {}, 3205, 3205 - 980),
    ("rmb_bon/helpful.test", "completions", 184, {}, 604, 604 - 184),
    ("rmb_pairs/harmless.train", "preference", 2773, {}, 2 * 2773, 2773),
    ("rmb_pairs/harmless.test", "preference", 526, {}, 2 * 526, 526),
    ("rmb_pairs/helpful.train", "preference", 3550, {SAME: 3}, 2 * 3547, 3547),
    ("rmb_pairs/helpful.test", "preference", 642, {}, 2 * 642, 642),
    ("rollout_doctor/dev", "completion", 770, {}, 770, 0),
    ("tldr_policies/train", "completions", 63, {}, 12 * 63, 0),
    ("truthfulqa_aspects/train", "aspects", 174, {}, 12 * 174, 0),
    ("truthfulqa_aspects/test", "aspects", 30, {}, 12 * 30, 0),
    ("vicuna_ratings/test", "completion", 320, {}, 320, 0),
]


def read(path: Path) -> tuple[list[Group], Reader]:
    reader = Reader([str(path)])
    return list(reader), reader


@pytest.mark.parametrize(
    ("name", "layout", "rows", "rejected", "answers", "comparisons"), FILES, ids=[row[0] for row in FILES]
)
def test_all_rows_of_a_file_are_accounted_for(
    shared: Callable[[str], Path],
    name: str,
    layout: str,
    rows: int,
    rejected: dict[str, int],
    answers: int,
    comparisons: int,
) -> None:
    groups, reader = read(shared(f"data/{name}.jsonl.gz"))
    assert (reader.report.rows, dict(reader.report.rejected)) == (rows, rejected)
    assert len(groups) == rows - sum(rejected.values())
    assert reader.report.files[0]["format"] == layout
    assert sum(len(group.answers) for group in groups) == answers
    assert sum(len(group.comparisons) for group in groups) == comparisons


def test_feedback_on_spans_and_pairs_is_complete(shared: Callable[[str], Path]) -> None:
    groups, _ = read(shared("data/fine_grained_qa/train.spans.jsonl.gz"))
    assert sum(len(group.answers[0].spans) for group in groups) == 800
    assert {tuple(group.answers[0].ratings) for group in groups} == {
        ("relevance", "factuality", "completeness")
    }
    groups, _ = read(shared("data/fine_grained_qa/train.pairs.jsonl.gz"))
    labels = Counter(comparison.label for group in groups for comparison in group.comparisons)
    assert labels == {1.0: 931, 0.0: 588, 0.5: 227}


def test_every_rated_or_compared_prompt_weighs_one(shared: Callable[[str], Path]) -> None:
    for name in ("rmb_bon/helpful.test", "toxicity_ratings/train", "fine_grained_qa/test.pairs"):
        groups, _ = read(shared(f"data/{name}.jsonl.gz"))
        for group in groups:
            assert sum(comparison.weight for comparison in group.comparisons) == pytest.approx(1.0)


def test_labels_ratings_and_ties_are_those_of_the_files(shared: Callable[[str], Path]) -> None:
    bad, _ = read(shared("data/hh_unpaired_bad/train.jsonl.gz"))
    assert {group.answers[0].label for group in bad} == {False}
    rated, _ = read(shared("data/vicuna_ratings/test.jsonl.gz"))
    assert all(1 <= group.answers[0].ratings["rating"] <= 5 for group in rated)
    judged, _ = read(shared("data/autoj_pairs_ties/train.jsonl.gz"))
    assert sum(group.comparisons[0].preferred is None for group in judged) == 214
