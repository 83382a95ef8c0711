"""The gradient of a step is that of the mean loss over its comparisons, however they are computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import AutoModelForSequenceClassification

import toy
from holdtrue.data.splits import read_splits
from holdtrue.losses.bradley_terry import BradleyTerry
from holdtrue.reward import store
from holdtrue.reward.model import RewardModel
from holdtrue.settings import ModelSettings, TrainingSettings
from holdtrue.tokens.tree import Tree
from holdtrue.training import loop, step
from holdtrue.training.preparation import prepare

ROWS = [
    {**row, "weight": [1.0, 2.5, 0.5][i % 3], "label": [1.0, 0.8, 0.5][i % 3], "margin": i % 2}
    for i, row in enumerate(toy.pairs(24))
]


@pytest.fixture(scope="module")
def loaded(toy_folder: Path) -> store.Loaded:
    return store.load(ModelSettings(path=str(toy_folder / "model")), seed=3)


@pytest.fixture(scope="module")
def trees(loaded: store.Loaded, tmp_path_factory: pytest.TempPathFactory) -> list[Tree]:
    return grown(loaded, toy.write_pairs(tmp_path_factory.mktemp("rows") / "a.jsonl", 0, rows=ROWS))


def grown(loaded: store.Loaded, path: Path, max_answers: int = 8) -> list[Tree]:
    from holdtrue.settings import DataSettings

    groups = read_splits(DataSettings(train=[str(path)], eval_fraction=0), None).train
    prepared = prepare(groups, loaded.encoder(), max_answers, "train")
    assert not prepared.dropped
    return prepared.trees


def gradient(model: RewardModel, trees: Sequence[Tree], max_tokens_per_pass: int = 8192) -> dict[str, Tensor]:
    """The gradient as the loop takes it: summed pass by pass, divided once."""
    settings = TrainingSettings(max_tokens_per_pass=max_tokens_per_pass)
    model.zero_grad()
    sums = step.plain(model, BradleyTerry(), loop.batches(model, trees, settings))
    return {
        name.removeprefix("classifier."): p.grad / sums.weight
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-4) -> None:
    assert one.keys() == other.keys()
    for name, expected in other.items():
        error = (one[name] - expected).abs().max() / expected.abs().max().clamp_min(1e-8)
        assert error < tolerance, name


def by_hand(folder: Path, head: Tensor, trees: Sequence[Tree]) -> dict[str, Tensor]:
    """The gradient of Σ w·loss / Σ w through plain transformers, one conversation at a time."""
    plain: Any = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    plain.config.pad_token_id = 0
    plain.eval()
    with torch.no_grad():
        plain.score.weight.copy_(head)
    losses, weights = [], []
    for tree in trees:
        rewards = [
            plain(input_ids=torch.tensor([[*tree.prompt, *answer]])).logits[0, 0] for answer in tree.answers
        ]
        rows = zip(tree.first, tree.second, tree.label, tree.weight, tree.margin, strict=True)
        for first, second, label, weight, margin in rows:
            gap = rewards[first] - rewards[second]
            loss = -float(label) * logsigmoid(gap - float(margin)) - (1 - float(label)) * logsigmoid(
                -gap - float(margin)
            )
            losses.append(float(weight) * loss)
            weights.append(float(weight))
    (torch.stack(losses).sum() / sum(weights)).backward()
    return {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}


def test_the_gradient_is_that_of_the_mean_loss_through_plain_transformers(
    loaded: store.Loaded, trees: list[Tree], toy_folder: Path
) -> None:
    assert loaded.model.layout == "tree"
    head = loaded.model.head.weight.detach()
    assert_same(gradient(loaded.model, trees), by_hand(toy_folder / "model", head, trees))


@pytest.mark.parametrize("max_tokens_per_pass", [1, 50, 100_000])
def test_the_gradient_does_not_depend_on_how_many_tokens_go_into_a_pass(
    loaded: store.Loaded, trees: list[Tree], max_tokens_per_pass: int
) -> None:
    assert_same(gradient(loaded.model, trees, max_tokens_per_pass), gradient(loaded.model, trees, 200))


def test_the_gradient_does_not_depend_on_the_order_of_the_trees(
    loaded: store.Loaded, trees: list[Tree]
) -> None:
    assert_same(gradient(loaded.model, trees[::-1], 100), gradient(loaded.model, trees, 100))


def test_the_gradient_does_not_depend_on_how_many_answers_share_a_tree(
    loaded: store.Loaded, trees: list[Tree], tmp_path: Path
) -> None:
    split = grown(loaded, toy.write_pairs(tmp_path / "a.jsonl", 0, rows=ROWS), max_answers=2)
    assert len(split) == len(ROWS) > len(trees)
    assert_same(gradient(loaded.model, split), gradient(loaded.model, trees))


def test_the_padded_layout_gives_the_gradient_of_the_trees(
    loaded: store.Loaded, trees: list[Tree], toy_folder: Path
) -> None:
    classifier = AutoModelForSequenceClassification.from_pretrained(toy_folder / "model", num_labels=1)
    padded = RewardModel(classifier, pad_id=0)
    padded.head.load_state_dict(loaded.model.head.state_dict())
    assert padded.layout == "padded"
    assert_same(gradient(padded.eval(), trees, 120), gradient(loaded.model, trees))


def test_a_comparison_of_weight_zero_gives_no_gradient_and_counts_nowhere(
    loaded: store.Loaded, tmp_path: Path
) -> None:
    rows = toy.pairs(6)
    ignored = [{**row, "weight": 0.0} for row in toy.pairs(3, seed=9)]
    alone = grown(loaded, toy.write_pairs(tmp_path / "a.jsonl", 0, rows=rows))
    mixed = grown(loaded, toy.write_pairs(tmp_path / "b.jsonl", 0, rows=rows + ignored))
    assert_same(gradient(loaded.model, mixed), gradient(loaded.model, alone))
    one, other = sums(loaded, mixed), sums(loaded, alone)
    assert one.values() == pytest.approx(other.values(), rel=1e-5)


def test_sums_are_those_of_rewards_computed_by_hand(loaded: store.Loaded, tmp_path: Path) -> None:
    rows = [{**row, "label": label} for row, label in zip(toy.pairs(4), (1.0, 0.0, 0.5, 0.7), strict=True)]
    trees = grown(loaded, toy.write_pairs(tmp_path / "a.jsonl", 0, rows=rows), max_answers=2)
    with torch.no_grad():
        pairs = [loaded.model(loaded.model.batch([tree])).rewards.tolist() for tree in trees]
    gaps = [first - second for first, second in pairs]
    signs = [1, -1, 0, 1]
    found = sums(loaded, trees)
    assert (found.comparisons, found.decided, found.answers, found.weight) == (4, 3, 8, 4)
    assert found.correct == sum(gap * sign > 0 for gap, sign in zip(gaps, signs, strict=True))
    assert found.gap == pytest.approx(sum(g * s for g, s in zip(gaps, signs, strict=True)), rel=1e-4)
    every = [reward for pair in pairs for reward in pair]
    mean = sum(every) / 8
    metrics = found.metrics()
    assert metrics["reward_mean"] == pytest.approx(mean, rel=1e-4)
    assert metrics["reward_std"] == pytest.approx((sum((r - mean) ** 2 for r in every) / 8) ** 0.5, rel=1e-4)
    assert metrics["accuracy"] == found.correct / 3


def sums(loaded: store.Loaded, trees: Sequence[Tree]) -> step.Sums:
    def batches() -> Iterator[Any]:
        yield loaded.model.batch(trees)

    return step.plain(loaded.model, BradleyTerry(), batches())


def test_sums_of_nothing_are_zeros_and_accuracy_of_nothing_is_not_a_number() -> None:
    metrics = step.Sums().metrics()
    assert [metrics[name] for name in ("loss", "reward_mean", "reward_std")] == [0.0, 0.0, 0.0]
    assert math.isnan(metrics["accuracy"]) and math.isnan(metrics["margin"])
