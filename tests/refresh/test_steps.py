"""MetaRM's step against exact derivatives, and all that it must leave alone.

The derivatives are checked on a tiny model in float64, the rest on a decoder.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

import refreshing
from holdtrue.losses import Loss
from holdtrue.losses.bradley_terry import BradleyTerry
from holdtrue.records import Comparison
from holdtrue.refresh.context import RefreshContext
from holdtrue.refresh.difference import difference
from holdtrue.refresh.methods import named
from holdtrue.refresh.samples import Samples, plant
from holdtrue.refresh.steps import Joint, Lookahead, in_scope
from holdtrue.reward import store
from holdtrue.reward.model import Batch, RewardOutput
from holdtrue.settings import LoraSettings, ModelSettings, TrainingSettings
from holdtrue.tokens.batches import pad
from holdtrue.tokens.tree import Tree, grow
from holdtrue.training import loop
from holdtrue.training.distributed import World
from holdtrue.training.preparation import prepare
from holdtrue.training.step import Sums, plain
from refreshing import METHODS, refresh_in

Make = Callable[..., RefreshContext]
ROOMY, NARROW = (TrainingSettings(max_tokens_per_pass=n) for n in (10_000, 1))


class Tiny(nn.Module):
    """Reward w·tanh(mean embedding): smooth, in float64, and what the loop packs batches by."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(20, 6)
        self.middle = nn.Linear(6, 6)
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(6, 1, bias=False)
        self.double()

    device = torch.device("cpu")
    layout = "padded"

    @property
    def head_weights(self) -> dict[str, nn.Parameter]:
        return {"weight": self.score.weight}

    def size(self, tree: Tree) -> int:
        return tree.real_tokens

    def pack(self, trees: Sequence[Tree], budget: int) -> list[list[int]]:
        return [list(range(len(trees)))] if budget > 1 else [[i] for i in range(len(trees))]

    def batch(self, trees: Sequence[Tree]) -> Batch:
        return pad(trees, 0)

    def forward(self, batch: Batch) -> RewardOutput:
        mask = batch.attention_mask.to(self.score.weight.dtype)[..., None]
        mean = (self.embedding(batch.input_ids) * mask).sum(1) / mask.sum(1)
        return RewardOutput(rewards=self.score(self.dropout(torch.tanh(self.middle(mean))))[:, 0])


def trees(count: int, answers: int, seed: int, compared: bool) -> list[Tree]:
    rng = np.random.default_rng(seed)
    said = [Comparison(0, 1)] if compared else []
    return [
        grow([rng.integers(1, 20, rng.integers(3, 8)).astype(np.int32) for _ in range(answers)], said)
        for _ in range(count)
    ]


PAIRS, META = trees(16, 2, 1, True), trees(4, 4, 2, False)


def samples(settings: TrainingSettings = ROOMY, prompts: int = 4) -> Samples:
    return Samples(META, prompts, settings, 0, World())


def lookahead(size: float, **options: Any) -> Lookahead:
    settings = options.pop("settings", ROOMY)
    return Lookahead(plain, samples(settings), size, **options)


def gradient(step: Any, model: Any, settings: TrainingSettings = ROOMY) -> list[Tensor]:
    """Of the mean loss, as the loop takes it."""
    model.zero_grad()
    sums = step(model, BradleyTerry(), loop.batches(model, PAIRS, settings))
    return [p.grad / sums.weight for p in model.parameters()]


def flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


class Exact:
    """Loss and J of the tiny model as functions of one vector of parameters, with exact derivatives."""

    def __init__(self, model: Tiny) -> None:
        self.model = model
        self.names = [(name, p.shape, p.numel()) for name, p in model.named_parameters()]
        self.theta = flat(model.parameters())

    def rewards(self, theta: Tensor, given: list[Tree]) -> Tensor:
        parts = torch.split(theta, [count for _, _, count in self.names])
        weights = {n: part.view(shape) for (n, shape, _), part in zip(self.names, parts, strict=True)}
        return functional_call(self.model, weights, (pad(given, 0),)).rewards

    def loss(self, theta: Tensor) -> Tensor:
        rewards = self.rewards(theta, PAIRS).view(-1, 2)
        return nn.functional.softplus(rewards[:, 1] - rewards[:, 0]).mean()

    def difference(self, theta: Tensor) -> Tensor:
        return torch.stack([difference(own) for own in self.rewards(theta, META).view(4, 4)]).mean()

    def gradient(self, value: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
        theta = at.clone().requires_grad_()
        return torch.autograd.grad(value(theta), theta)[0]

    def curved(self, value: Callable[[Tensor], Tensor], direction: Tensor) -> Tensor:
        """Hessian at θ times a direction, by double backward."""
        theta = self.theta.clone().requires_grad_()
        slope = torch.autograd.grad(value(theta), theta, create_graph=True)[0]
        return torch.autograd.grad(slope @ direction, theta)[0]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# --- the mathematics -------------------------------------------------------------------------------


def test_the_first_order_gradient_is_that_of_the_loss_plus_eta_times_its_hessian_times_that_of_J() -> None:
    model = Tiny()
    exact, eta = Exact(model), 1e-4
    slope = exact.gradient(exact.loss, exact.theta)
    bend = exact.curved(exact.loss, exact.gradient(exact.difference, exact.theta))
    found = flat(gradient(lookahead(eta, step="raw"), model))
    assert relative(found, slope + eta * bend) < 1e-8
    assert relative((found - slope) / eta, bend) < 1e-3  # the term MetaRM adds, by itself
    turned = flat(gradient(lookahead(eta, step="raw", sign=-1), model))
    assert relative((turned - slope) / -eta, bend) < 1e-3


def test_the_second_order_gradient_adds_the_hessian_of_J() -> None:
    model, eta = Tiny(), 0.3
    exact = Exact(model)
    first = flat(gradient(lookahead(eta, step="raw"), model))
    second = flat(gradient(lookahead(eta, step="raw", second_order=True), model))
    assert relative((second - first) / eta, exact.curved(exact.difference, first)) < 1e-2


def test_the_normalised_step_has_the_length_asked_for_and_the_adam_step_that_in_each_weight() -> None:
    model = Tiny()
    before = flat(model.parameters())
    seen: list[Tensor] = []

    def look(model: Any, loss: Loss, batches: Iterable[Batch]) -> Sums:
        seen.append(flat(model.parameters()) - before)
        return plain(model, loss, batches)

    for step in ("normalised", "adam"):
        gradient(Lookahead(look, samples(), 0.2, step=step), model)
    exact = Exact(model)
    slope = exact.gradient(exact.difference, exact.theta)
    assert relative(seen[0], 0.2 * slope / slope.norm()) < 1e-9
    clear = slope.abs() > 1e-5
    torch.testing.assert_close(seen[1][clear], 0.2 * slope[clear].sign(), rtol=2e-3, atol=0)


def test_a_step_of_first_order_lowers_J_against_the_plain_step_to_leading_order() -> None:
    model = Tiny()
    exact = Exact(model)
    ahead = exact.gradient(exact.difference, exact.theta)
    assert ahead @ exact.curved(exact.loss, ahead) > 0  # the loss bends upwards along it
    moved = flat(gradient(lookahead(1e-3, step="raw"), model))
    vanilla = flat(gradient(plain, model))
    assert exact.difference(exact.theta - 0.1 * moved) < exact.difference(exact.theta - 0.1 * vanilla)


def test_the_joint_gradient_is_that_of_the_loss_less_lambda_times_that_of_J() -> None:
    model = Tiny()
    exact = Exact(model)
    expected = exact.gradient(exact.loss, exact.theta) - 0.7 * exact.gradient(exact.difference, exact.theta)
    for settings in (ROOMY, NARROW):
        found = gradient(Joint(plain, samples(settings), 0.7), model, settings)
        assert relative(flat(found), expected) < 1e-10


@pytest.mark.parametrize("second", [False, True])
def test_passes_do_not_change_the_gradient(second: bool) -> None:
    model = Tiny()
    whole = flat(gradient(lookahead(0.2, second_order=second), model, ROOMY))
    parts = flat(gradient(lookahead(0.2, second_order=second, settings=NARROW), model, NARROW))
    assert relative(parts, whole) < 1e-10


# --- what it leaves alone --------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_step_of_length_0_gives_the_plain_gradient_bit_for_bit(dropout: float) -> None:
    model = Tiny(dropout)
    torch.manual_seed(3)
    expected = gradient(plain, model)
    torch.manual_seed(3)
    found = gradient(lookahead(0.0), model)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_metarm_of_length_0_is_the_control_bit_for_bit(make: Make) -> None:
    control, _ = named("retrain")(make())
    still, _ = named({"kind": "metarm", "size": 0.0})(make())
    moved, _ = named({"kind": "metarm", "size": 0.3})(make())
    one, other, third = (dict(s.loaded.model.named_parameters()) for s in (control, still, moved))
    assert all(torch.equal(p, other[name]) for name, p in one.items())
    assert not all(torch.equal(p, third[name]) for name, p in one.items())


@pytest.mark.parametrize("second", [False, True])
def test_parameters_are_restored_bit_for_bit_and_held_gradients_kept(second: bool) -> None:
    model = Tiny().float()
    before = [p.detach().clone() for p in model.parameters()]
    gradient(lookahead(0.37, second_order=second), model)
    assert all(torch.equal(p, kept) for p, kept in zip(model.parameters(), before, strict=True))
    held = [p.grad.clone() for p in model.parameters()]
    samples().gradient(model, META, list(model.parameters()))
    assert all(torch.equal(p.grad, kept) for p, kept in zip(model.parameters(), held, strict=True))


def test_parameters_are_restored_when_the_loss_raises() -> None:
    model = Tiny().float()
    before = [p.detach().clone() for p in model.parameters()]

    def breaks(model: Any, loss: Loss, batches: Iterable[Batch]) -> Sums:
        assert not torch.equal(model.score.weight, before[-1])
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        gradient(Lookahead(breaks, samples(), 0.5), model)
    assert all(torch.equal(p, kept) for p, kept in zip(model.parameters(), before, strict=True))
    assert all(p.requires_grad for p in model.parameters())


def test_the_optimisers_moments_see_only_the_gradient_at_the_displaced_point() -> None:
    model = Tiny()
    parameters = dict(model.named_parameters())
    optimizer = loop.adamw(parameters, TrainingSettings(weight_decay=0.0))
    expected = gradient(lookahead(0.2), model)
    model.zero_grad()
    sums = lookahead(0.2)(model, BradleyTerry(), loop.batches(model, PAIRS, ROOMY))
    assert not optimizer.state
    loop.update(list(parameters.values()), optimizer, sums, 1e-3, max_norm=0.0)
    for parameter, own in zip(parameters.values(), expected, strict=True):
        torch.testing.assert_close(optimizer.state[parameter]["exp_avg"], 0.1 * own, rtol=1e-12, atol=0)


@pytest.mark.parametrize("scope", ["head", "lora", "all"])
def test_only_weights_in_scope_are_moved_and_all_are_trained(make: Make, desk: Path, scope: Any) -> None:
    loaded = store.load(ModelSettings(path=str(desk), lora=LoraSettings(r=2)), seed=1)
    model, context = loaded.model, make()
    for name, p in model.named_parameters():  # fresh adapters begin at B = 0, where A has no gradient
        if ".lora_B" in name:
            torch.nn.init.normal_(p)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    moved: set[str] = set()

    def look(model: Any, loss: Loss, batches: Iterable[Batch]) -> Sums:
        moved.update(name for name, p in model.named_parameters() if not torch.equal(p, before[name]))
        return plain(model, loss, batches)

    encoder = loaded.encoder()
    meta, _ = plant(context.shifted, encoder, 3)
    pairs = prepare(list(context.pairs), encoder, 8, "train").trees
    step = Lookahead(look, Samples(meta, 4, ROOMY, 0, World()), 0.1, scope=scope)
    step(model, BradleyTerry(), loop.batches(model, pairs, ROOMY))
    adapters = {name for name in before if ".lora_" in name}
    heads = {name for name in before if ".score." in name and "original" not in name}
    assert moved == {"head": heads, "lora": adapters, "all": heads | adapters}[scope]
    assert {id(p) for p in in_scope(model, scope)} == {
        id(p) for name, p in model.named_parameters() if name in moved
    }
    graded = {name for name, p in model.named_parameters() if p.grad is not None}
    assert graded == heads | adapters


def test_adapters_are_refreshed_end_to_end(make: Make, desk: Path) -> None:
    settings = make().settings
    model = settings.model.model_copy(update={"lora": LoraSettings(r=2)})
    context = make(settings=settings.model_copy(update={"model": model}))
    scorer, _ = named({"kind": "metarm", "scope": "lora"})(context)
    assert all(np.isfinite(own).all() for own in scorer.score(context.shifted))


# --- the meta set ----------------------------------------------------------------------------------


def test_all_answers_of_a_prompt_are_leaves_of_one_tree(make: Make, desk: Path) -> None:
    context = make()
    encoder = store.load(ModelSettings(path=str(desk))).encoder()
    twice = replace(context.shifted[0], answers=context.shifted[0].answers[:1] * 3)
    planted, left_out = plant([*context.shifted, twice], encoder, 8)
    assert [len(tree.answers) for tree in planted] == [3] * 9  # equal answers are kept as well
    assert all(len(tree.prompt) > 5 for tree in planted) and not left_out
    assert [len(tree.answers) for tree in plant(context.shifted, encoder, 2)[0]] == [2] * 8


def test_every_prompt_is_drawn_once_a_pass_and_a_resumed_run_draws_on() -> None:
    drawn = samples(prompts=3)
    seen = [drawn.draw() for _ in range(4)]
    flat = [id(tree) for batch in seen for tree in batch]
    assert all(len(set(flat[i : i + 4])) == 4 for i in (0, 4, 8))
    resumed = replace(samples(prompts=3), step=2)
    assert [id(t) for t in resumed.draw()] == [id(t) for t in seen[2]]


# --- several processes -----------------------------------------------------------------------------


def test_two_processes_give_the_model_of_one(desk: Path, tmp_path: Path) -> None:
    refresh_in(None, desk, tmp_path / "one")
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    line += [refreshing.__file__, str(desk)]
    done = subprocess.run(
        [*line, str(tmp_path / "two")], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in (str(method["kind"]) for method in METHODS):
        one, two = (
            load_file(tmp_path / who / name / "model" / "model.safetensors") for who in ("one", "two")
        )
        for key, expected in one.items():
            torch.testing.assert_close(two[key], expected, rtol=1e-3, atol=1e-4, msg=f"{name} {key}")
