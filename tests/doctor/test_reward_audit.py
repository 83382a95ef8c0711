"""The reward audit: rewards with one fault each, and what must be said of them."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from holdtrue.doctor.findings import Diagnosis, Finding
from holdtrue.doctor.heard import Effect
from holdtrue.doctor.reward_audit import audit
from holdtrue.doctor.reward_cases import built_in
from holdtrue.doctor.rewards import Case, from_function
from holdtrue.doctor.veto import veto
from holdtrue.errors import DataError

VISION = "<|vision_start|><|image_pad|>"
TAGS = ("</tool_call>", "</answer>")


def last_tool_call(completions: Sequence[str], solution: Sequence[str], **_: Any) -> list[float]:
    """Blind as in DeepEyes: takes the last <tool_call>, ignores what follows, pays for vision tokens."""
    rewards = []
    for text, right in zip(completions, solution, strict=True):
        calls = re.findall(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL)
        good = bool(calls) and right in calls[-1]
        rewards.append(0.8 * good + 1.2 * (good and VISION in text))
    return rewards


def exact(completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float]:
    """Healthy: the whole answer is one thought and the right number in tags, or nothing."""
    form = r"<think>[^<]+</think>\n<answer>{}</answer>"
    return [
        float(bool(re.fullmatch(form.format(re.escape(right)), text)))
        for text, right in zip(completions, answer, strict=True)
    ]


def linear(text: str) -> float:
    """A linear reward model: right words count, and so does every word."""
    words = text.split()
    return 0.5 * sum(word.strip(".,") in ("so", "while", "sorry", "please") for word in words) + 0.05 * len(
        words
    )


def words(text: str) -> float:
    return float(len(text.split()))


def found(diagnosis: Diagnosis, id: str) -> Finding:
    return next(one for one in diagnosis.findings if one.id == id)


def severity(function: Callable[..., Any], id: str, **options: Any) -> str:
    return found(audit(from_function(function), built_in(), **options), id).severity


def effect(finding: Finding, probe: str) -> dict[str, Any]:
    return next(one for one in finding.values["effects"] if one["probe"] == probe)


def test_a_reward_that_takes_the_last_tool_call_is_blind_and_keyed_on_vision_tokens() -> None:
    """Acceptance case 9. Two of the built-in answers are right calls, all that have something to lose."""
    diagnosis = audit(from_function(last_tool_call), built_in())
    assert diagnosis.verdict == "fail"
    blind, keyed = found(diagnosis, "R01"), found(diagnosis, "R02")
    assert (blind.severity, keyed.severity) == ("fail", "fail")
    seen = effect(blind, "<|im_start|> x 8")
    assert (seen["count"], seen["same"], seen["raised"]) == (2, 2, 0)
    assert "built-in 4a: 0.8 -> 0.8" in blind.evidence and "veto" in blind.fix
    paid = effect(keyed, "vision tokens before")
    assert (paid["count"], paid["raised"], paid["lost"]) == (20, 2, 0)
    assert paid["examples"][0] == ("built-in 4a", 0.8, 2.0)


def test_a_bonus_is_told_in_spreads_with_an_interval() -> None:
    def bonus(completions: Sequence[str], solution: Sequence[str], **_: Any) -> list[float]:
        right = [float(truth in text) for text, truth in zip(completions, solution, strict=True)]
        return [0.8 * r + 1.2 * r * (VISION in text) for r, text in zip(right, completions, strict=True)]

    finding = found(audit(from_function(bonus), built_in()), "R02")
    assert finding.severity == "fail"
    # Ten right answers of twenty: 0.8 -> 2.0 is 1.2 / 0.4 = 3 spreads for half of them, median 1.5.
    seen = effect(finding, "vision tokens after")
    assert (seen["raised"], seen["lost"], seen["median"]) == (10, 0, pytest.approx(1.5))
    assert seen["interval"] == (pytest.approx(0.299, abs=1e-3), pytest.approx(0.701, abs=1e-3))


def test_the_veto_cures_the_blind_reward() -> None:
    diagnosis = audit(from_function(veto(last_tool_call, tags=TAGS)), built_in())
    assert found(diagnosis, "R01").severity == found(diagnosis, "R02").severity == "ok"
    assert diagnosis.verdict != "fail"


def test_a_veto_without_tags_sees_no_plain_text_and_is_not_prescribed_again() -> None:
    bare = found(audit(from_function(last_tool_call), built_in()), "R01")
    assert "holdtrue.doctor.veto.veto" in bare.fix and "plain text (" in bare.fix
    wrapped = found(audit(from_function(veto(last_tool_call)), built_in()), "R01")
    assert wrapped.severity == "fail"
    assert "holdtrue.doctor.veto.veto" not in wrapped.fix
    assert "(addCriterion x 8, phrase x 40, another turn)" in wrapped.fix and "ngram_penalty" in wrapped.fix


def test_a_linear_reward_model_with_a_length_weight_loves_repeats_and_filler() -> None:
    """Acceptance case 19."""
    diagnosis = audit(from_function(linear), built_in())
    for id in ("R03", "R04"):
        finding = found(diagnosis, id)
        assert finding.severity == "fail"
        assert effect(finding, {"R03": "answer x 8", "R04": "396 filler words"}[id])["raised"] == 20
    assert "rank correlation with length" in found(diagnosis, "R04").evidence


def test_a_healthy_reward_has_no_fail() -> None:
    diagnosis = audit(from_function(exact), built_in())
    assert diagnosis.verdict == "warn"
    warned = [one.id for one in diagnosis.findings if one.severity != "ok"]
    assert warned == ["R05"]  # it takes a turn end left in the text for a mistake, and so it should be told
    assert {one.id for one in diagnosis.findings} == {f"R{n:02}" for n in range(1, 15) if n != 13}


def test_a_reward_that_only_wavers_is_not_said_to_pay_for_junk() -> None:
    def wavering(text: str) -> float:
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32

    many = [Case(f"prompt {i}", f"answer number {i}", f"row {i}") for i in range(64)]
    diagnosis = audit(from_function(wavering), many)
    assert {found(diagnosis, id).severity for id in ("R02", "R03", "R04", "R09")} == {"ok"}
    assert found(diagnosis, "R08").severity == "fail"  # half of the answers earn no more than nothing


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_numbers_that_are_none_fail(value: float | None) -> None:
    def sometimes(text: str) -> float | None:
        return value if "order" in text else float(len(text))

    finding = found(audit(from_function(sometimes), built_in()), "R06")
    assert finding.severity == "fail" and "1 of 20" in finding.evidence and "built-in 10a" in finding.evidence


def test_a_twin_without_a_reward_is_a_warning_and_left_out_of_the_effects() -> None:
    diagnosis = audit(from_function(lambda text: float(len(text)) if text else None), built_in())
    finding = found(diagnosis, "R06")
    assert finding.severity == "warn" and "empty (20 of 20)" in finding.evidence
    assert "empty" not in {one["probe"] for one in found(diagnosis, "R08").values["effects"]}


def test_a_constant_reward_fails_and_nothing_else_is_judged_by_it() -> None:
    diagnosis = audit(from_function(lambda text: 0.5), built_in())
    assert found(diagnosis, "R06").evidence.startswith("0.5 for all 20")
    assert [one.id for one in diagnosis.findings if one.severity == "fail"] == ["R06"]
    assert {one.id for one in diagnosis.skipped} >= {"R01", "R10"}


def test_an_answer_that_is_cut_and_earns_as_much_warns() -> None:
    said = ("Yes, it is hot, and it was so before.", "No, it is cold, and it was so before.")
    cases = [Case(f"prompt {i}", said[i % 2], f"row {i}") for i in range(20)]
    begun = from_function(lambda text: float(text.startswith("Yes")))
    ended = from_function(lambda text: float(text.startswith("Yes") and text.endswith("before.")))
    assert found(audit(begun, cases), "R07").severity == "warn"
    assert found(audit(ended, cases), "R07").severity == "ok"


def test_no_reward_at_all_fails() -> None:
    diagnosis = audit(from_function(lambda text: None), built_in())
    assert found(diagnosis, "R06").values["missing"] == 20 and diagnosis.verdict == "fail"


def test_an_order_dependent_reward_fails() -> None:
    def by_place(completions: Sequence[str], **_: Any) -> list[float]:
        return [len(text) + 10.0 * place for place, text in enumerate(completions)]

    finding = found(audit(from_function(by_place), built_in()), "R11")
    assert finding.severity == "fail" and finding.values["order"] > 0.1


def test_a_reward_made_relative_to_the_batch_fails() -> None:
    def centred(completions: Sequence[str], **_: Any) -> Any:
        lengths = np.array([len(text) for text in completions], dtype=float)
        return lengths - lengths.mean()

    finding = found(audit(from_function(centred), built_in()), "R11")
    assert finding.severity == "fail" and finding.values["alone"] > 0.1
    assert finding.values["order"] < 1e-6


def test_a_reward_that_changes_by_itself_fails() -> None:
    random = np.random.default_rng(0)
    diagnosis = audit(from_function(lambda text: random.normal()), built_in())
    assert found(diagnosis, "R12").severity == "fail"
    assert "R11" in {one.id for one in diagnosis.skipped}


def test_a_saturated_sigmoid_is_squashed_and_a_rule_is_not() -> None:
    assert severity(lambda text: 1 / (1 + np.exp(-0.5 * len(text))), "R13") == "warn"
    assert severity(lambda text: min(len(text), 30.0), "R13") == "warn"  # clipped
    assert severity(words, "R13") == "ok"
    skipped = audit(from_function(exact), built_in()).skipped
    assert [one.id for one in skipped] == ["R13"]


def test_what_a_batch_of_twins_breaks_is_found_one_by_one() -> None:
    def fragile(completions: Sequence[str], **_: Any) -> list[float]:
        return [float(len(text)) / len(text.split()) for text in completions]

    diagnosis = audit(from_function(fragile), built_in())
    finding = found(diagnosis, "R14")
    assert finding.severity == "fail"
    assert "empty: raises ZeroDivisionError" in finding.evidence and "(20 of 20)" in finding.evidence


def test_a_pattern_that_never_ends_is_stopped_and_after_two_hangs_no_more_is_tried() -> None:
    def backtracks(text: str) -> float:
        return len(text) + 5.0 * bool(re.search(r"^(\w+ ?)+<stop>$", "b" * 40 if "filler" in text else "b"))

    def slow(text: str) -> float:
        return backtracks(text.replace("says nothing", "filler"))

    started = time.monotonic()
    diagnosis = audit(from_function(slow), built_in(), limit=0.3)
    assert time.monotonic() - started < 10
    finding = found(diagnosis, "R14")
    assert "27 filler words: gives no answer within 0.3 s (20 of 20)" in finding.evidence
    assert any("hung 2 times" in one.why for one in diagnosis.skipped)


def test_a_reward_that_fails_for_honest_answers_is_an_error_of_one_line() -> None:
    def raises(text: str) -> float:
        raise KeyError("bbox")

    for function, said in {
        raises: r"raises KeyError: 'bbox'",
        (lambda text: "0.5"): r"gives str '0.5', not a number",
        (lambda text: time.sleep(60)): r"gives no answer within 0.2 s",
        (lambda completions: [1.0]): r"gives 1 rewards for 20 answers",
        (lambda completions: None): r"gives NoneType for 20 answers, not a list",
    }.items():
        with pytest.raises(DataError, match=said) as caught:
            audit(from_function(function), built_in(), limit=0.2)
        assert "\n" not in str(caught.value)


def test_a_reward_of_chat_messages_is_given_the_built_in_answers_as_messages() -> None:
    def chat(completions: Sequence[Any], **_: Any) -> list[float]:
        return [float(len(turns[0]["content"])) for turns in completions]

    assert audit(from_function(chat), built_in()).verdict == "fail"  # it is asked, and loves length


def test_one_honest_answer_is_too_few() -> None:
    with pytest.raises(DataError, match="two different"):
        audit(from_function(words), built_in()[:1])


def test_of_a_reward_that_can_waver_more_raised_than_lost_pays_only_beyond_chance() -> None:
    def seen(raised: int, lost: int) -> bool:
        return Effect("x", 20, raised, lost, 0, 0.0, (0.0, 1.0), ()).pays(0.95, exact=False)

    # Wilson: 4 of 4 is at least 0.51, 3 of 3 at least 0.44, 12 of 20 at least 0.39.
    assert seen(4, 0) and not seen(3, 0) and not seen(12, 8) and seen(16, 4)
    assert Effect("x", 20, 2, 1, 17, 0.0, (0.0, 1.0), ()).pays(0.95, exact=True)
