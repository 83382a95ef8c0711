"""The loop: it learns, leaves out what it is told to, and goes on after a kill as if nothing had happened."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import comparing
import optimising
from holdtrue.errors import QualityError, SettingsError
from holdtrue.health.vocabulary import Vocabulary
from holdtrue.policy.algorithms.rloo import RLOO
from holdtrue.policy.causal import load_policy
from holdtrue.policy.judges import ComparerJudge, open_model
from holdtrue.policy.logprobs import token_logprobs
from holdtrue.policy.sampler import SharedPrefixSampler
from holdtrue.reward import store
from holdtrue.reward.card import RewardCard
from holdtrue.rundir import RunDir, read_jsonl
from holdtrue.settings import ModelSettings
from holdtrue.training import checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return optimising.write(tmp_path_factory.mktemp("optimised"))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run", {})


@pytest.fixture(scope="module")
def comparer(tmp_path_factory: pytest.TempPathFactory) -> ComparerJudge:
    """A random model that compares, with a tokenizer of its own."""
    made = tmp_path_factory.mktemp("comparer")
    base = comparing.write(made / "base", "bert")
    loaded = store.load(ModelSettings(path=str(base), kind="pair_ranker"), seed=3)
    store.save(loaded, made / "model", RewardCard())
    judge = open_model(made / "model", "comparer", "cpu")
    assert isinstance(judge, ComparerJudge)
    return judge


def rows(run: RunDir, event: str = "train") -> list[dict[str, Any]]:
    return [row for row in run.metrics() if row["event"] == event]


@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "ppo"])
def test_the_share_of_a_word_rises_clearly_in_forty_steps(algorithm: str, folder: Path, run: RunDir) -> None:
    made = optimising.settings(folder, algorithm=algorithm, training={"max_steps": 40})
    optimising.trainer(made, run).train()
    rewards = [row["reward"] for row in rows(run)]
    assert np.mean(rewards[:3]) < 0.2 and np.mean(rewards[-3:]) > 0.6
    assert rows(run)[0]["kl"] == pytest.approx(0, abs=1e-4) and rows(run)[-1]["kl"] > 1


@pytest.mark.parametrize("fields", [{"kind": "rloo"}, {"kind": "ppo", "entropy_coef": 0.01}])
def test_a_run_killed_after_a_step_and_resumed_equals_one_that_was_not(
    fields: dict[str, Any], folder: Path, run: RunDir, tmp_path: Path
) -> None:
    made = optimising.settings(folder, algorithm={"kl_target": 2.0, **fields}, data={"eval_fraction": 0.2})
    whole = optimising.trainer(made, run)
    whole.train()

    broken = RunDir.create(tmp_path / "broken", {})
    with pytest.raises(KeyboardInterrupt):
        optimising.trainer(made, broken, tell=killed_at_step_5).train()
    assert rows(broken)[-1]["step"] == 5
    resumed = optimising.trainer(made, broken)
    resumed.train()
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, resumed.parameters[name]), name
    for name in ("rollouts.jsonl", "findings.jsonl"):
        one, other = (r.path / name for r in (run, broken))
        assert one.exists() == other.exists() and (not one.exists() or one.read_bytes() == other.read_bytes())
    assert [timeless(row) for row in run.metrics()] == [timeless(row) for row in broken.metrics()]
    assert whole.monitor.state_dict() == resumed.monitor.state_dict()
    assert whole.controller.coef == resumed.controller.coef != 0.05


def test_the_critic_is_trained_beside_the_policy_at_a_rate_of_its_own(folder: Path, run: RunDir) -> None:
    made = optimising.settings(
        folder, algorithm="ppo", critic={"learning_rate": 0.02}, training={"max_steps": 3, "updates": 2}
    )
    trainer = optimising.trainer(made, run)
    critic = trainer.job.critic
    assert critic is not None
    before = {name: p.clone() for name, p in critic.named_parameters()}
    trainer.train()
    assert all(not torch.equal(p, before[name]) for name, p in critic.named_parameters())
    rates = {id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in critic.parameters()} == {0.02}
    assert {rates[id(p)] for p in trainer.policy.parameters()} == {0.01}
    assert made.critic.rate(0.01) == 0.02 and optimising.settings(folder).critic.rate(0.01) == 0.1
    first = rows(run)[0]
    assert first["explained_variance"] == pytest.approx(0, abs=1e-6)  # its head was 0
    assert first["value_loss"] > 0 and 0 <= first["value_clip_fraction"] <= 1
    assert all(row["explained_variance"] is not None for row in rows(run))


def test_a_critic_learns_what_answers_will_be_worth(folder: Path, run: RunDir) -> None:
    made = optimising.settings(
        folder,
        algorithm={"kind": "ppo", "kl_coef": 0, "whiten_rewards": False},
        critic={"learning_rate": 0.03},
        training={"max_steps": 40, "learning_rate": 1e-6},  # the policy stands still
    )

    def rainy(prompts: Any, texts: Any, ids: Any) -> list[float]:  # the prompt says it all
        return [float("about rain" in prompt[0].content) for prompt in prompts]

    optimising.trainer(made, run, rainy).train()
    explained = [row["explained_variance"] for row in rows(run)]
    assert explained[0] == pytest.approx(0, abs=1e-6) and np.mean(explained[-5:]) > 0.7


def test_an_algorithm_that_needs_what_is_not_computed_is_refused(folder: Path) -> None:
    class Dreaming(RLOO):
        @property
        def needs(self) -> frozenset[str]:
            return super().needs | {"dreams"}

    with pytest.raises(SettingsError, match="needs dreams, which is not computed here"):
        optimising.settings(folder, algorithm=Dreaming())


def test_the_entropy_that_is_learnt_from_is_logged_and_holds_it_up(folder: Path, tmp_path: Path) -> None:
    ends = {}
    for coef in (0.0, 0.5):
        run = RunDir.create(tmp_path / str(coef), {})
        algorithm = {"kind": "rloo", "entropy_coef": coef}
        optimising.trainer(optimising.settings(folder, algorithm=algorithm), run).train()
        ends[coef] = rows(run)[-1]["entropy"]
    assert ends[0.5] > ends[0.0] + 0.1


def killed_at_step_5(row: dict[str, Any]) -> None:
    if row["event"] == "train" and row["step"] == 5:  # checkpoints are of steps 2 and 4
        raise KeyboardInterrupt


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("seconds")}


def test_a_model_that_compares_tells_how_often_the_policy_beats_the_reference(
    folder: Path, run: RunDir, comparer: ComparerJudge, tmp_path: Path
) -> None:
    made = optimising.settings(folder, data={"eval_fraction": 0.3}, training={"learning_rate": 0.05})
    whole = optimising.trainer(made, run, comparer)
    start = optimising.trainer(made, run, comparer)  # its policy is never trained
    whole.train()
    assert [row["reward"] for row in rows(run)] == pytest.approx([0.5] * 6)
    assert rows(run)[-1]["reward_std"] > 0

    job = whole.job
    drawn = [t._sample(job.held_out, 1, step, stream) for t, step, stream in ((whole, 6, 1), (start, 0, 2))]
    texts = [[one.text for one in own.rollouts(job.held_out.texts, job.tokenizer)] for own in drawn]
    groups = [
        comparing.group(mine, other, prompt=prompt[0].content, compared=False)
        for prompt, mine, other in zip(job.held_out.texts, *texts, strict=True)
    ]
    chances = [matrix[0, 1] for matrix in comparer.comparer.compare(groups)]
    assert len(chances) > 1 and rows(run, "eval")[-1]["reward"] == pytest.approx(np.mean(chances))
    watched = [one["reward"] for one in whole.monitor.state_dict()["held_out"]]
    assert watched == pytest.approx([row["reward"] for row in rows(run, "eval")])

    broken = RunDir.create(tmp_path / "broken", {})
    with pytest.raises(KeyboardInterrupt):
        optimising.trainer(made, broken, comparer, tell=killed_at_step_5).train()
    optimising.trainer(made, broken, comparer).train()  # against the same answers of the reference
    assert [timeless(row) for row in run.metrics()] == [timeless(row) for row in broken.metrics()]


def test_without_held_out_prompts_a_model_that_compares_says_what_is_missed(
    folder: Path, run: RunDir, comparer: ComparerJudge, caplog: pytest.LogCaptureFixture
) -> None:
    optimising.trainer(optimising.settings(folder, training={"max_steps": 1}), run, comparer).train()
    assert "win rates within a group are 1/2 on average" in caplog.text


def test_every_part_of_the_reward_is_logged_and_they_add_up_to_what_is_learnt_from(
    folder: Path, run: RunDir
) -> None:
    made = optimising.settings(
        folder,
        rewards=[{"function": "kindness.py:kindness", "weight": 2.0}],
        shaping={"overlong_cache": 6, "per_token": -0.125},
        training={"max_steps": 2},
    )
    optimising.trainer(made, run).train()
    row = rows(run)[0]
    assert row["reward_parts"].keys() == {"kindness", "overlong", "length"}
    assert sum(row["reward_parts"].values()) == pytest.approx(row["reward_whitened"], abs=1e-6)
    drawn = [one for one in read_jsonl(run.path / "rollouts.jsonl") if one["step"] == 1]
    for one in drawn:
        parts, count = one["reward_parts"], len(one["completion_ids"])
        assert parts["length"] == -count / 8
        # L_max = 12 and L_cache = 6: nothing up to 6 tokens, and all of it without the end token
        assert parts["overlong"] == (-1 if one["finish"] != "stop" else min(0, (6 - count) / 6))
    assert {one["finish"] for one in drawn} >= {"stop", "length"}
    assert row["reward_parts"]["length"] == pytest.approx(-row["length"] / 8)


def test_a_run_killed_before_its_first_checkpoint_begins_anew(folder: Path, run: RunDir) -> None:
    made = optimising.settings(folder, training={"max_steps": 2})

    def kill(row: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimising.trainer(made, run, tell=kill).train()
    optimising.trainer(made, run).train()
    assert [row["step"] for row in rows(run)] == [1, 2]
    steps = [row["step"] for row in read_jsonl(run.path / "rollouts.jsonl")]
    assert steps == [0] * 64 + [1] * 16 + [2] * 16


def test_the_reference_of_adapters_is_the_model_without_them(folder: Path, run: RunDir) -> None:
    lora = {"r": 4, "alpha": 8.0}
    made = optimising.settings(
        folder, policy={"path": str(folder / "policy"), "lora": lora}, training={"max_steps": 3}
    )
    trainer = optimising.trainer(made, run)
    assert all("lora" in name for name in trainer.parameters)
    trainer.train()
    prompts = trainer.job.prompts.take([0, 1])
    samples = trainer.job.sampler.sample(trainer.policy, prompts.ids, 2, seed=1)
    padded = samples.padded(0)
    assert trainer.reference is not None
    found = trainer.reference.logprobs(padded, 2)
    start, _ = load_policy(optimising.settings(folder).policy, 0)
    expected = token_logprobs(start.eval(), padded, trainer.drawing.decoding, trainer.drawing.banned)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, padded.logprobs_NT, atol=1e-3)


def test_another_reference_is_what_drift_and_scale_are_measured_from(folder: Path, run: RunDir) -> None:
    made = optimising.settings(folder, algorithm={"kind": "rloo", "kl_coef": 0.1})
    other, _ = load_policy(made.policy, 0)
    with torch.no_grad():
        other.lm_head.weight[optimising.KIND] += 3.0
    trainer = optimising.trainer(made, run, reference=other)
    trainer.train()
    drawn = list(read_jsonl(run.path / "rollouts.jsonl"))
    first = [row for row in drawn if row["step"] == 0]
    prompts = trainer.job.prompts.take([i % len(trainer.job.prompts) for i in range(16)])
    expected = trainer._sample(prompts, 4, 0, policy=other)
    assert [row["completion_ids"] for row in first] == [ids.tolist() for ids in expected.completion_ids]
    assert rows(run)[0]["kl"] > 0.1  # the policy has not moved, the reference stands elsewhere
    assert not any(p.requires_grad for p in other.parameters())


def test_answers_that_break_off_at_a_control_token_are_left_out_and_counted(
    folder: Path, run: RunDir
) -> None:
    made = optimising.settings(folder, decoding={"control": "end"}, guard={"on_hit": "exclude"})
    optimising.trainer(made, run).train()
    row = rows(run)[0]
    drawn = [one for one in read_jsonl(run.path / "rollouts.jsonl") if one["step"]]
    broken = [one for one in drawn if one["finish"] in ("control", "loop")]
    assert sum(row["excluded"] for row in rows(run)) == len(broken) > 0 and row["finish_control"] > 0
    assert all(one["advantage"] == 0 and "trained_logprobs" not in one for one in broken)
    assert any(one["advantage"] for one in drawn)


def test_a_step_without_an_answer_to_learn_from_is_skipped_and_counted(
    folder: Path, run: RunDir, caplog: pytest.LogCaptureFixture
) -> None:
    made = optimising.settings(
        folder,
        decoding={"top_k": 1, "control": "end"},
        rewards=[{"function": "kindness.py:kindness", "whiten": False}],
        guard={"on_hit": "exclude"},
        training={"max_steps": 2},
    )
    trainer = optimising.trainer(made, run)
    every = Vocabulary(eos=frozenset([1]), control=frozenset(range(2, 40)))  # any word but the end breaks off
    trainer.job.sampler = SharedPrefixSampler(every, made.decoding)
    before = {name: p.clone() for name, p in trainer.parameters.items()}
    state = trainer.train()
    assert [row["finish_control"] for row in rows(run)] == [1, 1]
    assert (state.unusable, state.guarded, state.skipped) == (2, 32, 0)
    assert "step 2: no answer could be learnt from" in caplog.text
    assert all(torch.equal(p, before[name]) for name, p in trainer.parameters.items())


def test_a_loss_that_is_not_finite_changes_nothing_and_several_end_the_run(folder: Path, run: RunDir) -> None:
    made = optimising.settings(
        folder,
        rewards=[{"function": "kindness.py:kindness", "whiten": False}],
        training={"max_nonfinite_steps": 2},
        algorithm={"kind": "rloo", "kl_coef": 0},
    )

    def enormous(prompts: Any, texts: Any, ids: Any) -> list[float]:  # overflows float32 when squared
        return [3e38 * (-1) ** row for row in range(len(ids))]

    trainer = optimising.trainer(made, run, enormous)
    before = {name: p.clone() for name, p in trainer.parameters.items()}
    with pytest.raises(QualityError, match=r"not finite in 2 updates .*learning_rate"):
        trainer.train()
    assert all(torch.equal(p, before[name]) for name, p in trainer.parameters.items())


def test_rollouts_hold_what_was_drawn_and_what_the_step_made_of_it(folder: Path, run: RunDir) -> None:
    trainer = optimising.trainer(optimising.settings(folder, training={"max_steps": 1}), run)
    trainer.train()
    drawn = [json.loads(line) for line in (run.path / "rollouts.jsonl").read_text().splitlines()]
    assert [one["policy"] for one in drawn] == ["reference"] * 64 + ["current"] * 16
    first = drawn[64]
    assert first["reward"] == pytest.approx(optimising.kindness(None, None, [first["completion_ids"]])[0])
    # the policy is unchanged when the step's log-probabilities are computed
    np.testing.assert_allclose(first["trained_logprobs"], first["logprobs"], atol=1e-5)
    group = [one["advantage"] for one in drawn[64:68]]
    assert sum(group) == pytest.approx(0, abs=1e-5)  # leave-one-out advantages of a group add up to 0


def test_a_grave_alarm_ends_the_run_where_that_was_asked_for(folder: Path, run: RunDir) -> None:
    made = optimising.settings(folder, guard={"on_alarm": "stop"}, training={"max_steps": 40})
    state = optimising.trainer(made, run).train()
    # the share of a word pays for never ending, so more answers are cut than in the calibration
    assert state.step < 40 and state.stopped is not None and "TRUNCATION" in state.stopped
    finding = next(one for one in read_jsonl(run.path / "findings.jsonl") if one["severity"] == "fail")
    assert finding["cause"] == "TRUNCATION" and finding["severity"] == "fail"


WATCHED = {"eval_steps": 2, "early_stopping_patience": 2, "load_best_model_at_end": True, "max_steps": 60}


def test_a_run_stops_early_and_ends_with_the_weights_of_its_best_evaluation(
    folder: Path, run: RunDir, tmp_path: Path
) -> None:
    made = optimising.settings(
        folder, data={"eval_fraction": 0.3}, training=WATCHED | {"learning_rate": 0.05}
    )
    trainer = optimising.trainer(made, run)
    state = trainer.train()
    rewards = {row["step"]: row["score"] for row in rows(run, "eval")}
    best = max(rewards, key=lambda step: (rewards[step], -step))  # the share of a word cannot exceed 1
    assert state.stopped_early and state.step == best + 4 < 60
    assert (state.best_step, state.best_value, state.stale) == (best, -rewards[best], 2)
    kept, last = (
        checkpoint.read(checkpoint.folder_of(run, step))[0]["policy"] for step in (best, state.step)
    )
    assert all(torch.equal(p, kept[name]) for name, p in trainer.parameters.items())
    assert not all(torch.equal(p, last[name]) for name, p in trainer.parameters.items())

    def kill(row: dict[str, Any]) -> None:
        if row["event"] == "eval" and row["step"] == best + 2:
            raise KeyboardInterrupt

    broken = RunDir.create(tmp_path / "broken", {})
    with pytest.raises(KeyboardInterrupt):
        optimising.trainer(made, broken, tell=kill).train()
    resumed = optimising.trainer(made, broken)
    assert asdict(resumed.train()) | {"seconds": 0} == asdict(state) | {"seconds": 0}
    assert all(torch.equal(p, kept[name]) for name, p in resumed.parameters.items())


def test_answers_left_out_or_without_their_end_count_in_the_score_of_an_evaluation(
    folder: Path, run: RunDir
) -> None:
    guard = {"on_hit": "exclude", "penalty": -2.0, "no_end_reward": -1.0}
    made = optimising.settings(
        folder, data={"eval_fraction": 0.3}, guard=guard, training={"max_steps": 1, "eval_steps": 1}
    )

    def generous(prompts: Any, texts: Any, ids: Any) -> list[float | None]:
        if len(texts) == len(trainer.job.held_out):  # the evaluation: high rewards, one answer has none
            return [None, *(50.0 for _ in texts[1:])]
        return optimising.kindness(prompts, texts, ids)

    trainer = optimising.trainer(made, run, generous)
    trainer.train()
    answers = len(trainer.job.held_out)
    (row,) = rows(run, "eval")
    assert row["reward"] == 50 and row["excluded"] == row["nan_rewards"] == 1 and row["finish_stop"] < 1
    used = row["reward_whitened"] * (answers - 1)  # those without their end got -1
    assert row["score"] == pytest.approx((used - 2) / answers, abs=1e-4)


def test_an_evaluation_without_a_reward_is_told_and_training_goes_on(
    folder: Path, run: RunDir, caplog: pytest.LogCaptureFixture
) -> None:
    calls = iter(range(100))

    def silent(prompts: Any, texts: Any, ids: Any) -> list[float | None]:
        evaluation = next(calls) == 2  # the calibration, a step, its evaluation
        return [None if evaluation else share for share in optimising.kindness(None, None, ids)]

    training = {"max_steps": 2, "eval_steps": 1, "load_best_model_at_end": True}
    state = optimising.trainer(
        optimising.settings(folder, data={"eval_fraction": 0.3}, training=training), run, silent
    ).train()
    assert [row["reward"] is None for row in rows(run, "eval")] == [True, False]
    assert state.best_step == 2 and "step 1, held-out prompts: none of" in caplog.text


def test_the_last_weights_stay_where_the_best_are_not_asked_for(folder: Path, run: RunDir) -> None:
    training = {"eval_steps": 1, "max_steps": 4, "early_stopping_patience": 3}
    made = optimising.settings(folder, data={"eval_fraction": 0.3}, training=training)
    calls = iter(range(100))

    def falling(prompts: Any, texts: Any, ids: Any) -> list[float]:
        return [share - next_ for next_ in [next(calls)] for share in optimising.kindness(None, None, ids)]

    trainer = optimising.trainer(made, run, falling)
    state = trainer.train()
    assert (state.best_step, state.stale, state.stopped_early) == (1, 3, True)
    last, _ = checkpoint.read(checkpoint.folder_of(run, 4))
    assert all(torch.equal(p, last["policy"][name]) for name, p in trainer.parameters.items())
    assert not checkpoint.folder_of(run, 1).exists()


def test_a_policy_that_an_alarm_ended_the_run_for_is_not_the_best(folder: Path, run: RunDir) -> None:
    training = {"eval_steps": 100, "max_steps": 40, "load_best_model_at_end": True}
    made = optimising.settings(
        folder, data={"eval_fraction": 0.3}, guard={"on_alarm": "stop"}, training=training
    )
    state = optimising.trainer(made, run).train()
    assert state.stopped is not None and len(rows(run, "eval")) == 1 and state.best_step is None


def test_a_best_checkpoint_that_broke_leaves_the_last_weights_and_is_said(
    folder: Path, run: RunDir, caplog: pytest.LogCaptureFixture
) -> None:
    training = {"eval_steps": 1, "max_steps": 3, "load_best_model_at_end": True}
    made = optimising.settings(folder, data={"eval_fraction": 0.3}, training=training)
    calls = iter(range(100))

    def falling(prompts: Any, texts: Any, ids: Any) -> list[float]:
        return [share - next_ for next_ in [next(calls)] for share in optimising.kindness(None, None, ids)]

    def damage(row: dict[str, Any]) -> None:
        if row["event"] == "eval" and row["step"] == 3:
            (checkpoint.folder_of(run, 1) / "policy.safetensors").write_bytes(b"")

    state = optimising.trainer(made, run, falling, tell=damage).train()
    assert state.best_step is None and "the best checkpoint (step 1) is broken" in caplog.text
