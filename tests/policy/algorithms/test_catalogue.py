"""What holds of every algorithm, whatever it is: a new one is tested here without being named."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from functools import reduce
from operator import add

import pytest
import torch
from torch import Tensor

import policy_steps as steps
from holdtrue import kinds
from holdtrue.errors import SettingsError
from holdtrue.policy.algorithms import FAMILY, Algorithm
from holdtrue.policy.inputs import LossInputs, Mean, Scored

EXTRAS = {"kl_coef": 0.1, "entropy_coef": 0.01}
ALGORITHMS: dict[str, Algorithm] = {}
for _name in kinds.names(FAMILY):
    _cls = kinds.load(FAMILY, _name)
    ALGORITHMS[_name] = _cls()  # type: ignore[assignment]
    for _where, _estimator in (("reward", "k1"), ("loss", "k2"), ("loss", "k3")):
        _fields = EXTRAS | {"kl_in": _where, "kl_estimator": _estimator}
        ALGORITHMS[f"{_name}-{_where}-{_estimator}"] = _cls(**_fields)  # type: ignore[assignment]
every = pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)


def made(algorithm: Algorithm, seed: int = 0, drift: float = 0.2) -> tuple[Scored, LossInputs]:
    scored = steps.scored(seed)
    advantages = algorithm.advantages(scored)
    return scored, steps.inputs(seed, scored, advantages, algorithm.returns(scored), drift)


def leaves(inputs: LossInputs) -> list[Tensor]:
    found = [inputs.logprobs, inputs.values, inputs.entropy]
    return [leaf for leaf in found if leaf is not None]


def gradients(algorithm: Algorithm, inputs: LossInputs, over: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(algorithm.loss(inputs).loss.value, over, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, over, strict=True)]


@every
def test_advantages_and_loss_are_finite_and_rows_that_are_not_kept_have_none(algorithm: Algorithm) -> None:
    scored, inputs = made(algorithm)
    assert inputs.advantages.shape in {scored.rewards.shape, scored.mask.shape}
    assert inputs.advantages.isfinite().all()
    assert not inputs.advantages[~scored.keep].any()
    out = algorithm.loss(inputs)
    assert out.loss.total.isfinite() and out.loss.weight > 0
    assert all(mean.value.isfinite() and not mean.total.requires_grad for mean in out.metrics.values())
    assert {"policy_loss", "ratio", "clip_fraction", "approx_kl", "kl", "entropy"} <= set(out.metrics)
    for gradient in gradients(algorithm, inputs, leaves(inputs)):
        assert gradient.isfinite().all()
        assert not gradient[~inputs.mask].any()


@every
def test_gradients_are_the_finite_differences(algorithm: Algorithm) -> None:
    _, inputs = made(algorithm, seed=3)
    mine = gradients(algorithm, inputs, leaves(inputs))
    step = 1e-6
    for name, gradient in zip(("logprobs", "values", "entropy"), mine, strict=True):
        leaf = getattr(inputs, name).detach()
        for place in inputs.mask.nonzero()[::5].tolist():
            moved = []
            for sign in (1, -1):
                there = leaf.clone()
                there[tuple(place)] += sign * step
                moved.append(algorithm.loss(replace(inputs, **{name: there})).loss.value.item())
            assert gradient[tuple(place)].item() == pytest.approx(
                (moved[0] - moved[1]) / (2 * step), abs=1e-7
            )


@every
@pytest.mark.parametrize("filler", [math.nan, math.inf, -1e30])
def test_padding_moves_nothing_whatever_it_holds(algorithm: Algorithm, filler: float) -> None:
    scored, inputs = made(algorithm)
    wide = replace(scored, **steps.pad(scored, 3, filler))
    advantages = algorithm.advantages(wide)
    if advantages.ndim == 2:
        assert not advantages[:, -3:].any()
        advantages = advantages[:, :-3]
    assert torch.allclose(advantages, inputs.advantages, atol=1e-12)  # sums in another order
    wider = replace(inputs, **steps.pad(inputs, 3, filler))
    assert algorithm.loss(wider).loss.value.item() == pytest.approx(algorithm.loss(inputs).loss.value.item())
    for gradient in gradients(algorithm, wider, leaves(inputs)):
        assert gradient.isfinite().all()


@every
def test_what_a_row_that_is_not_kept_holds_moves_nothing(algorithm: Algorithm) -> None:
    scored, inputs = made(algorithm)
    broken = {
        name: torch.where(
            scored.keep.view(-1, *[1] * (value.ndim - 1)), value, torch.full_like(value, math.nan)
        )
        for name, value in vars(scored).items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    assert torch.equal(algorithm.advantages(replace(scored, **broken)), inputs.advantages)
    without = replace(inputs, **steps.select(inputs, scored.keep))
    assert algorithm.loss(without).loss.value.item() == pytest.approx(
        algorithm.loss(inputs).loss.value.item()
    )


@every
def test_the_order_of_groups_and_rows_moves_nothing(algorithm: Algorithm) -> None:
    scored, inputs = made(algorithm)
    order = torch.tensor([2, 0, 3, 1])[:, None] * steps.GROUP + torch.tensor([1, 2, 0])
    rows = order.flatten()
    turned = algorithm.advantages(replace(scored, **steps.select(scored, rows)))
    assert torch.allclose(turned, inputs.advantages[rows], atol=1e-12)
    shuffled = replace(inputs, **steps.select(inputs, rows))
    assert algorithm.loss(shuffled).loss.value.item() == pytest.approx(
        algorithm.loss(inputs).loss.value.item()
    )


@every
@pytest.mark.parametrize("parts", [2, 3, 12])
def test_micro_batches_add_up_to_the_whole_step(algorithm: Algorithm, parts: int) -> None:
    _, inputs = made(algorithm)
    whole = algorithm.loss(inputs)
    cuts = torch.arange(len(inputs.mask)).chunk(parts)
    pieces = [algorithm.loss(replace(inputs, **steps.select(inputs, rows))) for rows in cuts]
    total = reduce(add, (piece.loss for piece in pieces))
    assert total.value.item() == pytest.approx(whole.loss.value.item())
    summed = torch.autograd.grad(sum(piece.loss.total for piece in pieces) / total.weight, inputs.logprobs)[0]
    assert torch.allclose(summed, gradients(algorithm, inputs, [inputs.logprobs])[0], atol=1e-14)
    for name, mean in whole.metrics.items():
        added: Mean = reduce(add, (piece.metrics[name] for piece in pieces))
        assert added.value.item() == pytest.approx(mean.value.item())


@every
def test_a_micro_batch_without_a_token_adds_nothing(algorithm: Algorithm) -> None:
    _, inputs = made(algorithm)
    empty = algorithm.loss(replace(inputs, mask=torch.zeros_like(inputs.mask)))
    assert empty.loss.total == 0 and empty.loss.weight == 0 and empty.loss.value == 0


@every
def test_on_the_policy_that_sampled_nothing_is_clipped(algorithm: Algorithm) -> None:
    _, inputs = made(algorithm, drift=0.0)
    metrics = {name: mean.value.item() for name, mean in algorithm.loss(inputs).metrics.items()}
    assert metrics["ratio"] == 1 and metrics["clip_fraction"] == 0 and metrics["approx_kl"] == 0


@every
def test_a_policy_that_ran_far_away_has_a_finite_loss_and_gradient(algorithm: Algorithm) -> None:
    _, inputs = made(algorithm)
    for far in (-500.0, 500.0):
        moved = replace(inputs, logprobs=(inputs.old_logprobs + far).float().requires_grad_())
        (gradient,) = gradients(algorithm, moved, [moved.logprobs])
        assert algorithm.loss(moved).loss.value.isfinite() and gradient.isfinite().all()


@every
def test_what_is_needed_is_said_and_all_that_is_needed(algorithm: Algorithm) -> None:
    scored, inputs = made(algorithm)
    if "values" not in algorithm.needs:
        scored = replace(scored, old_values=None)
        inputs = replace(inputs, values=None, old_values=None, returns=None)
    if "reference_logprobs" not in algorithm.needs:
        scored = replace(scored, reference_logprobs=None, old_logprobs=None)
        inputs = replace(inputs, reference_logprobs=None)
    if "entropy" not in algorithm.needs:
        inputs = replace(inputs, entropy=None)
    assert torch.equal(algorithm.advantages(scored), inputs.advantages)
    assert algorithm.loss(inputs).loss.value.isfinite()


@pytest.mark.parametrize("name", kinds.names(FAMILY))
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kl_coef": 0.1, "kl_in": "loss", "kl_estimator": "k1"}, "k1 in the loss has no gradient"),
        ({"kl_coef": 0.0, "kl_target": 6.0}, "kl_coef must be above 0"),
        ({"clip_low": 1.5}, "clip_low"),
        ({"clip": 0.2}, "clip"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, fields: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        kinds.choose(FAMILY, {"kind": name, **fields}, None)


def test_the_controller_begins_at_the_coefficient() -> None:
    controller = kinds.load(FAMILY, "ppo")(kl_coef=0.2, kl_target=6.0).controller()  # type: ignore[attr-defined]
    assert (controller.coef, controller.target, controller.horizon) == (0.2, 6.0, 10_000)


def test_choosing_an_algorithm_loads_no_torch() -> None:
    code = (
        "import sys; from holdtrue import kinds\n"
        f"for name in kinds.names({FAMILY!r}): kinds.load({FAMILY!r}, name)()\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
