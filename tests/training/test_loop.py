"""The training loop: it learns, counts, stops, skips and keeps what is best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toy
from holdtrue import job as main_job
from holdtrue.data.splits import read_splits
from holdtrue.errors import Interrupted, QualityError
from holdtrue.losses import Loss
from holdtrue.losses.bradley_terry import BradleyTerry
from holdtrue.reward import store
from holdtrue.reward.model import Batch, RewardModel
from holdtrue.rundir import RunDir, read_json
from holdtrue.settings import DataSettings, ModelSettings, Settings, TrainingSettings, build
from holdtrue.tokens.tree import Tree
from holdtrue.training import checkpoint, loop, schedules, step
from holdtrue.training.preparation import prepare
from holdtrue.training.setup import hold_master_weights

Make = Callable[..., loop.Training]


def grown(loaded: store.Loaded, path: Path) -> list[Tree]:
    groups = read_splits(DataSettings(train=[str(path)], eval_fraction=0), None).train
    return prepare(groups, loaded.encoder(), 8, "train").trees


@pytest.fixture
def make(toy_folder: Path, tmp_path: Path) -> Make:
    """A training on the toy pairs in a new run; keywords are its settings."""

    def made(model: dict[str, Any] | None = None, **values: Any) -> loop.Training:
        chosen = ModelSettings(path=str(toy_folder / "model"), **(model or {}))
        loaded = store.load(chosen, seed=1)
        hold_master_weights(loaded)
        return loop.Training(
            model=loaded.model,
            loss=BradleyTerry(),
            trees=grown(loaded, toy_folder / "train.jsonl"),
            eval_trees=grown(loaded, toy_folder / "eval.jsonl"),
            settings=TrainingSettings(**values),
            run=RunDir.create(tmp_path / f"run-{len(list(tmp_path.iterdir()))}", {}),
            seed=5,
            learning_rate=values.get("learning_rate", 2.5e-3),
        )

    return made


def rows(job: loop.Training, event: str) -> list[dict[str, Any]]:
    return [row for row in job.run.metrics() if row["event"] == event]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_a_learnable_set_is_learned_to_the_last_pair_with_the_defaults(
    toy_folder: Path, tmp_path: Path
) -> None:
    data = {
        "train": [str(toy.write_pairs(tmp_path / "train.jsonl", 600, seed=3))],
        "eval": [str(toy.write_pairs(tmp_path / "eval.jsonl", 100, seed=4))],
    }
    run = main_job.start(
        build({"data": data, "model": {"path": str(toy_folder / "model")}}), tmp_path / "run"
    )
    assert main_job.train(run)["accuracy"] == 1.0


def test_rows_of_metrics_count_what_was_trained_on(make: Make) -> None:
    job = make(num_train_epochs=2, train_batch_size=16, lr_scheduler_type="linear", warmup_ratio=0.25)
    told: list[dict[str, Any]] = []
    job.tell = told.append
    state = loop.train(job)
    train = rows(job, "train")
    assert [row["step"] for row in train] == list(range(1, state.step + 1))
    assert all(row["steps"] == state.step for row in train)
    assert train[-1]["epoch"] == 2.0
    assert train[-1]["comparisons"] == 2 * sum(len(tree.first) for tree in job.trees) == 120
    assert train[-1]["tokens"] == 2 * sum(tree.tokens for tree in job.trees)
    assert [row["learning_rate"] for row in train] == pytest.approx(
        [2.5e-3 * schedules.factor(i, state.step, job.settings) for i in range(state.step)]
    )
    assert all(row["grad_norm"] > 0 and row["skipped"] == 0 and 0 <= row["accuracy"] <= 1 for row in train)
    assert told == job.run.metrics()
    assert all(row["count"] == 20 for row in rows(job, "eval"))


def test_the_first_loss_is_that_of_the_untrained_model_on_the_first_step(make: Make) -> None:
    job = make(max_steps=1)
    from holdtrue.training import order

    first = order.steps([len(tree.first) for tree in job.trees], job.settings, 1, job.seed)[0]
    with torch.no_grad():
        sums = step.Sums()
        for batch in loop.batches(job.model, [job.trees[i] for i in first.trees], job.settings):
            out = job.model(batch)
            sums.add(step.measure(out, batch, job.loss(out, batch.targets)))
    loop.train(job)
    assert rows(job, "train")[0]["loss"] == pytest.approx(sums.metrics()["loss"], rel=1e-6)


def test_rows_are_logged_validated_and_saved_as_often_as_asked(make: Make) -> None:
    job = make(max_steps=7, logging_steps=3, eval_steps=2, save_steps=4, save_total_limit=9)
    job.settings = job.settings.model_copy(update={"load_best_model_at_end": False})
    loop.train(job)
    assert [row["step"] for row in rows(job, "train")] == [3, 6, 7]
    assert [row["step"] for row in rows(job, "eval")] == [2, 4, 6, 7]
    best = {
        row["step"]
        for i, row in enumerate(rows(job, "eval"))
        if row["loss"] == min(r["loss"] for r in rows(job, "eval")[: i + 1])
    }
    saved = {int(path.name.removeprefix("step-")) for path in job.run.checkpoints.iterdir()}
    assert saved == {4, 7} | best


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "step", "cyclical"])
def test_every_schedule_trains(make: Make, kind: str) -> None:
    job = make(max_steps=10, lr_scheduler_type=kind, warmup_ratio=0.1)
    loop.train(job)
    rates = [row["learning_rate"] for row in rows(job, "train")]
    assert rates == pytest.approx([2.5e-3 * schedules.factor(i, 10, job.settings) for i in range(10)])
    assert rows(job, "train")[-1]["loss"] < rows(job, "train")[0]["loss"]


def test_the_gradient_is_divided_by_the_weight_and_clipped_to_the_norm() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=7.0)
    parameter.grad = torch.tensor([6.0, 8.0])
    norm = loop.update([parameter], optimizer, step.Sums(loss=1.0, weight=2.0), 1.0, max_norm=1.0)
    assert norm == pytest.approx(5.0)
    assert parameter.tolist() == pytest.approx([-0.6, -0.8], rel=1e-5)
    parameter.grad = torch.tensor([6.0, 8.0])
    loop.update([parameter], optimizer, step.Sums(loss=1.0, weight=2.0), 0.1, max_norm=0.0)
    assert parameter.tolist() == pytest.approx([-0.9, -1.2], rel=1e-5)
    assert parameter.grad is None


def test_a_model_beside_another_is_clipped_by_itself_and_has_its_own_rate() -> None:
    one, other = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([{"params": [one]}, {"params": [other], "factor": 3.0}], lr=7.0)
    one.grad, other.grad = torch.tensor([0.6, 0.8]), torch.tensor([60.0, 80.0])
    sums = step.Sums(loss=1.0, weight=2.0)
    assert loop.update([one], optimizer, sums, 1.0, max_norm=1.0, beside=[other]) == pytest.approx(0.5)
    assert one.tolist() == pytest.approx([-0.3, -0.4])  # as if it were alone
    assert other.tolist() == pytest.approx([-1.8, -2.4], rel=1e-5)
    one.grad, other.grad = torch.tensor([0.6, 0.8]), torch.tensor([math.nan, 1.0])
    assert loop.update([one], optimizer, sums, 1.0, max_norm=1.0, beside=[other]) is None
    assert one.tolist() == pytest.approx([-0.3, -0.4]) and other.grad is None


@pytest.mark.parametrize(
    ("gradient", "loss"), [(math.inf, 1.0), (math.nan, 1.0), (1.0, math.nan), (1.0, math.inf)]
)
def test_an_update_that_is_not_finite_changes_nothing(gradient: float, loss: float) -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.tensor([gradient, 1.0])
    assert loop.update([parameter], optimizer, step.Sums(loss=loss, weight=1.0), 0.1, 1.0) is None
    assert parameter.tolist() == [1, 1] and parameter.grad is None and not optimizer.state


def test_only_matrices_of_the_backbone_decay(make: Make) -> None:
    job = make(weight_decay=0.3)
    named = dict(job.model.named_parameters())
    decayed, others = loop.adamw(named, job.settings).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    names = {id(p): name for name, p in named.items()}
    assert {names[id(p)].rpartition(".")[0].rpartition(".")[2] for p in others["params"]} == {
        "score",
        "norm",
        "input_layernorm",
        "post_attention_layernorm",
    }
    assert len(decayed["params"]) + len(others["params"]) == len(named)


def test_one_step_that_is_not_finite_is_skipped_counted_and_kept_and_the_run_goes_on(make: Make) -> None:
    job = make(max_steps=4, eval_steps=1)
    before: list[dict[str, Tensor]] = []

    def sometimes(model: RewardModel, loss: Loss, batches: Iterable[Batch]) -> step.Sums:
        before.append(weights(model))
        sums = step.plain(model, loss, batches)
        if len(before) == 2:
            model.head.weight.grad.fill_(math.nan)
        return sums

    job.gradient_step = sometimes
    state = loop.train(job)
    assert (state.step, state.skipped) == (4, 1)
    assert all(torch.equal(before[1][name], before[2][name]) for name in before[1])
    assert not all(torch.equal(before[2][name], before[3][name]) for name in before[2])
    assert [(row["skipped"], row["grad_norm"] is None) for row in rows(job, "train")] == [
        (0, False),
        (1, True),
        (1, False),
        (1, False),
    ]
    kept = read_json(job.run.path / "nonfinite" / "step-00000002.json")
    assert sum(len(tree["answers"]) for tree in kept) >= 16 and kept[0]["answers"][0]


@pytest.mark.parametrize("evaluated", [1, 100])
def test_a_poisoned_weight_ends_the_run_after_so_many_skipped_steps(make: Make, evaluated: int) -> None:
    job = make(max_steps=20, max_nonfinite_steps=3, eval_steps=evaluated, save_steps=1)
    with torch.no_grad():
        job.model.backbone.embed_tokens.weight.fill_(math.nan)
    with pytest.raises(QualityError, match=r"not finite in 3 steps \(last: 3\).*nonfinite") as caught:
        loop.train(job)
    assert caught.value.exit_code == 4
    assert [row["loss"] for row in rows(job, "train")] == [None, None]
    assert len(list((job.run.path / "nonfinite").iterdir())) == 3


def test_a_validation_that_is_not_finite_is_not_the_best_and_the_next_finite_one_is(make: Make) -> None:
    job = make(max_steps=1)
    state = loop.State(step=1)
    whole = weights(job.model)
    with torch.no_grad():
        job.model.head.weight.fill_(math.nan)
    loop.validate(job, state, 0.1)
    assert (state.best_step, state.best_value, state.stale) == (None, None, 1)
    with torch.no_grad():
        job.model.head.weight.copy_(whole["classifier.score.weight"])
    loop.validate(job, replace(state), 0.2)
    state.step = 2
    loop.validate(job, state, 0.2)
    assert state.best_step == 2 and state.best_value is not None and state.stale == 0


def reversed_sides(trees: Sequence[Tree]) -> list[Tree]:
    return [replace(tree, label=1 - tree.label) for tree in trees]


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_early_stopping_stops_and_the_best_weights_come_back(make: Make, metric: str) -> None:
    job = make(
        max_steps=30,
        eval_steps=2,
        early_stopping_patience=2,
        metric_for_best_model=metric,
        learning_rate=0.02,
    )
    job.eval_trees = reversed_sides(job.trees)  # what is learned makes it worse
    state = loop.train(job)
    evals = rows(job, "eval")
    values = [row["loss"] if metric == "loss" else -row["accuracy"] for row in evals]
    best = values.index(min(values))
    assert state.stopped_early and state.step < 30
    assert (state.best_step, len(evals)) == (evals[best]["step"], best + 3)
    found, _ = checkpoint.read(checkpoint.folder_of(job.run, state.best_step))
    last, _ = checkpoint.read(checkpoint.folder_of(job.run, state.step))
    now = weights(job.model)
    assert all(torch.equal(now[name], tensor) for name, tensor in found["model"].items())
    assert not all(torch.equal(now[name], tensor) for name, tensor in last["model"].items())


def test_the_last_weights_stay_where_the_best_are_not_asked_for(make: Make) -> None:
    job = make(max_steps=6, eval_steps=1, load_best_model_at_end=False, learning_rate=0.02)
    job.eval_trees = reversed_sides(job.trees)
    state = loop.train(job)
    assert state.best_step is not None and state.best_step < state.step == 6
    last, _ = checkpoint.read(checkpoint.folder_of(job.run, 6))
    assert all(torch.equal(weights(job.model)[name], tensor) for name, tensor in last["model"].items())


def test_asking_to_stop_saves_the_step_that_was_done(make: Make) -> None:
    job = make(max_steps=9, save_steps=100)
    job.stop = lambda: len(rows(job, "train")) >= 3
    with pytest.raises(Interrupted, match="stopped after step 4 of 9"):
        loop.train(job)
    assert checkpoint.newest(job.run)[0] == 4


def test_asking_to_stop_in_the_last_step_is_no_interruption(make: Make) -> None:
    job = make(max_steps=1)
    job.stop = lambda: True
    assert loop.train(job).step == 1


def passes_through_layers(job: loop.Training) -> int:
    """How often a layer computes in the gradient of one step."""
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    loop.training_mode(job.model, job.settings)
    handle = job.model.backbone.layers[0].mlp.register_forward_pre_hook(count)  # recomputing stops inside it
    step.plain(job.model, job.loss, loop.batches(job.model, job.trees, job.settings))
    handle.remove()
    return calls


@pytest.mark.parametrize("model", [{}, {"lora": {"r": 4}}])
@pytest.mark.parametrize("disable_dropout", [True, False])
def test_recomputed_activations_give_the_same_gradient_and_are_recomputed(
    make: Make, model: dict[str, Any], disable_dropout: bool
) -> None:
    kept, recomputed = (make(model, disable_dropout=disable_dropout) for _ in range(2))
    recomputed.model.recompute_activations()
    recomputed.model.inner.enable_input_require_grads()
    assert passes_through_layers(kept) == 1
    assert passes_through_layers(recomputed) == 2
    for (name, one), other in zip(kept.model.named_parameters(), recomputed.model.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-7, msg=name)


def test_adapters_train_head_and_adapters_and_nothing_else(make: Make) -> None:
    job = make({"lora": {"r": 4}}, max_steps=3)
    before = weights(job.model)
    loop.train(job)
    changed = {name for name, tensor in weights(job.model).items() if not torch.equal(tensor, before[name])}
    trainable = {name for name, p in job.model.named_parameters() if p.requires_grad}
    assert changed == trainable
    assert all("lora_" in name or "score.modules_to_save" in name for name in changed)
    assert {"q_proj", "v_proj", "down_proj"} <= {part for name in changed for part in name.split(".")}
    assert any("score" in name for name in changed)


def rewards_twice(job: loop.Training) -> tuple[Tensor, Tensor]:
    loop.training_mode(job.model, job.settings)
    batch = job.model.batch(job.trees[:4])
    with torch.no_grad():
        return job.model(batch).rewards, job.model(batch).rewards


def test_the_dropout_of_adapters_is_at_work_although_the_model_s_is_off(make: Make) -> None:
    job = make({"lora": {"r": 4, "dropout": 0.5}})
    with torch.no_grad():
        for name, parameter in job.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    assert not torch.equal(*rewards_twice(job))
    assert torch.equal(*rewards_twice(make({"lora": {"r": 4}})))


def test_frozen_weights_held_in_bfloat16_train_adapters_and_head_in_float32(make: Make) -> None:
    job = make({"lora": {"r": 4}, "dtype": "bfloat16"}, num_train_epochs=4, learning_rate=0.02)
    types = {(p.requires_grad, p.dtype) for p in job.model.parameters()}
    assert (True, torch.float32) in types and (False, torch.bfloat16) in types
    assert (True, torch.bfloat16) not in types
    loop.train(job)
    train = rows(job, "train")
    assert train[-1]["loss"] < 0.7 * train[0]["loss"] and train[-1]["skipped"] == 0


def test_autocast_keeps_weights_and_head_in_float32_and_learns(make: Make) -> None:
    job = make(num_train_epochs=6, learning_rate=0.01)
    job.model.bf16 = True
    assert job.model(job.model.batch(job.trees[:2])).rewards.dtype == torch.float32
    loop.train(job)
    assert {p.dtype for p in job.model.parameters()} == {torch.float32}
    assert rows(job, "train")[-1]["accuracy"] > 0.9


def test_a_merged_adapter_scores_as_the_adapter_did(toy_folder: Path, tmp_path: Path) -> None:
    scores = {}
    for merge in (False, True):
        values = {
            "data": {"train": [str(toy_folder / "train.jsonl")], "eval": [str(toy_folder / "eval.jsonl")]},
            "model": {"path": str(toy_folder / "model"), "lora": {"r": 4, "merge": merge}},
            "training": {"max_steps": 3},
        }
        settings: Settings = build(values)
        run = main_job.start(settings, tmp_path / f"merge-{merge}")
        main_job.train(run)
        assert (run.model / "adapter_config.json").exists() == (not merge)
        loaded = store.load(ModelSettings(path=str(run.model)))
        trees = grown(loaded, toy_folder / "eval.jsonl")
        with torch.no_grad():
            scores[merge] = loaded.model(loaded.model.batch(trees)).rewards
    torch.testing.assert_close(scores[True], scores[False], rtol=1e-4, atol=1e-5)
