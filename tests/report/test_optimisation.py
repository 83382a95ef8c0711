"""The page of a policy optimisation, of runs written by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from holdtrue.doctor import rollouts as doctor
from holdtrue.errors import DataError
from holdtrue.records import Rollout
from holdtrue.report.optimisation import write_optimisation_report
from holdtrue.report.optimisation_figures import draw
from holdtrue.rundir import RunDir, append_jsonl, write_json

EVIL = "<script>alert(1)</script></script>"
GUARD = {"on_hit": "exclude", "penalty": -1.0, "no_end_reward": -1.0}
SETTINGS = {
    "task": "rl",
    "data": {"eval_fraction": 0.1},
    "training": {"prompts_per_step": 2, "group": 2},
    "guard": GUARD,
}


def examine(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    return doctor.examine(rollouts).as_json()


def train(step: int, **changes: Any) -> dict[str, Any]:
    finish = {"finish_stop": 0.5, "finish_length": 0.25, "finish_loop": 0.25, "finish_control": 0.0}
    counted = {"excluded": 1, "nan_rewards": 0, "skipped": 1, "unusable": 0}
    spent = {"seconds": 2.0 * step, "seconds_step": 2.0, "seconds_sampling": 0.5}
    told = {
        "reward": float(step),
        "reward_whitened": 0.1,
        "reward_std": 1.0,
        "reward_parts": {"a": 1.0, "b": 2.0},
    }
    known = {
        "length": 3.0,
        "entropy": 1.0,
        "kl": 0.5,
        "kl_coef": 0.05,
        "grad_norm": 1.0,
        "learning_rate": 0.01,
    }
    return {"event": "train", "step": step, **finish, **counted, **spent, **told, **known, **changes}


def held_out(step: int, **changes: Any) -> dict[str, Any]:
    return {"event": "eval", "step": step, "reward": 2.0, "reward_se": 0.5, "score": 0.5, **changes}


def alarm(step: int, severity: str = "fail", cause: str = "LOOP", **changes: Any) -> dict[str, Any]:
    said = {"text": f"alarm {cause}", "why": "answers repeat", "fix": "let the reward see it"}
    return {
        "event": "alarm",
        "step": step,
        "onset_step": step,
        "severity": severity,
        "cause": cause,
        **said,
        **changes,
    }


def answer(
    step: int, prompt: int, reward: float | None, text: str = "The sea is calm today."
) -> dict[str, Any]:
    return {"step": step, "prompt": f"prompt {prompt}", "answer": text, "reward": reward, "finish": "stop"}


def ended(steps: int, **changes: Any) -> dict[str, Any]:
    kept = {"step": steps, "why": "the last step"}
    known = {"steps": steps, "stopped": None, "stopped_early": False, "best_step": None, "kept": kept}
    return {"status": "finished", "ended": {**known, **changes}}


class Written:
    """A run with these files, and its page."""

    def __init__(
        self,
        folder: Path,
        rows: Sequence[dict[str, Any]],
        rollouts: Sequence[dict[str, Any]] = (),
        alarms: Sequence[dict[str, Any]] = (),
        info: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.run = RunDir.create(folder, {**SETTINGS, **settings})
        if info is not None:
            write_json(self.run.info_file, info)
        for name, part in (("metrics", rows), ("rollouts", rollouts), ("findings", alarms)):
            if part:
                append_jsonl(folder / f"{name}.jsonl", part)

    @property
    def html(self) -> str:
        return write_optimisation_report(self.run, examine).read_text(encoding="utf-8")

    @property
    def figures(self) -> dict[str, Any]:
        inside = self.html.split('id="figures">')[1].split("</script>")[0]
        found: dict[str, Any] = json.loads(inside)
        return found


ROLLOUTS = [
    *(answer(0, prompt, reward) for prompt, reward in ((1, 0.0), (1, 2.0), (2, 1.0), (3, 4.0))),
    *(answer(step, prompt, 6.0 + prompt) for step in (1, 2, 3) for prompt in (1, 2, 3)),
]


def test_the_headline_has_the_change_with_an_interval_over_prompts(tmp_path: Path) -> None:
    rows = [train(1), train(2), train(3, kl=2.5)]
    page = Written(tmp_path / "run", rows, ROLLOUTS, info=ended(3)).html
    # means of prompts: 1, 1, 4 before, of which s/sqrt(3) = 1; and 7, 8, 9 in the last step, 1/sqrt(3).
    # t(97.5 %, 2 degrees) = 4.3027: half = 4.3027 sqrt(1 + 1/3) = 4.968; 8 - 2 = 6
    said = "The reward rose from 2 to 8 (+6, 95% interval +1.03 to +11) in 3 steps; the policy is 2.5 nats"
    assert said in page


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ((0.0, 2.0, 5.0), "The reward is not shown to have changed: 2 to 2.33 (+0.333, "),
        ((-9.0, -9.0, -8.0), "The reward fell from 2 to −8.67 (−10.7, "),
        ((0.5,), "The reward went from 2 to 0.5 (one prompt, so no interval)"),
        ((None, None, None), "After 1 step the reward is 1"),
    ],
)
def test_a_change_that_is_not_shown_is_not_claimed(tmp_path: Path, last: Any, said: str) -> None:
    rollouts = [*ROLLOUTS[:4], *(answer(1, n + 1, reward) for n, reward in enumerate(last))]
    assert said in Written(tmp_path / "run", [train(1)], rollouts, info=ended(1)).html


def test_a_reward_that_compares_answers_is_not_said_to_stand_still(tmp_path: Path) -> None:
    rollouts = [answer(step, n, reward) for step in (0, 1) for n in (1, 2) for reward in (0.25, 0.75)]
    page = Written(tmp_path / "run", [train(1)], rollouts, info=ended(1)).html
    assert "it is always ½ on average, in all 1 step" in page


def test_a_grave_alarm_and_degenerate_answers_are_reasons_not_to_trust_it(tmp_path: Path) -> None:
    loop = "the sea " * 60
    rollouts = [answer(0, n, 1.0) for n in range(40)] + [answer(2, n, 2.0, loop) for n in range(40)]
    alarms = [alarm(2), alarm(2, "warn", "SHORT")]
    page = Written(tmp_path / "run", [train(1), train(2)], rollouts, alarms, ended(2)).html
    assert (
        "Do not trust it before reading the answers: grave alarms stand (LOOP since step 2); 100.0%" in page
    )
    assert "LOOP since step 2: answers repeat. To do: let the reward see it." in page
    assert '<mark class="down"' in page and "fail tail_cycle" in page
    assert "2 of them" not in page and "1 of them grave" in page


def test_an_alarm_that_a_rollback_answered_or_from_after_the_kept_policy_does_not_stand(
    tmp_path: Path,
) -> None:
    back = {"event": "rollback", "step": 3, "to": 1, "text": "LOOP since step 2: back from step 3 to step 1"}
    rows = [train(1), train(2), train(3), back, *(train(step) for step in range(4, 9)), held_out(5)]
    info = ended(8, best_step=5, kept={"step": 5, "why": "best held-out score, 0.5"})
    made = Written(tmp_path / "run", rows, ROLLOUTS, [alarm(3), alarm(7, cause="EMPTY_ANSWER")], info)
    page, figures = made.html, made.figures
    assert "No grave alarm stands" in page and "LOOP since step 2: back from step 3 to step 1." in page
    assert "After 6 steps" in page  # 2 and 3 were taken back
    bands = [shape for shape in figures["reward"]["layout"]["shapes"] if shape["type"] == "rect"]
    assert [(band["x0"], band["x1"]) for band in bands] == [(1.5, 3.5)]
    lines = [(shape["x0"], shape["line"]["color"]) for shape in figures["kl"]["layout"]["shapes"][1:]]
    assert sorted(lines) == [(3, "--rejected"), (5, "--chosen"), (7, "--rejected")]
    strip = figures["events"]["layout"]["yaxis"]["ticktext"]
    assert strip == ["<b>LOOP</b>", "<b>went back</b>", "<b>best held-out score</b>", "<b>EMPTY_ANSWER</b>"]


def test_held_out_prompts_have_an_interval_and_their_place_beside_the_training_reward(tmp_path: Path) -> None:
    rows = [train(1), held_out(1), train(2), held_out(2, reward=3.0)]
    made = Written(tmp_path / "run", rows, ROLLOUTS, info=ended(2))
    # 1.96 standard errors of 0.5
    assert (
        "On held-out prompts the reward is 2 (1.02 to 2.98) at step 1, then 3 (2.02 to 3.98) at step 2."
        in made.html
    )
    trace = made.figures["reward"]["data"][1]
    assert (trace["name"], trace["y"], trace["error_y"]["array"]) == ("held out", [2.0, 3.0], [0.98, 0.98])


def test_what_became_of_the_answers_is_counted(tmp_path: Path) -> None:
    guard = {**GUARD, "on_hit": "penalise"}
    page = Written(tmp_path / "run", [train(1), train(2)], ROLLOUTS, info=ended(2), guard=guard).html
    # 2 steps of 2 x 2 answers: half end, a quarter is cut, a quarter loops, one a step is left out
    for what, count, share in (
        ("ended by an end token", 4, "50.0%"),
        ("cut at the longest length", 2, "25.0%"),
        ("ended as it looped", 2, "25.0%"),
        ("left out of learning (guard, or no reward)", 2, "25.0%"),
        ("penalised: reward −1 (guard.on_hit)", 2, "25.0%"),
        ("reward −1 for having no end (guard.no_end_reward)", 4, "50.0%"),
    ):
        cells = f'<tr><th>{what}</th><td class="number">{count}</td><td class="number">{share}</td></tr>'
        assert cells in page


def test_few_answers_without_a_fault_do_not_look_like_many_faults() -> None:
    rates = {str(step): {"count": 0, "rows": 10, "rate": 0.0, "interval": [0, 0.278]} for step in range(41)}
    figure = draw([train(n) for n in range(1, 41)], [], None, rates)["degenerate"]
    (line,) = figure["data"]
    assert line["customdata"] == ["0", *(f"{i}–{i + 4}" for i in range(1, 41, 5))]
    assert line["x"] == [0, *range(3, 41, 5)]
    # Wilson's upper end of 0 in 50 is z² / (50 + z²) = 3.8415 / 53.8415
    assert line["error_y"]["array"][1:] == pytest.approx([0.0713] * 8, abs=1e-4)
    assert figure["layout"]["yaxis"]["range"][1] == pytest.approx(1.05 * 0.278, rel=1e-2)


def test_charts_are_those_there_are_numbers_for(tmp_path: Path) -> None:
    plain = Written(tmp_path / "plain", [train(1), train(2)], ROLLOUTS, info=ended(2)).figures
    assert not {"explained", "value_loss", "kl_coef", "learning_rate", "clipped", "events"} & set(plain)
    assert {"reward", "learnt", "parts", "kl", "length", "entropy", "ends", "degenerate", "seconds"} <= set(
        plain
    )
    assert [line["name"] for line in plain["ends"]["data"]] == ["end token", "cut at the longest", "loop"]
    assert {line["name"]: line["y"][0] for line in plain["seconds"]["data"]} == {
        "sampling": 0.5,
        "the rest": 1.5,
    }
    critic = [
        train(n, explained_variance=0.1 * n, value_loss=1.0, kl_coef=0.01 * n, learning_rate=0.1 / n)
        for n in (1, 2)
    ]
    found = Written(tmp_path / "ppo", critic, ROLLOUTS, info=ended(2)).figures
    assert found["explained"]["data"][0]["y"] == [0.1, 0.2]
    assert {"value_loss", "kl_coef", "learning_rate"} <= set(found)


def test_a_broken_line_of_the_answers_is_counted_and_the_page_made_of_the_others(tmp_path: Path) -> None:
    made = Written(tmp_path / "run", [train(1)], ROLLOUTS, info=ended(1))
    whole = made.html
    file = tmp_path / "run" / "rollouts.jsonl"
    file.write_bytes(b"{broken\n" + file.read_bytes())
    page = made.html
    assert "rollouts.jsonl: 1 line could not be read and is left out (line 1)." in page
    assert "could not be read" not in whole
    headline = whole.partition("<h1>")[2].partition("</h1>")[0]
    assert headline and headline in page


@pytest.mark.parametrize("name", ["rollouts", "metrics", "findings"])
def test_lines_that_are_no_rows_of_a_file_are_counted_and_said(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = Written(tmp_path / "run", [train(1)], ROLLOUTS, [alarm(1)], info=ended(1))
    with open(tmp_path / "run" / f"{name}.jsonl", "a", encoding="utf-8") as file:
        file.write('{"a": 1}\nbroken\n')
    last = {"rollouts": len(ROLLOUTS), "metrics": 1, "findings": 1}[name]
    said = f"{name}.jsonl: 2 lines could not be read and are left out (line {last + 1}, {last + 2})"
    assert f"{said}." in made.html and said in caplog.text


def test_a_run_that_failed_at_its_start_is_to_be_started_again_not_resumed(tmp_path: Path) -> None:
    info = {"status": "failed", "error": "no prompts"}
    page = Written(tmp_path / "run", [], info=info).html
    assert "The run failed at its start (no prompts); mend that and start it again." in page
    assert "holdtrue resume" not in page
    assert "holdtrue resume" in Written(tmp_path / "later", [train(1)], ROLLOUTS, info=info).html


def test_a_long_run_has_a_small_page_with_means_of_neighbours(tmp_path: Path) -> None:
    rows = [train(step) for step in range(1, 5001)]
    alarms = [alarm(step) for step in range(10, 2000, 10)]
    made = Written(tmp_path / "run", rows, ROLLOUTS, alarms, ended(5000))
    assert len(made.html) < 5_000_000
    each, smooth = made.figures["reward"]["data"]
    assert (len(each["x"]), len(smooth["x"])) == (600, 60)
    marks = made.figures["reward"]["layout"]["shapes"]
    assert [mark["x0"] for mark in marks] == [10, 5000]  # the first alarm of the cause, and the policy kept


def test_numbers_that_are_none_are_never_shown_as_numbers(tmp_path: Path) -> None:
    rows = [train(1, kl=None, grad_norm=None), train(2, reward_whitened=None), train(3)]
    made = Written(tmp_path / "run", rows, [*ROLLOUTS, answer(3, 1, None)], info=ended(3))
    with open(
        made.run.metrics_file, "a", encoding="utf-8"
    ) as file:  # as a program without our care writes it
        file.write(json.dumps(train(4, kl=float("nan"), entropy=float("inf"))) + "\n")
    assert made.figures["kl"]["data"][0]["x"] == [2, 3]
    assert made.figures["gradient"]["data"][0]["x"] == [2, 3, 4]
    words = made.html.split("<body>")[1].split("<script")[0]
    assert "nan" not in words.lower().replace("nan_rewards", "") and "no reward" in words


def test_every_text_is_escaped(tmp_path: Path) -> None:
    rows = [train(step, reward_parts={EVIL: 1.0, "b": 0.0}) for step in (1, 2)]
    rollouts = [
        answer(step, n, 1.0 * n, f"say {EVIL}") | {"prompt": f"{EVIL} {n}"} for step in (0, 2) for n in (1, 2)
    ]
    info = ended(2, stopped=EVIL) | {"command": [EVIL], "data": {"left_out": {EVIL: 3}}}
    alarms = [alarm(1, cause=EVIL, text=EVIL, why=EVIL, fix=EVIL)]
    page = Written(tmp_path / "run", rows, rollouts, alarms, info, seed=EVIL).html
    assert "<script>alert" not in page and "say &lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("</script>") == 3  # the page's own


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({}, "The run did not begin"),
        ({"status": "running"}, "still going on, or was killed"),
        ({"status": "interrupted"}, "was interrupted; continue it with: holdtrue resume"),
        ({"status": "failed", "error": "disk full"}, "failed (disk full); continue it with: holdtrue resume"),
        (ended(1, stopped="LOOP at step 1"), "The run ended at an alarm: LOOP at step 1."),
        (ended(1, stopped_early=True), "The run ended early, as the held-out score no longer rose"),
    ],
)
def test_a_run_says_how_it_ended_or_that_it_has_not(tmp_path: Path, info: Any, said: str) -> None:
    assert said in Written(tmp_path / "run", [train(1)], ROLLOUTS, info=info).html


def test_a_run_that_has_done_nothing_has_a_page(tmp_path: Path) -> None:
    page = Written(tmp_path / "run", [], info={"status": "running"}).html
    assert "No step is finished." in page and "No step was logged." in page
    drawn = Written(tmp_path / "drawn", [], ROLLOUTS[:4], info={"status": "running"}).html
    assert "No step is finished." in drawn


def test_the_same_prompt_is_shown_from_step_to_step_and_what_earns_most_at_the_end(tmp_path: Path) -> None:
    rows = [train(step) for step in (1, 2, 3)]
    info = ended(3, best_step=2)
    page = Written(tmp_path / "run", rows, ROLLOUTS, info=info).html
    for words in ("step 0 (start)", "step 2 (middle, best held-out score)", "step 3 (end)"):
        assert page.count(words) == 3  # prompts
    assert "<b>reward 9 · 0 tokens · ended by an end token</b>" in page and "rollouts.jsonl, line 13" in page


def test_the_file_of_another_version_is_refused_in_a_line(tmp_path: Path) -> None:
    rows = [train(1)]
    del rows[0]["finish_loop"]
    with pytest.raises(
        DataError, match="another version of holdtrue, or by hand: a row does not say 'finish_loop'"
    ):
        _ = Written(tmp_path / "run", rows, ROLLOUTS, info=ended(1)).html
