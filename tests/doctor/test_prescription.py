"""Which remedies are prescribed, in which order, and which are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdtrue.cli.list import kind_rows
from holdtrue.doctor.causes import CAUSES, rank
from holdtrue.doctor.prescription import context_of, every_remedy, prescribe
from holdtrue.doctor.remedies import FAMILY, GRADES, OWN, Context, Remedy
from holdtrue.doctor.remedies.kl import Kl
from holdtrue.doctor.remedies.longer_limit import LongerLimit
from holdtrue.doctor.remedies.overlong import Overlong
from holdtrue.doctor.rollouts import examine
from holdtrue.doctor.vocabulary import Vocabulary
from holdtrue.policy.settings import build
from holdtrue.records import Rollout
from holdtrue.settings import put

PAGE = Path(__file__).parents[2] / "docs" / "remedies.md"
KNOWN = {cause.id for cause in CAUSES}
VOCABULARY = Vocabulary(10, {8: "<|im_start|>", 9: "<|im_end|>"}, frozenset({9}), lambda ids: "")


@pytest.mark.parametrize("cause", sorted(KNOWN))
def test_every_cause_has_a_remedy_that_may_be_used_in_rl(cause: str):
    found = prescribe([cause], Context(stage="rl", vocabulary=VOCABULARY))
    assert found and found[0].refused is None


@pytest.mark.parametrize("remedy", every_remedy(), ids=lambda one: one.name())
def test_every_remedy_says_what_it_mends_and_on_what_evidence(remedy: Remedy):
    assert remedy.mends and remedy.mends <= KNOWN
    assert remedy.grade in GRADES and remedy.evidence and remedy.source
    assert "\n" not in remedy.evidence


def test_remedies_come_by_grade_then_by_the_rank_of_their_cause():
    found = prescribe(["limit_too_short", "blind_reward"], Context())
    names = [one.remedy.name() for one in found if not one.refused]
    assert names[:2] == ["longer_limit", "veto"]  # both A; the limit is the first cause
    grades = [one.remedy.grade for one in found if not one.refused]
    assert grades == sorted(grades)


def test_the_refused_are_shown_last_with_their_reason():
    found = prescribe(["loops_taught_or_unpunished"], Context(stage="rl", reference=0.05))
    refused = {one.remedy.name(): one.refused for one in found if one.refused}
    assert set(refused) == {"kl", "distil_reference", "serving_penalty", "dropout", "unlikelihood"}
    assert all(one.refused for one in found[-len(refused) :])
    assert found[-1].as_json()["refused"] == found[-1].refused


def test_in_serving_only_decoding_is_left():
    found = prescribe(sorted(KNOWN), Context(stage="serving", vocabulary=VOCABULARY))
    used = {one.remedy.name() for one in found if not one.refused}
    assert used == {"all_ends", "ban_control", "early_abort", "serving_penalty"}


def test_a_remedy_for_two_causes_is_prescribed_once():
    found = prescribe(["blind_reward", "control_tokens_can_be_sampled"], Context())
    (veto,) = [one for one in found if one.remedy.name() == "veto"]
    assert veto.causes == ("blind_reward", "control_tokens_can_be_sampled")


def test_the_context_is_read_from_the_rollouts():
    good = "The lake lies between two hills, and in spring the meadows around it are yellow."
    loop = "again and again " * 60
    rollouts = [
        Rollout(f"q{i}", text, finish=finish, policy=policy)
        for i, (text, finish, policy) in enumerate(
            [
                (good, "stop", "reference"),
                (loop, "length", "reference"),
                (loop, "length", "current"),
                (good, "stop", "current"),
                (loop, "length", "current"),
                (good, "length", "current"),
            ]
        )
    ]
    examination = examine(rollouts)
    context = context_of(
        examination, reference="reference", static=[{"id": "D02", "severity": "warn"}, {"id": "T01"}]
    )
    assert context.reference == 0.5
    assert context.truncated == pytest.approx(4 / 6) and context.looping == pytest.approx(3 / 4)
    assert {"D02", "tail_cycle", "TRUNCATION"} <= context.findings and "T01" not in context.findings
    refused = {one.remedy.name() for one in prescribe(rank(examination), context) if one.refused}
    assert "kl" in refused and "serving_penalty" in refused


@pytest.mark.parametrize(("junk", "used"), [(" and so on" * 40, False), ("<|im_start|>\n" * 40, True)])
def test_the_veto_is_for_control_tokens_and_ngram_penalty_for_loops(junk: str, used: bool):
    good = "The lake lies between two hills, and in spring the meadows around it are yellow."
    rollouts = [Rollout(f"q{i}", good + junk * (i % 2), reward=1.0) for i in range(20)]
    examination = examine(rollouts)
    causes = rank(examination)
    assert causes[0]["cause"] == "blind_reward"
    refused = {one.remedy.name(): one.refused for one in prescribe(causes, context_of(examination))}
    assert (refused["veto"] is None) == used
    assert refused["ngram_penalty"] is None and refused["early_abort"] is None


def test_the_page_of_remedies_says_what_the_classes_say():
    text = PAGE.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    expected = [
        f"| [{row['kind']}](reference/remedies.md#{row['kind']}) | {row['where']} | {row['grade']} | "
        f"{row['refused'] or 'never'} |"
        for row in sorted(kind_rows(FAMILY), key=lambda row: (row["grade"], row["where"], row["kind"]))
    ]
    assert rows == expected


@pytest.mark.parametrize("remedy", every_remedy(), ids=lambda one: one.name())
def test_holdtrues_own_runs_take_the_settings_they_are_told(remedy: Remedy):
    how = remedy.how(VOCABULARY, OWN)
    assert how and set(how) <= {OWN, "command", "python"}
    values: dict[str, Any] = {"policy": {"path": "model"}, "rewards": [{"function": "a.py:f"}]}
    for name, value in how.get(OWN, {}).items():
        put(values, name, value)
    build(values)  # refuses what it does not know


def test_a_remedy_is_fitted_to_what_is_known_unless_it_was_set():
    place = Context(limit=64, kl=0.05)
    assert LongerLimit().fitted(place) == LongerLimit(limit=128)
    assert LongerLimit(limit=70).fitted(place) == LongerLimit(limit=70)
    assert Overlong().fitted(place) == Overlong(limit=64, cache=12)  # a fifth
    assert Overlong(limit=80, cache=8).fitted(place) == Overlong(limit=80, cache=8)
    assert Kl().fitted(place) == Kl(beta=0.1)
    assert Kl(beta=0.3).fitted(place) == Kl(beta=0.3)
    assert [one().fitted(Context()) for one in (LongerLimit, Overlong, Kl)] == [
        LongerLimit(),
        Overlong(),
        Kl(),
    ]
