"""Losses whose items depend on each other: the gradient is that of the whole step, however it is cut up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

import families
import said
from holdtrue import job, kinds
from holdtrue.losses import FAMILY, Loss, compatible
from holdtrue.reward.kinds import RewardKind
from holdtrue.reward.kinds.odin import Odin
from holdtrue.reward.kinds.scalar import Scalar
from holdtrue.reward.model import Batch, RewardModel
from holdtrue.settings import TrainingSettings, build
from holdtrue.training import coupled, loop, step
from holdtrue.training.distributed import World

ALL: list[Any] = [kinds.load(FAMILY, name)() for name in kinds.names(FAMILY)]
COUPLED: list[Loss] = [loss for loss in ALL if loss.coupled]
every = pytest.mark.parametrize("loss", COUPLED, ids=lambda loss: loss.name())


def kind_for(loss: Loss) -> RewardKind:
    return Scalar() if compatible(Scalar(), loss) else Odin()


def model_for(loss: Loss, family: str = "llama", **changes: Any) -> RewardModel:
    """A tiny random model that reads trees, with as many outputs as the loss needs."""
    kind = kind_for(loss)
    classifier = families.classifier(family, **changes)
    generator = torch.Generator().manual_seed(1)
    classifier.score = torch.nn.Linear(32, len(kind.labels), bias=False)
    torch.nn.init.normal_(classifier.score.weight, std=0.2, generator=generator)
    model = RewardModel(classifier, 0, kind).eval()
    model.examine()
    assert model.layout == "tree"
    return model


def batches(model: RewardModel, max_tokens_per_pass: int, idle: int = 0) -> list[Batch]:
    settings = TrainingSettings(max_tokens_per_pass=max_tokens_per_pass)
    made = list(loop.batches(model, said.trees(), settings))
    for _ in range(idle):
        made.append(model.batch(said.trees()[:1]))
        made[-1].targets.silence()
    return made


def gradient(model: RewardModel, loss: Loss, made: Sequence[Batch], world: World | None = None) -> Any:
    """Sums and gradients as the loop takes them, before they are divided by the weight."""
    model.zero_grad()
    sums = coupled.gradient_step(loss, world or World())(model, loss, iter(made))
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return sums, found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-4) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    assert largest > 0
    for name, wanted in expected.items():
        assert float((found[name].double() - wanted).abs().max()) < tolerance * largest, name


def whole_in_float64(loss: Loss) -> tuple[float, dict[str, Tensor]]:
    """Σ weight·term of one graph over all trees: plain transformers in float64, one sequence at a time."""
    plain = model_for(loss).classifier.double()
    plain.set_attn_implementation("eager")
    states = [
        plain.model(torch.from_numpy(ids.astype(np.int64))[None]).last_hidden_state[0, -1]
        for ids in families.sequences_of(said.trees())
    ]
    hidden = torch.stack(states)
    out = kind_for(loss).read(plain.score(hidden), hidden, torch.arange(len(hidden)))
    terms = loss(out, model_for(loss).batch(said.trees()).targets)
    total = (terms.terms * terms.weights).sum()
    total.backward()
    return total.item(), {
        f"classifier.{n}": p.grad for n, p in plain.named_parameters() if p.grad is not None
    }


@every
@pytest.mark.parametrize("max_tokens_per_pass", [1, 40, 100_000])
def test_the_gradient_is_that_of_one_graph_however_many_tokens_go_into_a_pass(
    loss: Loss, max_tokens_per_pass: int
) -> None:
    model = model_for(loss)
    made = batches(model, max_tokens_per_pass)
    assert len(made) == {1: 7, 40: 3, 100_000: 1}[max_tokens_per_pass]
    sums, found = gradient(model, loss, made)
    total, expected = whole_in_float64(loss)
    assert sums.loss == pytest.approx(total, rel=1e-4)
    assert_same(found, expected)


@every
def test_what_is_measured_does_not_depend_on_the_passes_either(loss: Loss) -> None:
    model = model_for(loss)
    one, many = (gradient(model, loss, batches(model, size))[0] for size in (100_000, 40))
    assert many.values() == pytest.approx(one.values(), rel=1e-4)
    evaluated = [coupled.evaluate(model, loss, batches(model, size), World()) for size in (100_000, 40)]
    for sums in evaluated:
        assert sums.values() == pytest.approx(one.values(), rel=1e-4)


@every
def test_idle_batches_change_nothing(loss: Loss) -> None:
    model = model_for(loss)
    sums, expected = gradient(model, loss, batches(model, 40))
    idle_sums, found = gradient(model, loss, batches(model, 40, idle=2))
    assert idle_sums.values() == pytest.approx(sums.values(), rel=1e-5)
    assert_same(found, expected)


@every
def test_dropout_falls_the_same_way_in_both_computations_of_a_pass(loss: Loss) -> None:
    model = model_for(loss, "gpt2", resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.0).train()
    made = batches(model, 40)
    torch.manual_seed(7)
    sums, found = gradient(model, loss, made)
    after = torch.get_rng_state()
    model.zero_grad()
    torch.manual_seed(7)
    outs = [model(batch) for batch in made]  # one graph over all passes
    terms = loss(coupled._join(outs), sum((b.targets for b in made[1:]), start=made[0].targets))
    total = (terms.terms * terms.weights).sum()
    total.backward()  # type: ignore[no-untyped-call]
    assert sums.loss == pytest.approx(total.item(), rel=1e-5)
    assert_same(found, {n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert torch.equal(after, torch.get_rng_state())  # the next step draws on
    assert gradient(model, loss, made)[0].loss != pytest.approx(total.item(), rel=1e-3)  # it does fall


def test_losses_of_independent_items_are_computed_pass_by_pass() -> None:
    assert all((coupled.gradient_step(loss, World()) is step.plain) != loss.coupled for loss in ALL)
    assert {"rmse", "sum_to_zero", "odin", "contrastive"} <= {loss.name() for loss in COUPLED}


def _process(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    world = World(rank, 2)
    try:
        for loss in COUPLED:
            model = model_for(loss)
            made = list(loop.batches(model, said.trees(), TrainingSettings(max_tokens_per_pass=28), world))
            silent = sum(not batch.targets.counted.any() for batch in made)
            sums, _ = gradient(model, loss, made, world)
            totals = world.total(sums.values())
            parameters = [p for p in model.parameters() if p.requires_grad]
            world.sum_gradients(parameters)
            grads = {name: p.grad for name, p in model.named_parameters()}
            torch.save((totals, grads, silent), folder / f"{loss.name()}-{rank}")
    finally:
        dist.destroy_process_group()


def test_two_processes_have_the_gradient_of_one_also_when_one_of_them_idles(tmp_path: Path) -> None:
    mp.spawn(_process, (tmp_path,), nprocs=2)  # type: ignore[no-untyped-call]
    for loss in COUPLED:
        both = [torch.load(tmp_path / f"{loss.name()}-{rank}") for rank in (0, 1)]
        assert sum(silent for *_, silent in both) == 1
        model = model_for(loss)
        sums, expected = gradient(model, loss, batches(model, 100_000))
        for totals, found, _ in both:
            assert totals == pytest.approx(sums.values(), rel=1e-4)
            assert_same(found, expected)


def test_training_with_a_coupled_loss_does_not_depend_on_the_passes(toy_folder: Path, tmp_path: Path) -> None:
    def curve(name: str, max_tokens_per_pass: int) -> list[float]:
        values = {
            "data": {"train": [str(toy_folder / "train.jsonl")], "eval": [str(toy_folder / "eval.jsonl")]},
            "model": {"path": str(toy_folder / "model")},
            "loss": {"kind": "sum_to_zero", "zero": 1.0},
            "training": {"max_steps": 3, "eval_steps": 1, "max_tokens_per_pass": max_tokens_per_pass},
        }
        run = job.start(build(values), tmp_path / name)
        job.train(run)
        return [row["loss"] for row in run.metrics()]

    many, few = curve("many", 60), curve("few", 8192)
    assert len(many) == 6 and many == pytest.approx(few, abs=1e-5)
