"""The critic: what it reads, where it starts from, and what one step of PPO makes of it by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import encoders
import optimising
import toy
from holdtrue.errors import DataError, ModelError
from holdtrue.kinds import choose
from holdtrue.policy.causal import load_policy
from holdtrue.policy.critic import Critic, build, explained_variance, of_policy
from holdtrue.policy.decoding import Decoding
from holdtrue.policy.inputs import Scored
from holdtrue.policy.judges import ScorerJudge
from holdtrue.policy.rewards import FunctionJudge, RewardStack, open_judge
from holdtrue.policy.samples import PaddedSamples, Samples
from holdtrue.policy.settings import RewardSettings
from holdtrue.policy.update import Drawing, add_gradients, of_all
from holdtrue.records import Answer, Group, Message
from holdtrue.reward.scorer import RewardScorer
from policy_models import policy

LORA = {"r": 4, "alpha": 8.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return optimising.write(tmp_path_factory.mktemp("critic"))


def padded(prompts: list[list[int]], answers: list[list[int]], group: int) -> PaddedSamples:
    old = [np.full(len(ids), -1.0, dtype=np.float32) for ids in answers]
    stops: Any = ["stop"] * len(answers)
    return Samples([np.array(ids) for ids in prompts], group, [*map(np.array, answers)], old, stops).padded(0)


def built(folder: Path, reward: str | None = None, longest: int = 20, **changes: Any) -> tuple[Critic, Any]:
    """The critic of a run of PPO with this reward model (without: a function), and its judge."""
    one = {"function": "kindness.py:kindness"} if reward is None else {"model": reward, "weight": 2.0}
    made = optimising.settings(folder, algorithm="ppo", rewards=[one], **changes)
    model, tokenizer = load_policy(made.policy, made.seed)
    function = FunctionJudge(optimising.kindness, "kindness")
    judge = function if reward is None else open_judge(made.rewards[0], "cpu")
    return build(made, model, tokenizer, judge, longest), judge


def test_a_value_is_read_before_each_token_from_the_row_alone() -> None:
    model = policy("llama")
    critic = of_policy(model)
    with torch.no_grad():
        critic.head.weight.copy_(torch.linspace(-1, 1, 32)[None])
        critic.head.bias.fill_(0.5)
    prompts, answers = [[3, 4, 5], [6]], [[7, 8], [9], [10, 11, 12], [13]]
    part = padded(prompts, answers, 2)
    found = of_all(critic, part, 3)
    assert not found[~part.completion_NT].any()
    for row, answer in enumerate(answers):
        before = prompts[row // 2]
        with torch.no_grad():
            states = model.model(torch.tensor([before + answer])).last_hidden_state[0]
        states = states[len(before) - 1 : -1]  # after the prompt, and after each token but the last
        expected = states @ torch.linspace(-1, 1, 32) + 0.5
        torch.testing.assert_close(found[row][part.completion_NT[row]], expected, rtol=1e-4, atol=1e-5)


def test_a_critic_of_the_policy_knows_nothing_and_shares_nothing(folder: Path) -> None:
    critic, _ = built(folder)
    part = padded([[3, 4]], [[5, 6], [7]], 2)
    assert critic.start == "policy" and not critic(part).any()
    model, _ = load_policy(optimising.settings(folder).policy, 0)
    own = of_policy(model)
    theirs = {p.data_ptr() for p in model.parameters()}
    assert not any(p.data_ptr() in theirs for p in own.parameters())


def test_with_adapters_the_critic_trains_adapters_and_its_head_on_the_model_without_any(folder: Path) -> None:
    critic, _ = built(folder, policy={"path": str(folder / "policy"), "lora": LORA})
    trained = [name for name, p in critic.named_parameters() if p.requires_grad]
    assert {name for name in trained if "lora_" not in name} == {"head.weight", "head.bias"}
    assert critic.facts()["trainable"] == sum(
        p.numel() for name, p in critic.named_parameters() if name in trained
    )
    model, _ = load_policy(optimising.settings(folder, policy={"lora": LORA}).policy, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(1.0)  # the policy has moved: its adapters are no part of the critic
    ids = torch.tensor([[3, 4, 5]])
    base, _ = load_policy(optimising.settings(folder).policy, 0)
    expected = base.model(ids).last_hidden_state
    torch.testing.assert_close(of_policy(model).backbone(ids).last_hidden_state, expected)


@pytest.mark.parametrize("lora", [None, LORA])
def test_started_from_the_reward_model_it_says_at_the_end_what_that_says(
    folder: Path, toy_run: Path, lora: Any
) -> None:
    critic, judge = built(folder, str(toy_run), policy={"path": str(folder / "policy"), "lora": lora})
    assert isinstance(judge, ScorerJudge) and isinstance(judge.scorer, RewardScorer)
    group = Group(
        (Message("user", "tell about rain ?"),),
        tuple(Answer((Message("assistant", text),)) for text in ("so kind", "the answer is vague and cold")),
    )
    (encoded,) = judge.scorer.encoder.encode([group])
    # a value stands before a token: with one more token behind an answer, the last is that of all of it
    answers = [[*ids[3:].tolist(), 7] for ids in encoded.ids if ids is not None]
    prompts = [ids[:3].tolist() for ids in encoded.ids if ids is not None][:1]
    part = padded(prompts, answers, 2)
    rewards = torch.from_numpy(judge.scorer.score([group])[0])

    def at_the_end() -> Tensor:
        values = critic(part).detach()
        return torch.stack([v[mask][-1] for v, mask in zip(values, part.completion_NT, strict=True)])

    assert critic.gives_reward and critic.start == str(toy_run)
    torch.testing.assert_close(at_the_end(), rewards, rtol=1e-4, atol=1e-5)
    settings = RewardSettings(model=str(toy_run), weight=2.0)
    stack = RewardStack([judge], [settings], optimising.settings(folder).guard)
    stack.normalisers[0].mean, stack.normalisers[0].std = 0.5, 4.0
    critic.take_scale(stack)
    torch.testing.assert_close(at_the_end(), 2 * (rewards - 0.5) / 4, rtol=1e-4, atol=1e-5)


def test_a_part_of_the_reward_that_is_not_whitened_keeps_its_scale(folder: Path, toy_run: Path) -> None:
    critic, judge = built(folder, str(toy_run))
    before = critic.head.weight.clone()
    settings = RewardSettings(model=str(toy_run), weight=-0.5, whiten=False)
    critic.take_scale(RewardStack([judge], [settings], optimising.settings(folder).guard))
    assert torch.equal(critic.head.weight, -0.5 * before) and critic.head.bias.item() == 0


def test_another_decoder_to_start_from_gets_a_fresh_head(folder: Path, toy_run: Path) -> None:
    critic, _ = built(folder, str(toy_run), critic={"path": str(toy_run)})
    assert not critic.gives_reward and critic.start == str(toy_run)
    assert not critic.head.weight.any() and not critic.head.bias.any()
    lm, _ = built(folder, critic={"path": str(folder / "policy")})
    assert not lm.head.weight.any()


def other_tokens(toy_run: Path, to: Path) -> Path:
    """The toy's reward model with two words exchanged."""
    shutil.copytree(toy_run / "model", to)
    file = to / "tokenizer.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = values["model"]["vocab"]
    vocabulary["kind"], vocabulary["rude"] = vocabulary["rude"], vocabulary["kind"]
    file.write_text(json.dumps(values), encoding="utf-8")
    return to


def test_a_reward_model_with_other_tokens_is_no_start_and_that_is_said(
    folder: Path, toy_run: Path, tmp_path: Path
) -> None:
    model = other_tokens(toy_run, tmp_path / "other")
    critic, _ = built(folder, str(model))
    assert critic.start == "policy" and not critic.gives_reward
    assert critic.why.startswith(f"reward {model} has other ids for 2 of")
    with pytest.raises(
        ModelError, match=r"critic.path .*other ids for 2 of the policy's 29 tokens \('kind'\)"
    ):
        built(folder, critic={"path": str(model)})


def test_a_reward_model_that_takes_less_than_is_written_is_no_start(folder: Path, toy_run: Path) -> None:
    assert built(folder, str(toy_run), longest=128)[0].gives_reward
    critic = built(folder, str(toy_run), longest=129)[0]
    assert critic.start == "policy"
    assert critic.why.endswith("takes 128 tokens; prompts and answers have up to 129")


def test_a_reward_model_without_rows_for_all_ids_is_no_start(toy_run: Path, tmp_path: Path) -> None:
    wide = optimising.write(tmp_path)
    toy.write_model(wide / "policy", vocab_size=32)
    critic = built(wide, str(toy_run))[0]
    assert critic.start == "policy"
    assert critic.why.endswith("has embeddings for 29 ids; the policy may write 32")


def test_an_encoder_is_no_start(folder: Path, tmp_path: Path) -> None:
    path = encoders.write(tmp_path / "encoder")
    with pytest.raises(ModelError, match="is no decoder that reads one answer; a decoder with the policy's"):
        built(folder, critic={"path": str(path)})


def test_an_ensemble_is_no_start_and_that_is_said(folder: Path, toy_run: Path, tmp_path: Path) -> None:
    class Mean:
        def score(self, groups: Any) -> Any:
            return [np.zeros(len(group.answers)) for group in groups]

    made = optimising.settings(folder, algorithm="ppo", rewards=[{"model": str(toy_run)}])
    model, tokenizer = load_policy(made.policy, made.seed)
    critic = build(made, model, tokenizer, ScorerJudge(Mean()), 20)  # type: ignore[arg-type]
    assert (critic.start, critic.why) == ("policy", f"reward {toy_run} is made of several models")
    of_function = build(made, model, tokenizer, FunctionJudge(optimising.kindness, "kindness"), 20)
    assert of_function.facts()["why"] == f"reward {toy_run} is no model"  # by the name in the settings


def test_a_path_that_is_not_there_is_said(folder: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        built(folder, critic={"path": "nowhere"})


def test_explained_variance() -> None:
    mask = torch.tensor([[True, True], [True, False]])
    returns = torch.tensor([[1.0, 2.0], [6.0, torch.nan]])  # mean 3, variance (4 + 1 + 9) / 3
    assert explained_variance(returns, returns, mask) == 1
    assert explained_variance(torch.zeros(2, 2), returns, mask) == 0
    # what is left: 0, 0, 3: mean 1, variance (1 + 1 + 4) / 3; 1 - 6 / 14
    values = torch.tensor([[1.0, 2.0], [3.0, torch.nan]])
    assert explained_variance(values, returns, mask) == pytest.approx(1 - 6 / 14)
    assert explained_variance(values, torch.ones(2, 2), mask) is None
    assert explained_variance(values, returns, torch.zeros_like(mask)) is None


@pytest.mark.parametrize("rows_per_pass", [1, 2])
def test_a_step_of_ppo_by_hand(rows_per_pass: int) -> None:
    """V = 0 everywhere, so with γ = λ = ½ and no KL a reward R returns R at its token and R / 4 before.

    Rows of 2 tokens (reward 4) and of 1 (reward -2): returns 1, 4 and -2.
    """
    model = policy("llama")
    critic = of_policy(model)
    part = padded([[3, 4]], [[5, 6], [7]], 2)
    fields = {"kl_coef": 0.0, "gamma": 0.5, "lam": 0.5, "whiten_rewards": False, "value_clip": 100.0}
    algorithm = choose("holdtrue.policy.algorithms", {"kind": "ppo", "value_coef": 0.5, **fields}, None)
    scored = Scored(
        rewards=torch.tensor([4.0, -2.0]),
        mask=part.completion_NT,
        keep=torch.tensor([True, True]),
        group=2,
        old_values=of_all(critic, part, rows_per_pass),
    )
    returns = algorithm.returns(scored)
    assert returns[part.completion_NT].tolist() == [1, 4, -2]
    drawing = Drawing(Decoding(max_new_tokens=4), torch.tensor([0]))
    told = {"critic": critic, "returns": returns}
    learnt = add_gradients(
        model, algorithm, scored, algorithm.advantages(scored), part, drawing, rows_per_pass, **told
    )
    assert learnt.loss.weight == 3
    # ½ · (1 + 16 + 4) / 3 = 3.5
    assert learnt.metrics["value_loss"].value.item() == pytest.approx(3.5)
    # d/db ½ · ½ · Σ (b - R)² = -½ · (1 + 4 - 2), and the same times the states for the weights
    assert isinstance(critic.head, nn.Linear) and critic.head.bias.grad is not None
    assert critic.head.bias.grad.item() == pytest.approx(-1.5)
    with torch.no_grad():
        states = model.model(torch.tensor([[3, 4, 5]])).last_hidden_state[0, 1:]
    expected = -0.5 * ((1 - 2) * states[0] + 4 * states[1])
    torch.testing.assert_close(critic.head.weight.grad[0], expected, rtol=1e-4, atol=1e-5)
