"""Before the first step a run says what cannot come to anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optimising
from holdtrue.health.stream import LoopDetector, RepetitionDetection
from holdtrue.policy.decoding import Decoding
from holdtrue.policy.prospects import blind_guard, endless
from holdtrue.policy.samples import Samples
from holdtrue.policy.settings import GuardSettings
from holdtrue.rundir import RunDir, read_jsonl


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return optimising.write(tmp_path_factory.mktemp("prospects"), prompts=4)


def drawn(*finish: Any, group: int = 2) -> Samples:
    """Groups of answers of one token."""
    one = [np.zeros(1, np.int64)] * len(finish)
    return Samples(one[::group], group, one, [np.zeros(1, np.float32)] * len(finish), list(finish))


def test_answers_shorter_than_a_loop_are_said_to_blind_the_guard_which_then_ends_none() -> None:
    short, enough = Decoding(max_new_tokens=95), Decoding(max_new_tokens=96)
    said = blind_guard(short)
    assert said and "decoding.max_new_tokens=95; set decoding.loop.min_cover=71, or" in said
    assert not LoopDetector.over([[7] * 95]).looping.any() and LoopDetector.over([[7] * 96]).looping.all()
    assert blind_guard(enough) is None and blind_guard(Decoding(max_new_tokens=4, loop=None)) is None
    mended = Decoding(max_new_tokens=95, loop=RepetitionDetection(min_cover=71))
    assert blind_guard(mended) is None and LoopDetector.over([[7] * 95], mended.loop).looping.all()


def test_copies_that_no_answer_has_room_for_blind_the_guard_whatever_the_cover() -> None:
    wide = Decoding(max_new_tokens=255, loop=RepetitionDetection(min_pattern_size=64))
    said = blind_guard(wide)
    assert (
        said and "min_count=4 copies of min_pattern_size=64 tokens take 256, and answers have at most" in said
    )
    assert said.endswith("max_new_tokens=255; set decoding.loop=null to do without")
    assert not LoopDetector.over([[7] * 255], wide.loop).looping.any()
    assert LoopDetector.over([[7] * 256], wide.loop).looping.all()
    assert blind_guard(Decoding(max_new_tokens=256, loop=wide.loop)) is None
    tiny = blind_guard(Decoding(max_new_tokens=3))
    assert tiny and tiny.endswith("max_new_tokens=3; set decoding.loop=null to do without")


@pytest.mark.parametrize(
    ("on_hit", "groups", "alike"),
    [
        ("none", "length loop, control loop", 2),
        ("penalise", "length loop, length length", 1),  # a loop gets the penalty, which tells them apart
        (
            "exclude",
            "length loop, control loop",
            1,
        ),  # of the second group nothing is learnt, whatever it gets
        ("exclude", "length length, length stop", 1),
    ],
)
def test_answers_that_the_guard_rewards_itself_do_not_count_among_those_without_an_end(
    on_hit: Any, groups: str, alike: int
) -> None:
    guard = GuardSettings(no_end_reward=-1.5, on_hit=on_hit)
    alarm = endless(drawn(*groups.replace(",", "").split()), guard, Decoding(max_new_tokens=16))
    assert alarm and f"no answer ends in {alike} of 2 groups" in alarm.why
    penalised = GuardSettings(no_end_reward=-1.5, on_hit="penalise")
    assert endless(drawn("loop", "loop", "control", "loop"), penalised, Decoding(max_new_tokens=16)) is None


def test_answers_that_have_no_other_beside_them_are_not_said_to_be_alike() -> None:
    alone = drawn("length", "length", group=1)
    assert endless(alone, GuardSettings(no_end_reward=-1.0), Decoding(max_new_tokens=16)) is None


def test_groups_of_which_no_answer_ends_are_told_where_they_get_one_reward() -> None:
    guard, decoding = GuardSettings(no_end_reward=-1.5), Decoding(max_new_tokens=16)
    half = drawn("length", "loop", "length", "stop")
    alarm = endless(half, guard, decoding)
    assert alarm and (alarm.step, alarm.severity, alarm.value) == (0, "warn", 0.5)
    assert (
        "no answer ends in 1 of 2 groups" in alarm.why and "guard.no_end_reward -1.5 and nothing" in alarm.why
    )
    assert "raise decoding.max_new_tokens (16), teach the policy to end first (holdtrue sft)" in alarm.fix
    assert endless(drawn("length", "stop", "stop", "length"), guard, decoding) is None
    assert endless(half, GuardSettings(), decoding) is None


def test_a_run_tells_both_once_and_keeps_the_alarm(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # an answer of 2 tokens of 27 hardly ever ends
    told: list[dict[str, Any]] = []
    training = {"max_steps": 2, "prompts_per_step": 2}
    made = optimising.settings(
        folder, decoding={"max_new_tokens": 2}, guard={"no_end_reward": -1.0}, training=training
    )
    run = RunDir.create(tmp_path / "run", {})
    state = optimising.trainer(made, run, tell=told.append).train()
    (alarm,) = [row for row in told if row["event"] == "alarm" and row["step"] == 0]
    assert alarm["text"].startswith("step 0 WARN TRUNCATION: truncated is ") and state.alarms >= 1
    assert next(read_jsonl(run.path / "findings.jsonl"))["why"] == alarm["why"]
    assert caplog.text.count("the loop guard cannot act") == 1
