"""The acceptance cases on rollouts: the right finding, evidence and cause, and nothing else."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from holdtrue.doctor.causes import chain, rank
from holdtrue.doctor.detectors import Detector, Flag
from holdtrue.doctor.reading import Reading
from holdtrue.doctor.rollouts import Examination, examine
from holdtrue.doctor.sources import read_rollouts
from holdtrue.doctor.vocabulary import Vocabulary
from holdtrue.errors import DataError
from holdtrue.records import Message, Rollout, Source

WORDS = ["harbour", "garden", "winter", "letter", "orchard", "mirror", "station", "compass", "island", "lamp"]


def prose(seed: int, words: int = 60) -> str:
    """Text without any long repetition."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) + (", and" if i % 7 == 6 else "") for i in range(words)) + "."


def call(box: str) -> str:
    return f'<tool_call>{{"name": "zoom", "arguments": {{"box": [{box}]}}}}</tool_call>'


def causes(examination: Examination, static: Any = ()) -> list[str]:
    return [cause["cause"] for cause in rank(examination, static)]


def rates(examination: Examination) -> dict[str, int]:
    return {name: one["count"] for name, one in examination.rates.items()}


def vocabulary(size: int = 451, *ends: int) -> Vocabulary:
    control = {size - 2: "<|im_start|>", size - 1: "<|im_end|>"}
    decode = lambda ids: "".join(control.get(i, chr(97 + i % 26)) for i in ids)  # noqa: E731
    return Vocabulary(size, control, frozenset(ends or {size - 1}), decode)


def test_case_5_phantom_ids_of_rollouts_fail():
    rows = [Rollout("?", "", completion_ids=ids) for ids in ([1, 2, 470, 3, 450], [1, 2, 450])]
    found = examine(rows, vocabulary())
    assert rates(found) == {"degenerate": 1, "phantom_token": 1}
    assert "470" in found.rows[0].flags[0].evidence
    assert causes(found) == ["phantom_ids_unmasked"]


def test_case_8_the_founding_case():
    junk = "<|im_start|>\n addCriterion\n" + "<|im_start|>\n" * 40
    sick = [
        Rollout(
            f"Look at picture {i}.",
            f"<think>{prose(i)}</think>{call('1690, 1073, 1720, 1095')}{junk}",
            reward=1.0,
            advantage=0.8,
        )
        for i in range(50)
    ]
    healthy = [
        Rollout(
            f"Look at picture {i}.",
            f"<think>{prose(100 + i)}</think>{call(str(i))}",
            reward=0.9,
            advantage=-0.8,
        )
        for i in range(50)
    ]
    found = examine(sick + healthy)
    assert {row.verdict for row in found.rows[50:]} == {"ok"}
    assert {row.verdict for row in found.rows[:50]} == {"fail"}
    flags = {flag.detector: flag for flag in found.rows[0].flags}
    assert set(flags) == {"ctrl_token_in_body", "reward_blind_suffix", "attractor_token", "tail_cycle"}
    end = found.rows[0].rollout.text.index("</tool_call>") + len("</tool_call>")
    assert flags["ctrl_token_in_body"].start == flags["reward_blind_suffix"].start == end
    assert flags["ctrl_token_in_body"].values["counts"] == {"<|im_start|>": 41}
    signals = {signal.id: signal for signal in found.signals}
    assert signals["REWARD_BLIND"].severity == "fail"
    assert signals["ADVANTAGE_ON_JUNK"].severity == "fail"
    assert causes(found)[0] == "blind_reward"
    assert "control_tokens_can_be_sampled" in causes(found)


def test_case_11_bangs_come_from_numerics_and_no_penalty_is_advised():
    nan = [float("nan")] * 400
    rows = [Rollout("?", "!" * 400, completion_ids=[0] * 400, logprobs=nan) for _ in range(4)]
    found = examine(rows, vocabulary())
    assert rates(found)["nan_logits"] == 4
    first = rank(found)[0]
    assert first["cause"] == "numerics"
    assert "bfloat16" in first["fix"] and "sdpa" in first["fix"]


def test_case_12_a_growing_gap_that_a_restart_resets_is_the_engine_not_the_policy():
    def rollout(step: int, gap: float) -> Rollout:
        return Rollout("?", prose(step), logprobs=[-1.0] * 20, trained_logprobs=[-1.0 - gap] * 20, step=step)

    # flat at .011 for 10 steps, then up to .036 within 30, and back after a restart at 40
    gaps = [0.011] * 10 + [0.011 + 0.025 * i / 29 for i in range(30)] + [0.011] * 5
    found = examine([rollout(step, gap) for step, gap in enumerate(gaps)])
    signal = next(signal for signal in found.signals if signal.id == "GAP_TREND")
    assert signal.severity == "fail"
    assert signal.values["drops"] == [40]
    assert "no collapse of the policy" in signal.why
    assert causes(found) == ["engine_differs_from_trainer"]
    flat = examine([rollout(step, 0.011) for step in range(45)])
    assert [signal.severity for signal in flat.signals if signal.id == "GAP_TREND"] == ["ok"]


def test_case_13_truncation_is_not_called_a_loop():
    rows = [
        Rollout(f"{i}?", prose(i, 40), finish="length", reward=0.0, meta={"reference": "x" * 640})
        for i in range(40)
    ]
    found = examine(rows)
    assert {row.verdict for row in found.rows} == {"ok"}
    signal = next(signal for signal in found.signals if signal.id == "TRUNCATION")
    assert (signal.severity, signal.values["rate"], signal.values["loops"]) == ("fail", 1.0, 0)
    assert "Raise the limit" in signal.fix and "640 characters" in signal.fix
    assert found.verdict == "fail"
    assert causes(found) == ["limit_too_short"]


def test_cut_answers_that_loop_are_the_loops_fault():
    rows = [Rollout(f"{i}?", prose(i) + " again and again" * 40, finish="length") for i in range(10)]
    found = examine(rows)
    assert "limit_too_short" not in causes(found)
    assert causes(found)[0] == "loops_taught_or_unpunished"


def test_case_14_several_end_tokens():
    control = {32_007: "<|end|>", 32_000: "<|endoftext|>"}
    known = Vocabulary(32_064, control, frozenset({32_007, 32_001, 32_000}), str)
    ids = [[5, i, 32_007 if i < 93 else 6] for i in range(100)]
    rows = [Rollout("?", "yes", completion_ids=one, finish="length") for one in ids]
    signal = next(signal for signal in examine(rows, known).signals if signal.id == "SEVERAL_ENDS")
    assert signal.severity == "fail"
    assert "93% of 100" in signal.evidence and "32007 <|end|>" in signal.evidence


def test_case_15_the_same_call_five_times():
    again = "\nERROR: ZOOM IN ARGUMENTS ARE INVALID\n"
    found = examine([Rollout("?", again.join([call("30, 22, 60, 44")] * 5))])
    flag = next(flag for flag in found.rows[0].flags if flag.detector == "tool_error_loop")
    assert flag.values["calls"] == 5
    assert "30, 22, 60, 44" in flag.evidence
    assert causes(found)[0] == "tool_says_too_little"


def test_case_16_healthy_traps():
    table = "| year | n |\n|---|---|\n" + "".join(f"| {1900 + i} | {i * i % 97} |\n" for i in range(60))
    items = json.dumps([{"id": i, "name": prose(i, 3), "tags": ["a", "b"]} for i in range(30)], indent=2)
    refrain = "\n\n".join(f"{prose(i, 20)}\nOh the river, the long river home." for i in range(8))
    thought = "\n".join(f"Wait, let me check again. {prose(i, 25)} So that does not hold." for i in range(12))
    chinese = "春天的湖边开满了黄色的花，人们从城里来游泳、划船，坐在老柳树下休息。" * 2
    rows = [Rollout("?", text) for text in (table, items, refrain, thought, chinese, prose(1, 800))]
    assert [row.verdict for row in examine(rows).rows] == ["ok"] * len(rows)


def test_case_17_a_drifting_loop():
    steps = "\n".join(f"Step {i}: check the value of the counter and add one to it." for i in range(1, 61))
    found = examine([Rollout("?", steps)])
    assert [flag.detector for flag in found.rows[0].flags] == ["near_loop"]


def test_case_18_the_end_inside_a_thought():
    texts = [f"<think>{prose(i)}" + ("" if i < 17 else "</think> 4") for i in range(100)]
    found = examine([Rollout("?", text, finish="stop") for text in texts])
    assert found.rates["eos_in_think"]["rate"] == pytest.approx(0.17)


def test_turns_that_stay_open():
    known = vocabulary()
    ids, mask = [1, 2, 3, 9, 9, 4, 450], [1, 1, 1, 0, 0, 1, 1]
    found = examine([Rollout("?", "", completion_ids=ids, loss_mask=mask)] * 3, known)
    signal = next(signal for signal in found.signals if signal.id == "TURN_ENDS")
    assert (signal.severity, signal.values["shares"]) == ("warn", {"0": 0.0, "1": 1.0})


def turns(*said: str) -> tuple[Message, ...]:
    """Turns of the policy, each but the last answered by a tool."""
    pairs = [(Message("assistant", one), Message("tool", "ok")) for one in said]
    return tuple(turn for pair in pairs for turn in pair)[:-1]


def void(rows: list[Rollout]) -> list[tuple[str, list[int]]]:
    return [(one.severity, one.values["rows"]) for one in examine(rows).signals if one.id == "VOID_TURNS"]


def test_a_turn_with_neither_a_call_nor_an_answer_is_void():
    agents = [Rollout(f"{i}?", turns(prose(i), call("1"), prose(i))[2:], finish="stop") for i in range(8)]
    assert void(agents) == [("ok", [])]
    assert void([*agents, Rollout("?", turns(prose(1), call("1"), "4"))]) == [("warn", [8])]
    assert void([*agents, Rollout("?", turns(call("1"), " "), finish="stop")]) == [("warn", [8])]
    coded = turns("```python\nprint(4)\n```", call("1"), "4")
    assert void([*agents, Rollout("?", coded, finish="stop")]) == [("ok", [])]


@pytest.mark.parametrize("finish", ["length", "loop", "control", "abort", None])
def test_the_last_turn_is_not_void_where_the_policy_may_not_have_ended_it(finish):
    agents = [Rollout(f"{i}?", turns(call("1"), prose(i)), finish="stop") for i in range(8)]
    assert void([*agents, Rollout("?", turns(call("1"), " "), finish=finish)]) == [("ok", [])]


def test_a_question_to_the_user_is_not_void():
    asks = (Message("assistant", "Which order?"), Message("user", "12."), *turns(call("1"), "Cancelled."))
    assert void([Rollout(f"{i}?", asks, finish="stop") for i in range(8)]) == [("ok", [])]


def test_where_answers_have_tags_the_last_turn_must_have_them():
    agents = [Rollout(f"{i}?", f"{call('1')} {prose(i)} <answer>{i}</answer>") for i in range(8)]
    said = (prose(9), r"So \boxed{4}.", call("1"))
    found = void([*agents, *(Rollout("?", one, finish="stop") for one in said)])
    assert found == [("warn", [8])]


def test_turns_of_agents_whose_calls_have_a_form_that_is_not_known_are_not_called_void():
    for called in ("<execute_bash>ls</execute_bash>", "```python\nprint(4)\n```"):
        rows = [Rollout(f"{i}?", turns(called, "<answer>4</answer>"), finish="stop") for i in range(9)]
        assert void(rows) == []


def test_rows_of_ids_alone_are_read_where_they_can_be_and_else_not_counted():
    agents = [Rollout(f"{i}?", turns(call("1"), prose(i)), finish="stop") for i in range(8)]
    rows = [*agents, *(Rollout("?", "", completion_ids=[1, 2, 450], finish="stop") for _ in range(6))]
    assert void(rows) == [("ok", [])]
    signal = next(one for one in examine(rows).signals if one.id == "VOID_TURNS")
    assert signal.evidence.startswith("0 of 8 rollouts")
    signal = next(one for one in examine(rows, vocabulary()).signals if one.id == "VOID_TURNS")
    assert signal.evidence.startswith("0 of 14 rollouts")


def test_the_limit_is_told_in_tokens_by_the_rows_that_have_ids():
    rows = [Rollout(f"{i}?", prose(i), completion_ids=[*range(40)], finish="length") for i in range(8)]
    rows.append(Rollout("?", prose(9, 800), finish="length"))
    signal = next(one for one in examine(rows).signals if one.id == "TRUNCATION")
    assert signal.values["limit"] == 40 and "at 40 tokens" in signal.evidence
    signal = next(one for one in examine(rows[8:]).signals if one.id == "TRUNCATION")
    assert signal.values["limit"] is None and f"at {len(rows[8].text):,} characters" in signal.evidence


def test_no_turn_of_plain_chat_is_void():
    rows = [Rollout(f"{i}?", prose(i)) for i in range(20)]
    assert void(rows) == void([*rows, *(Rollout("?", call("1")) for _ in range(6))]) == []
    assert void([Rollout("?", call("1"))] * 4) == []  # too few to tell


def test_answers_that_are_all_the_same_are_a_collapsed_group():
    rows = [Rollout(f"{i}?", prose(i)) for i in range(6) for _ in range(8)]
    signal = next(signal for signal in examine(rows).signals if signal.id == "GROUP_COLLAPSE")
    # of 8 equal answers with n different runs of four words 1 in 8 is distinct
    assert signal.severity == "warn"
    assert signal.values["distinct_4"] == pytest.approx(1 / 8, abs=0.01)
    rows = [Rollout(f"{i}?", prose(10 * i + j)) for i in range(6) for j in range(8)]
    assert [s.severity for s in examine(rows).signals if s.id == "GROUP_COLLAPSE"] == ["ok"]


def test_groups_whose_rewards_differ_have_not_collapsed():
    rows = [Rollout(f"{i}?", prose(i), reward=float(j % 2)) for i in range(6) for j in range(8)]
    assert [s.severity for s in examine(rows).signals if s.id == "GROUP_COLLAPSE"] == ["ok"]


@pytest.mark.parametrize("reward", [1.0, 0.0])
def test_a_reward_that_gives_everything_the_same_is_blind(reward):
    rows = [Rollout(f"{i}?", prose(i) + " no" * 100, reward=reward) for i in range(10)]
    rows += [Rollout(f"{i}?", prose(i), reward=reward) for i in range(10)]
    assert [s.severity for s in examine(rows).signals if s.id == "REWARD_BLIND"] == ["fail"]


def test_advantages_of_tokens_count_as_those_of_answers():
    def severities(advantage: Any) -> list[str]:
        rows = [Rollout(f"{i}?", "ok" + " na" * 100, advantage=advantage) for i in range(6)]
        return [s.severity for s in examine(rows).signals if s.id == "ADVANTAGE_ON_JUNK"]

    assert severities(0.5) == severities([0.5] * 40) == ["fail"]


def test_a_gap_that_is_large_from_the_start_fails():
    rows = [
        Rollout("?", prose(i), logprobs=[-1.0] * 9, trained_logprobs=[-3.0] * 9, step=i) for i in range(9)
    ]
    assert [s.severity for s in examine(rows).signals if s.id == "GAP_TREND"] == ["fail"]


def test_a_reward_that_sees_the_junk_is_not_called_blind():
    rows = [Rollout(f"{i}?", prose(i) + " no" * 100, reward=0.1 * (i % 2)) for i in range(10)]
    rows += [Rollout(f"{i}?", prose(i), reward=1 + 0.1 * (i % 2)) for i in range(10)]
    signal = next(signal for signal in examine(rows).signals if signal.id == "REWARD_BLIND")
    # within each prompt the difference is -1 exactly
    assert (signal.severity, signal.values["difference"]) == ("ok", pytest.approx(-1.0))


def blindness(junk: float, spread: float) -> Any:
    """The signal where one of four answers to a prompt is junk, and the others earn 0, 0 and ``spread``."""
    rows = [
        Rollout(f"{i}?", prose(4 * i + j), reward=float(spread * (j == 2)))
        for i in range(6)
        for j in range(3)
    ]
    rows += [Rollout(f"{i}?", prose(i) + " no" * 100, reward=junk + 0.001 * i) for i in range(6)]
    return next(signal for signal in examine(rows).signals if signal.id == "REWARD_BLIND")


def test_a_reward_that_always_gives_junk_the_least_sees_it_however_small_the_difference():
    # others get 1/3 on average, junk -0.0025: 0.336 less, less than half of the spread's 0.435 or so
    seen = blindness(-0.005, 1.0)
    assert seen.severity == "ok" and seen.why == ""
    assert "get 0.336 less reward than others to the same prompts (interval 0.334 to 0.338)" in seen.evidence
    assert "always the least" in seen.evidence
    # more than two of the others get: the interval still lies below 0, and junk is not the least
    assert blindness(0.2, 1.0).severity == "fail"
    paid = blindness(0.4, 1.0)
    assert paid.severity == "fail" and "get 0.069 more reward" in paid.evidence


def test_rates_are_told_by_policy_and_step_and_clusters_by_signature():
    rows = [Rollout("?", prose(i), policy="sft", step=1) for i in range(10)]
    rows += [Rollout("?", prose(i) + " na" * 90, policy="ppo", step=2) for i in range(5)]
    rows += [Rollout("?", prose(i), policy="ppo", step=2) for i in range(5)]
    found = examine(rows)
    whole = found.rates["degenerate"]
    assert (whole["count"], whole["rows"], whole["rate"]) == (5, 20, 0.25)
    # Wilson interval of 5 in 20, by hand: centre (0.25 + 1.9207/20) / 1.1921, half width 0.1777
    assert whole["interval"] == pytest.approx([0.1119, 0.4687], abs=1e-4)
    assert {name: one["count"] for name, one in whole["by_policy"].items()} == {"ppo": 5, "sft": 0}
    assert {name: one["count"] for name, one in whole["by_step"].items()} == {"1": 0, "2": 5}
    cluster = found.clusters[0]
    assert (cluster["signature"], cluster["rows"], cluster["first_step"]) == ("short loop", 5, 2)
    assert [example["index"] for example in cluster["examples"]] == [10, 11, 12, 13, 14]


def test_a_chain_says_where_a_fault_is_new():
    rows = []
    for i in range(60):
        sick = " na" * 90 if i % 4 == 0 else ""
        policies = {"reference": "", "previous": "", "current": sick}
        rows += [Rollout(f"{i}?", prose(i) + more, policy=policy) for policy, more in policies.items()]
    first, second = chain(examine(rows), ["reference", "previous", "current"])
    assert (first["difference"], first["reading"]) == (0.0, "no clear change")
    assert second["reading"] == "new with current"
    assert second["difference"] == pytest.approx(0.25)
    # sd of 15 ones in 60 is 0.4330, so the half width is 1.96 x 0.4330 / sqrt(60) = 0.1096
    assert second["interval"] == pytest.approx([0.1404, 0.3596], abs=1e-4)
    with pytest.raises(DataError, match="no rollouts of policy 'other'"):
        chain(examine(rows), ["other", "current"])


def test_static_findings_join_the_evidence_and_raise_a_cause():
    rows = [Rollout("?", prose(i) + "\n\n### Human: And then?") for i in range(5)]
    static = [{"id": "T02", "severity": "fail", "evidence": "0/200 examples train EOS"}]
    found = rank(examine(rows), static)
    assert found[0]["cause"] == "turn_end_not_learned"
    assert found[0]["kinds"] == ["rows", "static"]
    assert "T02: 0/200 examples train EOS" in found[0]["evidence"]


def test_data_that_hold_the_very_token_of_the_rollouts_are_the_first_cause():
    rows = [Rollout("?", prose(i) + "<|im_start|>\n" * 30) for i in range(5)]
    static = [
        {"id": "X01", "severity": "fail", "evidence": "<|im_start|> (151644) follows itself 30 times of 995"},
        {"id": "X01", "severity": "fail", "evidence": "<|im_start|> (151644) stands in texts: in 40 targets"},
        {
            "id": "X01",
            "severity": "fail",
            "evidence": "<|endoftext|> (151643) stands in texts: in 20 targets",
        },
        {"id": "X01", "severity": "ok", "evidence": "3 control tokens in 300 examples"},
        {"id": "R01", "severity": "fail", "evidence": "half of the answers lose nothing"},
        {"id": "C07", "severity": "warn", "evidence": "0 of 300 hold one", "values": {"examples": []}},
    ]
    first, second = rank(examine(rows), static)[:2]
    assert (first["cause"], first["kinds"]) == ("data_teach_it", ["rows", "static", "token"])
    assert [line for line in first["evidence"] if line.startswith("X01")] == [
        "X01: <|im_start|> (151644) follows itself 30 times of 995",
        "X01: <|im_start|> (151644) stands in texts: in 40 targets",
    ]
    assert (second["cause"], second["kinds"]) == ("blind_reward", ["rows", "static"])
    assert not any("C07" in line for cause in rank(examine(rows), static) for line in cause["evidence"])


def test_data_with_another_token_than_the_rollouts_count_less():
    rows = [Rollout("?", prose(i) + "<|im_start|>\n" * 30) for i in range(5)]
    static = [{"id": "X01", "severity": "fail", "evidence": "<|endoftext|> (151643) stands in 20 targets"}]
    found = next(one for one in rank(examine(rows), static) if one["cause"] == "data_teach_it")
    assert found["kinds"] == ["rows", "static"]
    injected = [{"id": "C07", "severity": "warn", "evidence": "7 hold one", "values": {"examples": ["a:1"]}}]
    assert any("C07: 7 hold one" in one["evidence"] for one in rank(examine(rows), injected))


def test_an_example_is_named_by_its_file_and_line():
    row = Rollout("?", prose(0) + " na" * 90, source=Source("runs/completions_00010.parquet", 3))
    assert "as completions_00010.parquet:3: " in rank(examine([row]))[0]["evidence"][0]
    assert "as row 0: " in rank(examine([Rollout("?", prose(0) + " na" * 90)]))[0]["evidence"][0]


def test_what_could_not_be_looked_at_is_counted():
    found = examine([Rollout("?", prose(1)), Rollout("?", "", completion_ids=[1])])
    assert found.skipped == {"phantom_token": {"lacks": "vocabulary", "rows": 2}} or found.skipped == {
        "phantom_token": {"lacks": "completion_ids, vocabulary, vocabulary", "rows": 2}
    }


def test_real_answers_with_labels(shared: Any) -> None:
    dump = read_rollouts([str(shared("data/rollout_doctor/dev.jsonl.gz"))])
    found = examine(dump.rollouts, indices=dump.indices)
    counts: Counter[tuple[str, bool]] = Counter()
    near = onsets = 0
    for row in found.rows:
        meta = row.rollout.meta
        group = {"hard": "hard negative", "norm": "normal"}.get(meta["kind"][:4], "degenerate")
        group = "ambiguous" if meta["ambiguous"] else group
        counts[group, row.verdict == "fail"] += 1
        starts = [flag.start for flag in row.flags if flag.severity == "fail" and flag.start is not None]
        if meta["label"] == "degenerate" and meta["onset_char"] is not None and starts:
            onsets += 1
            near += abs(min(starts) - meta["onset_char"]) <= 64
    share = {name: counts[name, True] / (counts[name, True] + counts[name, False]) for name, _ in counts}
    assert share["degenerate"] >= 0.97
    assert share["normal"] <= 0.01
    assert share["hard negative"] <= 0.03
    assert near / onsets >= 0.9


def test_the_policy_that_leaks_headers_is_found_and_named(shared: Any) -> None:
    folder = shared("data/alpaca_eval_policies")
    names = ["Meta-Llama-3-8B-Instruct", "Llama-3-Instruct-8B-SimPO", "GPO-Llama-3-8B-Instruct-GPM-2B"]
    dump = read_rollouts([str(folder / f"{name}.jsonl.gz") for name in names])
    found = examine(dump.rollouts, indices=dump.indices)
    leaks = {name: one["count"] for name, one in found.rates["ctrl_token_in_body"]["by_policy"].items()}
    assert leaks[names[0]] == leaks[names[1]] == 0 < leaks[names[2]]
    assert "<|start_header_id|>" in found.clusters[0]["signature"]
    assert chain(found, names)[-1]["reading"] == f"new with {names[2]}"


class Unpaid(Detector):
    """An answer that earned nothing; needs its reward and advantage."""

    why: ClassVar = "It is told."
    fix: ClassVar = "Pay."
    needs: ClassVar = frozenset({"reward", "advantage"})

    def check(self, reading: Reading) -> Iterator[Flag]:
        """Every answer that it is asked about."""
        yield self.flag("warn", f"reward {reading.rollout.reward}")


def test_a_reward_of_zero_is_a_reward():
    rows = [Rollout("?", "a", reward=0.0, advantage=0), Rollout("?", "a", reward=0.5, advantage=[])]
    found = examine([*rows, Rollout("?", "a", advantage=1.0)], detectors=[Unpaid()])
    assert [len(row.flags) for row in found.rows] == [1, 0, 0]
    assert found.skipped[Unpaid.name()]["rows"] == 2
