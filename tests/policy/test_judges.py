"""Reward models of every sort as judges of a step's answers: tiny random ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import comparing
from holdtrue.errors import ModelError
from holdtrue.policy.judges import ComparerJudge, ScorerJudge, open_model
from holdtrue.policy.rewards import RewardStack
from holdtrue.policy.samples import Samples
from holdtrue.policy.settings import GuardSettings, RewardSettings
from holdtrue.records import Answer, Finish, Group, Message, Rollout
from holdtrue.reward import members, store
from holdtrue.reward.card import RewardCard
from holdtrue.reward.ensemble import Ensemble, Scaled
from holdtrue.reward.folders import open_scorer
from holdtrue.reward.implicit import Implicit
from holdtrue.reward.scorer import RewardScorer, Scored, StreamingScorer
from holdtrue.settings import ModelSettings

Make = Callable[..., Path]
TEXTS = ("kind and warm", "rude", "the answer is cold", "", "clear", "warm", "so so so", "kind")
LONG = "kind " * 200


def rollouts(*texts: str, group: int = 4) -> list[Rollout]:
    prompts = ("tell about rain ?", "tell about bees ?")
    return [Rollout((Message("user", prompts[n // group]),), text) for n, text in enumerate(texts)]


def samples(group: int, *finish: Finish) -> Samples:
    ids = [np.array([7, row]) for row in range(len(finish))]
    prompts = [np.array([1])] * (len(finish) // group)
    return Samples(prompts, group, ids, [np.zeros(2, np.float32) for _ in finish], list(finish))


def saved(base: Path, folder: Path, seed: int = 3, **kind: Any) -> Path:
    """A random reward model on a base."""
    loaded = store.load(ModelSettings(path=str(base), **kind), seed=seed)
    store.save(loaded, folder, RewardCard())
    return folder


@pytest.fixture(scope="module", params=["llama", "bert"])
def comparer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ComparerJudge:
    made = tmp_path_factory.mktemp(request.param)
    base = comparing.write(made / "base", request.param)
    saved(base, made / "model", kind=comparing.KINDS[request.param])
    judge = open_model(made / "model", "comparer", "cpu")
    assert isinstance(judge, ComparerJudge)
    return judge


def logits(judge: ComparerJudge, texts: Sequence[str], topic: str = "rain") -> list[list[float]]:
    """z(i, j), answer i shown first, each pair computed alone."""

    def shown_first(i: int, j: int) -> float:
        group = comparing.group(texts[i], texts[j], prompt=f"tell about {topic} ?", compared=False)
        return float(judge.comparer.show([group], [[(0, 1)]])[0].logits[0, 1])

    return [[shown_first(i, j) if i != j else 0.0 for j in range(len(texts))] for i in range(len(texts))]


def chance(z: list[list[float]], i: int, j: int) -> float:
    return 1 / (1 + exp(-(z[i][j] - z[j][i]) / 2))


def test_an_answers_reward_is_its_mean_chance_against_the_others(comparer: ComparerJudge) -> None:
    found = comparer.judge(rollouts(*TEXTS), 4)
    z = logits(comparer, TEXTS[:4])
    expected = [sum(chance(z, i, j) for j in range(4) if j != i) / 3 for i in range(4)]
    assert found[:4] == pytest.approx(expected, abs=1e-5)
    assert len(set(found.tolist())) == 8 and ((found > 0) & (found < 1)).all()  # the empty one is judged too


def test_a_groups_mean_is_one_half_whatever_its_answers_are_worth(comparer: ComparerJudge) -> None:
    assert comparer.judge(rollouts(*TEXTS), 4).reshape(2, 4).mean(1) == pytest.approx([0.5, 0.5])
    assert comparer.judge(rollouts("kind", "kind", group=2), 2).tolist() == [0.5, 0.5]


def test_only_rivals_count_and_one_without_any_has_one_half(comparer: ComparerJudge) -> None:
    rivals = np.isin(np.arange(8), [0, 2, 5])
    found = comparer.judge(rollouts(*TEXTS), 4, rivals)
    z, other = logits(comparer, TEXTS[:4]), logits(comparer, TEXTS[4:], "bees")
    assert found[0] == pytest.approx(chance(z, 0, 2), abs=1e-5)
    assert found[1] == pytest.approx((chance(z, 1, 0) + chance(z, 1, 2)) / 2, abs=1e-5)
    assert found[4] == pytest.approx(chance(other, 0, 1), abs=1e-5) and found[5] == 0.5


def test_an_answer_that_cannot_be_compared_has_no_reward_and_the_log_says_why(
    comparer: ComparerJudge, caplog: pytest.LogCaptureFixture
) -> None:
    named = ComparerJudge(comparer.comparer, "chat", f"long {comparer.comparer.loaded.model.kind.name()}")
    found = named.judge(rollouts("kind", LONG, "rude", group=3), 3)
    assert np.isnan(found).tolist() == [False, True, False] and found[0] + found[2] == pytest.approx(1)
    assert "an answer has no reward (longer than max_length)" in caplog.text
    assert np.isnan(named.judge(rollouts("kind", LONG, group=2), 2)).all()  # nobody is left to compare with


def test_a_group_costs_every_pair_in_both_orders_and_a_held_out_answer_two_sequences(
    comparer: ComparerJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    original = type(comparer.comparer.encoder).encode

    def counting(self: Any, groups: Any) -> Any:
        asked.append(sum(len(orders) for _, orders in groups))
        return original(self, groups)

    monkeypatch.setattr(type(comparer.comparer.encoder), "encode", counting)
    comparer.judge(rollouts(*TEXTS), 4)
    stack(comparer).score(rollouts("kind"), samples(1, "stop"), rollouts("rude"))
    assert asked == [2 * 4 * 3, 2]


def stack(judge: Any, guard: GuardSettings | None = None, whiten: bool = False) -> RewardStack:
    return RewardStack([judge], [RewardSettings(model="m", whiten=whiten)], guard or GuardSettings())


def test_answers_the_guard_rules_out_are_nobodys_rivals(comparer: ComparerJudge) -> None:
    finish: tuple[Finish, ...] = ("stop", "loop", "length", "control")
    texts, z = TEXTS[:4], logits(comparer, TEXTS[:4])
    judged = stack(comparer).score(rollouts(*texts), samples(4, *finish))
    assert judged.keep.tolist() == [True, False, True, False] and judged.nan == 0 and judged.guarded == 2
    assert judged.rewards[0].item() == pytest.approx(chance(z, 0, 2), abs=1e-5)
    every = stack(comparer, GuardSettings(on_hit="none")).score(rollouts(*texts), samples(4, *finish))
    assert every.raw.tolist() == pytest.approx(comparer.judge(rollouts(*texts), 4).tolist())


def test_win_rates_are_whitened_about_one_half_by_their_spread(comparer: ComparerJudge) -> None:
    made = stack(comparer, whiten=True)
    raw = made.fit(rollouts(*TEXTS), 4)
    assert made.normalisers[0].mean == pytest.approx(0.5)
    judged = made.score(rollouts(*TEXTS[:4]), samples(4, *["stop"] * 4))
    assert judged.rewards.tolist() == pytest.approx(((raw[:4] - 0.5) / raw.std()).tolist(), abs=1e-5)


def test_one_answer_is_compared_with_one_of_the_reference(comparer: ComparerJudge) -> None:
    judged = stack(comparer).score(rollouts("kind"), samples(1, "stop"), rollouts("rude"))
    z = logits(comparer, ("kind", "rude"))
    assert judged.raw.tolist() == pytest.approx([chance(z, 0, 1)], abs=1e-5)
    same = stack(comparer).score(rollouts("kind"), samples(1, "stop"), rollouts("kind"))
    assert same.raw.tolist() == [0.5]


def chats(found: Sequence[Rollout]) -> list[Group]:
    return [Group(one.prompt, (Answer((Message("assistant", one.text),)),)) for one in found]


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    base = comparing.write(tmp_path / "base", "llama")
    return [saved(base, tmp_path / f"m{seed}", seed=seed) for seed in (1, 2)]


def test_an_ensemble_is_a_judge_by_its_combination(models: list[Path], tmp_path: Path) -> None:
    scales = ((0.5, 2.0), (-1.0, 0.25))
    named = [
        Scaled(**members.Member.of(path).model_dump(), mean=mean, std=std)
        for path, (mean, std) in zip(models, scales, strict=True)
    ]
    made = Ensemble(members=tuple(named), combine="min", scale="data")
    members.write(made, tmp_path / "both", members.ENSEMBLE)
    found = open_model(tmp_path / "both", "ensemble", "cpu").judge(rollouts(*TEXTS), 4)
    each = [np.concatenate(open_scorer(path).scorer.score(chats(rollouts(*TEXTS)))) for path in models]
    z = [(rewards - mean) / std for rewards, (mean, std) in zip(each, scales, strict=True)]
    np.testing.assert_allclose(found, np.minimum(*z), rtol=1e-3, atol=1e-3)


def test_a_policy_against_its_reference_is_a_judge(tmp_path: Path) -> None:
    reference = comparing.write(tmp_path / "reference", "llama")
    policy = comparing.write(tmp_path / "policy", "llama", initializer_range=0.2)
    made = Implicit(policy=members.Member.of(policy), reference=members.Member.of(reference), beta=0.3)
    members.write(made, tmp_path / "both", members.IMPLICIT)
    found = open_model(tmp_path / "both", "implicit", "cpu").judge(rollouts(*TEXTS), 4)
    twice = made.model_copy(update={"beta": 0.6})
    members.write(twice, tmp_path / "twice", members.IMPLICIT)
    again = open_model(tmp_path / "twice", "implicit", "cpu").judge(rollouts(*TEXTS), 4)
    np.testing.assert_allclose(again, 2 * found, rtol=1e-5)
    assert np.isfinite(found).all() and len(set(found.tolist())) == len(TEXTS)


def test_an_ensemble_of_models_that_compare_is_refused(tmp_path: Path) -> None:
    base = comparing.write(tmp_path / "base", "llama")
    paths = [saved(base, tmp_path / f"m{seed}", kind="preference_lm") for seed in (1, 2)]
    named = tuple(Scaled(**members.Member.of(path).model_dump(), mean=0.0, std=1.0) for path in paths)
    made = Ensemble(members=named, combine="mean", scale="data")
    members.write(made, tmp_path / "both", members.ENSEMBLE)
    with pytest.raises(ModelError, match=r"ensemble of models that compare .* give each member"):
        open_model(tmp_path / "both", "both", "cpu")


def test_answers_a_model_cannot_read_are_left_out_counted_and_explained_once(
    models: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    made = stack(open_model(models[0], "forgetful", "cpu"))
    for _ in range(2):
        judged = made.score(rollouts("kind", LONG, "rude"), samples(3, "stop", "length", "stop"))
        assert judged.keep.tolist() == [True, False, True] and judged.nan == 1
    assert caplog.text.count("reward forgetful: an answer has no reward (longer than max_length)") == 1


def test_nan_for_one_answer_takes_no_other_with_it(
    models: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    judge = open_model(models[0], "broken weights", "cpu")
    assert isinstance(judge, ScorerJudge) and isinstance(judge.scorer, RewardScorer)
    loaded = judge.scorer.loaded
    expected = judge.judge(rollouts("kind", "rude", "warm"), 3)
    with torch.no_grad():
        loaded.model.inner.get_input_embeddings().weight[loaded.tokenizer.vocab["rude"]] = torch.nan
    judged = stack(judge).score(rollouts("kind", "rude", "warm"), samples(3, *["stop"] * 3))
    assert judged.keep.tolist() == [True, False, True] and judged.nan == 1
    assert judged.raw[judged.keep].tolist() == pytest.approx(expected[[0, 2]], abs=1e-5)
    assert "reward broken weights: an answer has no reward (reward is not finite)" in caplog.text


@pytest.mark.parametrize("knows", [True, False])
def test_special_tokens_reach_a_model_as_text_that_its_own_tokenizer_reads(
    knows: bool, base_model: Make, tmp_path: Path
) -> None:
    base = base_model() if knows else comparing.write(tmp_path / "words", "llama")
    judge = open_model(saved(base, tmp_path / "rm"), "m", "cpu")
    assert isinstance(judge, ScorerJudge) and isinstance(judge.scorer, RewardScorer)
    prompt, answer = (Message("user", "x"),), "a<|im_start|>b"
    (encoded,) = judge.scorer.encoder.encode(chats([Rollout(prompt, answer)]))
    read = judge.scorer.loaded.tokenizer.convert_ids_to_tokens(encoded.ids[0].tolist())
    assert read.count("<|im_start|>") == (3 if knows else 0)  # two of them are the template's
    assert np.isfinite(judge.judge([Rollout(prompt, answer)], 1)).all()


def test_scorers_see_a_prompts_answers_as_one_group_in_the_form_they_were_trained_on() -> None:
    seen: list[Group] = []

    class Lengths(StreamingScorer):
        def _score_chunk(self, groups: Sequence[Group]) -> Iterable[Scored]:
            seen.extend(groups)
            for group in groups:
                lengths = [len(answer.text) for answer in group.answers]
                yield Scored(np.array(lengths, np.float32), (None,) * len(lengths))

    given = [Rollout("ask", "<|pad|>"), Rollout("ask", "bb")]
    assert ScorerJudge(Lengths(), "chat").judge(given, 2).tolist() == [7, 2]
    assert ScorerJudge(Lengths(), "raw").judge(given, 1).tolist() == [7, 2]
    assert seen[0].prompt == (Message("user", "ask"),)
    assert seen[0].answers[0].content == (Message("assistant", "<|pad|>"),)
    assert [group.prompt for group in seen[1:]] == ["ask", "ask"]
