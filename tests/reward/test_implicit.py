"""Implicit rewards are β times the log-ratio of two causal LMs, alone and in any company."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import encoders
from holdtrue.errors import ModelError
from holdtrue.records import Answer, Group, Message
from holdtrue.reward import folders, implicit, members, store
from holdtrue.reward.card import RewardCard
from holdtrue.reward.implicit import Implicit, ImplicitScorer
from holdtrue.reward.members import Member
from holdtrue.settings import ModelSettings

Make = Callable[..., Path]
BETA = 0.3
MODELS: dict[str, dict[str, Any]] = {
    "own matrix": {"tie_word_embeddings": False},
    "tied": {"tie_word_embeddings": True},
    "gpt2": {"model_type": "gpt2"},
    "soft cap": {"model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 1.5},
    "padded": {"model_type": "bloom", "n_layer": 2, "n_head": 4},
}


def chat(question: str, *answers: str) -> Group:
    return Group(
        (Message("user", question),), tuple(Answer((Message("assistant", text),)) for text in answers)
    )


GROUPS = [
    chat("Why?", "Because.", "Because I say so.", ""),  # answers that begin alike
    chat("How does it work, please?", "Well", "It turns " * 9, "x"),
    chat("A lonely one", "yes"),
    Group("Plain text", (Answer(" goes on"), Answer(" goes away"))),
    chat("Many", *(f"answer {k} {'ab' * k}" for k in range(18))),
]


def perturbed(base: Path, folder: Path) -> Path:
    """What stands for a trained policy: the same model, its weights moved by noise."""
    model = AutoModelForCausalLM.from_pretrained(base)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def named(folder: Path, policy: Path, reference: Path | None, **options: Any) -> Path:
    made = Implicit(
        policy=Member.of(policy), reference=None if reference is None else Member.of(reference), **options
    )
    members.write(made, folder, members.IMPLICIT)
    return folder


def texts(group: Group) -> tuple[str, list[str]]:
    """Prompt and answers as ChatML, written out by hand."""
    if isinstance(group.prompt, str):
        return group.prompt, [f"{answer.text}<|im_end|>" for answer in group.answers]
    opening = f"<|im_start|>user\n{group.prompt[0].content}<|im_end|><|im_start|>assistant\n"
    return opening, [f"{answer.text}<|im_end|>" for answer in group.answers]


def by_hand(policy: Any, reference: Any, tokenizer: Any, reduction: str) -> list[list[float]]:
    """β · Σ (or mean) over the tokens after the prompt's, each conversation alone."""
    found = []
    for group in GROUPS:
        prompt, answers = texts(group)
        start, own = len(tokenizer(prompt, add_special_tokens=False).input_ids), []
        for answer in answers:
            ids = torch.tensor([tokenizer(prompt + answer, add_special_tokens=False).input_ids])
            ratio = 0.0
            for sign, model in ((1, policy), (-1, reference)):
                with torch.no_grad():
                    logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
                ratio += sign * sum(logprobs[t - 1, ids[0, t]].item() for t in range(start, ids.shape[1]))
            own.append(BETA * (ratio if reduction == "sum" else ratio / (ids.shape[1] - start)))
        found.append(own)
    return found


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_rewards_are_those_of_plain_transformers(
    changes: dict[str, Any], reduction: str, base_model: Make, tmp_path: Path
) -> None:
    base = base_model(**changes)
    policy = perturbed(base, tmp_path / "policy")
    folder = named(tmp_path / "both", policy, base, beta=BETA, reduction=reduction)
    models = [AutoModelForCausalLM.from_pretrained(path).eval() for path in (policy, base)]
    expected = by_hand(*models, AutoTokenizer.from_pretrained(base), reduction)
    scorer = folders.open_scorer(folder).scorer
    assert isinstance(scorer, ImplicitScorer)
    assert scorer.policies.policy.model.layout == (
        "padded" if changes.get("model_type") == "bloom" else "tree"
    )
    spread = np.std(np.concatenate(expected))
    for own, found in zip(expected, scorer.score(GROUPS), strict=True):
        np.testing.assert_allclose(found, own, rtol=0, atol=1e-4 * spread)


@pytest.fixture
def scorer(base_model: Make, tmp_path: Path) -> ImplicitScorer:
    base = base_model()
    return implicit.load(named(tmp_path / "both", perturbed(base, tmp_path / "policy"), base))


def test_company_chunks_passes_and_layout_change_no_reward(scorer: ImplicitScorer) -> None:
    expected = scorer.score(GROUPS)
    spread = np.std(np.concatenate(expected))

    def same() -> None:
        for one, other in zip(scorer.score(GROUPS), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * spread)

    for group, own in zip(GROUPS, expected, strict=True):
        np.testing.assert_allclose(scorer.score([group])[0], own, rtol=0, atol=1e-4 * spread)
    scorer.chunk = 2
    same()
    scorer.max_tokens_per_pass = 80
    same()
    for _, model, _ in scorer.policies.both():
        model.layout = "padded"
    same()


def test_the_prompt_is_computed_once_for_all_its_answers(scorer: ImplicitScorer) -> None:
    passes: list[int] = []
    model = scorer.policies.policy.model
    embeddings = model.inner.get_input_embeddings()
    embeddings.register_forward_pre_hook(lambda _, ids: passes.append(ids[0].numel()))
    scorer.score([chat("Why? " * 20, "b", "cc")])
    (encoded,) = scorer.encoder.encode([chat("Why? " * 20, "b", "cc")])
    start = scorer.encoder.answer_span(chat("Why? " * 20, "b", "cc"), 0)[0]
    lengths = [len(ids) for ids in encoded.ids if ids is not None]
    assert passes == [start + sum(length - start for length in lengths)]


def test_an_answer_that_does_not_fit_is_said(scorer: ImplicitScorer) -> None:
    (scored,) = scorer.stream([chat("q", "short", "long " * 200)])
    assert np.isfinite(scored.rewards[0]) and np.isnan(scored.rewards[1])
    assert scored.reasons == (None, "longer than max_length")


@pytest.fixture
def adapter(base_model: Make, tmp_path: Path) -> tuple[Path, Path]:
    """A base and an adapter on it, as DPO trainers save them."""
    from peft import LoraConfig, get_peft_model

    base = base_model()
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear", lora_dropout=0.5)
    with store.quiet_loading():
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(tmp_path / "adapter")
    return base, tmp_path / "adapter"


def test_an_adapter_alone_is_scored_against_its_base(adapter: tuple[Path, Path], tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    base, policy = adapter
    with store.quiet_loading():
        models = [
            AutoPeftModelForCausalLM.from_pretrained(policy).eval(),
            AutoModelForCausalLM.from_pretrained(base).eval(),
        ]
    expected = by_hand(*models, AutoTokenizer.from_pretrained(base), "sum")
    for number, reference in enumerate((None, base)):
        folder = named(tmp_path / f"both{number}", policy, reference, beta=BETA)
        for own, found in zip(expected, implicit.load(folder).score(GROUPS), strict=True):
            np.testing.assert_allclose(found, own, rtol=1e-3, atol=1e-4)
        assert {check.status for check in folders.verify_folder(folder)} == {"ok"}


def test_verify_compares_with_plain_transformers(base_model: Make, tmp_path: Path) -> None:
    base = base_model()
    folder = named(tmp_path / "both", perturbed(base, tmp_path / "policy"), base, reduction="mean")
    checks = {check.name: check for check in folders.verify_folder(folder)}
    assert {check.status for check in checks.values()} == {"ok"}
    assert "ours = plain transformers" in checks and "alone = left padding" in checks


def test_verify_fails_where_policy_and_reference_are_one_model(base_model: Make, tmp_path: Path) -> None:
    base = base_model()
    (check,) = folders.verify_folder(named(tmp_path / "both", base, base))
    assert check.status == "fail" and "policy and reference are the same model" in check.detail


def test_what_cannot_be_compared_is_refused_in_one_line(
    base_model: Make, byte_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    base, tokenizer = base_model(), byte_tokenizer()
    tokenizer.add_tokens(["zebra"])
    other = base_model("other", tokenizer=tokenizer, vocab_size=260)
    store.save(store.load(ModelSettings(path=str(base))), tmp_path / "rm", RewardCard())
    lora = ModelSettings(path=str(base), lora={"r": 2})
    store.save(store.load(lora), tmp_path / "rm_adapter", RewardCard())
    for policy, reference, reason in (
        (base, None, f"{base} is a whole model: name its reference too"),
        (base, other, f"tokenizers of {base} and its reference {other} differ"),
        (tmp_path / "rm", base, "rm is a LlamaForSequenceClassification; a causal LM is needed"),
        (tmp_path / "rm_adapter", base, "rm_adapter is the adapter of a reward model"),
    ):
        with pytest.raises(ModelError, match=reason):
            implicit.load(named(tmp_path / "both", policy, reference))
    with pytest.raises(ModelError, match="which is only scored with: train the policy, by DPO"):
        store.load(ModelSettings(path=str(tmp_path / "both")))


def test_an_encoder_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is an encoder \(bert\); a decoder is needed"):
        store.load_causal(encoders.write(tmp_path / "bert"))
