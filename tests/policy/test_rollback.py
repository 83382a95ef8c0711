"""At a grave alarm the policy goes back whole, goes on with something changed, and nothing is lost."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

import optimising
from holdtrue.errors import Interrupted
from holdtrue.policy.rollback import bests, havens, kept
from holdtrue.policy.settings import RLSettings
from holdtrue.policy.trainer import PolicyTrainer
from holdtrue.rundir import RunDir, read_jsonl, standing
from holdtrue.training import checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return optimising.write(tmp_path_factory.mktemp("rollback"))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run", {})


def settings(
    folder: Path,
    training: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    kind: str = "rloo",
    **guard: Any,
) -> RLSettings:
    """Of a run whose draws alarm nobody by chance."""
    return optimising.settings(
        folder,
        seed=1,
        data=data or {},
        guard={"on_alarm": "rollback", **guard},
        algorithm={"kind": kind, "kl_target": 2.0},
        training={"max_steps": 8, "save_steps": 2, "learning_rate": 0.001, **(training or {})},
    )


class Failing:
    """A reward that is not a number for one answer of the given steps, which is a grave alarm."""

    def __init__(self, *steps: int) -> None:
        self.steps, self.calls = steps, -1  # the first call is for the calibration

    def __call__(self, prompts: Any, texts: Any, ids: Any) -> list[float]:
        self.calls += 1
        first = math.nan if self.calls in self.steps else 0.5
        return [first, *optimising.kindness(None, None, ids)[1:]]


def test_checkpoints_are_kept_for_every_onset_an_alarm_may_name() -> None:
    assert havens([], 0, set()) == [0]
    # the last before 5 is 4, before 9 and 10 it is 8, before 2 only the beginning; 6 is before none of them
    assert havens([0, 4, 6, 8], 10, {2, 5, 9, 10}) == [0, 4, 8, 10]


def state_of(trainer: PolicyTrainer) -> dict[str, Any]:
    """Copies of all that goes back."""
    moments = [trainer.optimizer.state[p] for p in trainer.parameters.values()]
    return deepcopy(
        {
            "parameters": {name: p.detach() for name, p in trainer.parameters.items()},
            "moments": list(map(dict, moments)),
            "rewards": trainer.rewards.state_dict(),
            "kl": trainer.controller.state_dict(),
            "monitor": trainer.monitor.state_dict(),
            "counters": (trainer.state.updates,),
        }
    )


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("algorithm", ["rloo", "ppo"])
def test_everything_goes_back_to_before_the_change_and_the_run_goes_on_slower_with_other_draws(
    folder: Path, run: RunDir, algorithm: str
) -> None:
    seen: dict[Any, dict[str, Any]] = {}

    def look(row: dict[str, Any]) -> None:
        if row["event"] in ("train", "rollback"):
            seen[row["step"] if row["event"] == "train" else "back"] = state_of(trainer)

    trainer = optimising.trainer(settings(folder, kind=algorithm), run, Failing(5), tell=look)
    state = trainer.train()
    assert any(name.startswith("critic.") for name in trainer.parameters) == (algorithm == "ppo")
    # step 5 fails at once, so it went wrong there; checkpoints are of 0, 2, 4
    (row,) = state.rollbacks
    assert (row["step"], row["to"], row["onset"], row["cause"]) == (5, 4, 5, "BAD_REWARD")
    assert same(seen["back"], seen[4]) and not same(seen["back"], seen[5])
    # 8 steps that stand and 1 that was taken back, each under a number of its own
    assert (state.step, state.learnt, state.updates, state.nan, state.alarms) == (9, 8, 8, 1, 1)
    train = [row for row in run.metrics() if row["event"] == "train"]
    assert [row["step"] for row in train] == list(range(1, 10))
    assert [row["learning_rate"] for row in train] == [0.001] * 5 + [0.0005] * 4
    assert [row["steps"] for row in train] == [8] * 5 + [9] * 4
    drawn: dict[int, list[Any]] = {}
    for one in read_jsonl(run.path / "rollouts.jsonl"):
        drawn.setdefault(one["step"], []).append((one["prompt"], one["completion_ids"]))
    assert sorted(drawn) == list(range(10)) and len(drawn[5]) == 16
    assert drawn[5] != drawn[6]


def test_an_alarm_before_the_first_checkpoint_takes_the_policy_back_to_the_beginning(
    folder: Path, run: RunDir
) -> None:
    def look(row: dict[str, Any]) -> None:
        if row["event"] == "rollback":
            found.append(state_of(trainer))

    found: list[dict[str, Any]] = []
    trainer = optimising.trainer(settings(folder, {"save_steps": 4}), run, Failing(1, 3), tell=look)
    first = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    state = trainer.train()
    assert [(row["step"], row["to"]) for row in state.rollbacks] == [(1, 0), (3, 0)]
    assert all(same(one["parameters"], first) for one in found)  # the checkpoint of step 1 is the beginning
    assert found[0]["moments"] == [{}] * len(first) and (state.step, state.learnt) == (11, 8)


@pytest.mark.parametrize(("third", "to"), [(7, 6), (6, 4)])
def test_after_so_many_rollbacks_the_next_grave_alarm_ends_the_run_with_the_last_healthy_policy(
    folder: Path, run: RunDir, third: int, to: int
) -> None:
    def look(row: dict[str, Any]) -> None:
        if row["event"] == "train":
            seen[row["step"]] = state_of(trainer)

    seen: dict[int, dict[str, Any]] = {}
    trainer = optimising.trainer(settings(folder, max_rollbacks=2), run, Failing(3, 5, third), tell=look)
    state = trainer.train()
    # checkpoints are of 0, 2 and 4, of 3 and 5 as the policies of 2 and 4, and of 6 where it stands
    assert [(row["step"], row["to"]) for row in state.rollbacks] == [(3, 2), (5, 4), (third, to)]
    assert same(state_of(trainer)["parameters"], seen[to]["parameters"]) and state.step == third
    policy = f"BAD_REWARD since step {third}, seen at step {third}: the policy is again that of step {to}"
    ended = "training ends here, as all rollbacks are used up (guard.max_rollbacks 2)"
    assert state.stopped == f"{policy}; {ended}" == run.metrics()[-1]["text"]
    assert kept(state) == to and {row["step"] for row in standing(run.metrics())} == {1, 2, 4, to}
    again = optimising.trainer(settings(folder, max_rollbacks=2), run, Failing())
    assert kept(again.train()) == to and same(state_of(again), state_of(trainer))


def test_where_rollbacks_are_not_asked_for_the_alarm_says_since_when(folder: Path, run: RunDir) -> None:
    state = optimising.trainer(settings(folder, on_alarm="stop"), run, Failing(3)).train()
    assert state.stopped == "BAD_REWARD since step 3, seen at step 3" and kept(state) == state.step == 3


def test_a_damaged_checkpoint_is_passed_over_and_without_any_the_run_ends(
    folder: Path, tmp_path: Path
) -> None:
    for damaged, expected in (({4}, (5, 0)), ({0, 4}, None)):
        run = RunDir.create(tmp_path / str(expected), {})

        def damage(row: dict[str, Any], run: RunDir = run, damaged: set[int] = damaged) -> None:
            if row["event"] == "train" and row["step"] == 5:
                for step in damaged:
                    (checkpoint.folder_of(run, step) / "policy.safetensors").write_bytes(b"")

        made = settings(folder, {"save_total_limit": 9})
        state = optimising.trainer(made, run, Failing(4, 5), tell=damage).train()
        assert state.rollbacks[0]["to"] == 2  # of step 4, whose checkpoint is now the policy of step 2
        if expected is None:
            assert state.stopped is not None and "no checkpoint from before is whole" in state.stopped
        else:
            assert [(row["step"], row["to"]) for row in state.rollbacks][1:] == [expected]


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> PolicyTrainer:
    """A run that went back: the share of a word pays for never ending, so more and more answers are cut."""
    training = {"max_steps": 9, "learning_rate": 0.01, "save_total_limit": 1}
    made = settings(folder, training, max_rollbacks=1)
    trainer = optimising.trainer(made, RunDir.create(tmp_path_factory.mktemp("whole") / "run", {}))
    trainer.train()
    return trainer


@pytest.mark.parametrize("ended", ["at the rollback", "a step later", "asked to stop"])
def test_a_run_ended_around_a_rollback_and_resumed_equals_one_that_was_not(
    whole: PolicyTrainer, tmp_path: Path, ended: str
) -> None:
    made, run, state = whole.job.settings, whole.job.run, whole.state
    (back,) = state.rollbacks
    assert back["cause"] == "TRUNCATION" and 0 < back["to"] < back["onset"] < back["step"] < state.step
    last = {"step": 0}

    def kill(row: dict[str, Any]) -> None:
        last.update(row)
        late = row["event"] == "train" and row["step"] == back["step"] + 1
        if (ended == "at the rollback" and row["event"] == "rollback") or (ended == "a step later" and late):
            raise KeyboardInterrupt

    broken = RunDir.create(tmp_path / "broken", {})
    # stopped at a step that has no checkpoint otherwise, between the onset and the alarm
    stop = {"stop": lambda: ended == "asked to stop" and last["step"] == back["step"] - 2}
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        optimising.trainer(made, broken, tell=kill, **stop).train()
    resumed = optimising.trainer(made, broken)
    assert asdict(resumed.train()) | {"seconds": 0} == asdict(state) | {"seconds": 0}
    assert same(state_of(whole), state_of(resumed))
    for name in ("rollouts.jsonl", "findings.jsonl"):
        assert (run.path / name).read_bytes() == (broken.path / name).read_bytes()
    assert [timeless(row) for row in run.metrics()] == [timeless(row) for row in broken.metrics()]


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("seconds")}


def test_a_best_step_that_was_taken_back_is_not_the_best(folder: Path, run: RunDir) -> None:
    training = {"max_steps": 6, "save_steps": 3, "eval_steps": 1, "load_best_model_at_end": True}
    calls = iter(range(100))

    def lucky(prompts: Any, texts: Any, ids: Any) -> list[float]:
        call = next(calls)  # the calibration, then a step and its evaluation by turns
        shift = 10.0 if call == 8 else 0.0  # the evaluation of step 4
        first = math.nan if call == 9 else 0.5  # step 5
        return [first, *(shift + share for share in optimising.kindness(None, None, ids)[1:])]

    made = settings(folder, training, {"eval_fraction": 0.3})
    state = optimising.trainer(made, run, lucky).train()
    assert [(row["step"], row["to"]) for row in state.rollbacks] == [(5, 3)]
    rewards = {row["step"]: row["reward"] for row in run.metrics() if row["event"] == "eval"}
    assert rewards.keys() == {1, 2, 3, 4, 6, 7, 8} and max(rewards, key=lambda step: rewards[step]) == 4
    scores = {row["step"]: row["score"] for row in run.metrics() if row["event"] == "eval"}
    assert state.best_step == max((1, 2, 3, 6, 7, 8), key=lambda step: scores[step])


def test_the_best_step_before_a_rollback_is_still_the_best_after_it(folder: Path, run: RunDir) -> None:
    training = {"max_steps": 6, "save_steps": 3, "eval_steps": 1, "load_best_model_at_end": True}
    calls = iter(range(100))

    def lucky(prompts: Any, texts: Any, ids: Any) -> list[float]:
        call = next(calls)  # the calibration, then a step and its evaluation by turns
        shift = {4: 5.0, 8: 10.0}.get(call, 0.0)  # the evaluations of steps 2 and 4
        first = math.nan if call == 9 else 0.5  # step 5
        return [first, *(shift + share for share in optimising.kindness(None, None, ids)[1:])]

    trainer = optimising.trainer(settings(folder, training, {"eval_fraction": 0.3}), run, lucky)
    state = trainer.train()
    assert [(row["step"], row["to"]) for row in state.rollbacks] == [(5, 3)]
    assert state.best_step == 2 and state.bests == [2]
    best = checkpoint.read(checkpoint.folder_of(run, 2))[0]["policy"]
    assert all(torch.equal(p, best[name]) for name, p in trainer.parameters.items())


def test_the_bests_that_are_kept_are_the_last_and_those_of_the_havens() -> None:
    # at step 0 none was the best, at 3 it was 2, at 9 it was 8
    assert bests([1, 2, 5, 8, 10], [0, 3, 9]) == [2, 8, 10]
    assert bests([], [0, 3]) == []
