"""What holds of every loss, whatever it is: a new one is tested here without being named.

Its inputs are made from what the class says of itself: the fields it reads, its target and its labels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import Tensor

from holdtrue import kinds
from holdtrue.losses import FAMILY, Loss
from holdtrue.reward.model import RewardOutput
from holdtrue.tokens.batches import Targets

ANSWERS, WIDTH = [3, 2, 4, 2], 5
PER_TOKEN = {"values", "logprobs"}
OF_ANSWERS = ("ratings", "accepted", "length", "marks", "tree", "counted")
OF_COMPARISONS = ("first", "second", "label", "weight", "margin", "shared")
LOSSES: dict[str, Loss] = {name: kinds.load(FAMILY, name)() for name in kinds.names(FAMILY)}  # type: ignore[misc]
every = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
independent = pytest.mark.parametrize(
    "loss", [x for x in LOSSES.values() if not x.coupled], ids=[n for n, x in LOSSES.items() if not x.coupled]
)
coupled = pytest.mark.parametrize(
    "loss", [x for x in LOSSES.values() if x.coupled], ids=[n for n, x in LOSSES.items() if x.coupled]
)


@dataclass
class Case:
    """What a loss reads, as leaves of a graph, and the targets beside it."""

    read: dict[str, Tensor]
    targets: Targets

    def total(self, loss: Loss) -> tuple[Tensor, Tensor]:
        """Σ weight·term and Σ weight."""
        ends = self.targets.length.cumsum(0)
        packed = {"offsets": torch.cat([ends.new_zeros(1), ends])} if PER_TOKEN & set(self.read) else {}
        found = loss(RewardOutput(**self.read, **packed), self.targets)
        assert found.terms.shape == found.weights.shape and found.terms.ndim == 1
        return (found.terms * found.weights).sum(), found.weights.sum()

    def gradients(self, loss: Loss) -> dict[str, Tensor]:
        for value in self.read.values():
            value.grad = None
        self.total(loss)[0].backward()  # type: ignore[no-untyped-call]
        return {n: torch.zeros_like(v) if v.grad is None else v.grad for n, v in self.read.items()}

    def __add__(self, other: Case) -> Case:
        read = {name: torch.cat([self.read[name], other.read[name]]) for name in self.read}
        return Case({n: v.detach().requires_grad_() for n, v in read.items()}, self.targets + other.targets)


def case(
    loss: Loss, seed: int = 0, answers: list[int] | None = None, dtype: torch.dtype = torch.float64
) -> Case:
    """Random trees of so many answers, each compared with the one after it, with all that raters can say."""
    answers = ANSWERS if answers is None else answers
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random, dtype=torch.float64).to(dtype)

    count = sum(answers)
    starts = [sum(answers[:i]) for i in range(len(answers))]
    first = [start + i for start, n in zip(starts, answers, strict=True) for i in range(n - 1)]
    pairs = torch.tensor(first, dtype=torch.int64)
    columns = len(loss.labels) if loss.labels else 2
    length = torch.randint(2, 7, (count,), generator=random)
    labels = torch.tensor([1.0, 0.0, 0.5, 0.8, 1.0], dtype=dtype)
    targets = Targets(
        first=pairs,
        second=pairs + 1,
        label=labels.repeat(1 + len(first))[: len(first)],
        weight=draw(len(first)) + 0.1,
        margin=draw(len(first)),
        shared=torch.randint(0, 2, (len(first),), generator=random),
        ratings=4 * draw(count, columns),
        accepted=(3 * draw(count)).floor() / 2,  # 0, 0.5 or 1
        length=length,
        marks=torch.arange(count) % 3 + 1,
        steps=draw(int((torch.arange(count) % 3 + 1).sum())).round(),
        tree=torch.repeat_interleave(torch.arange(len(answers)), torch.tensor(answers, dtype=torch.int64)),
        counted=torch.ones(count, dtype=dtype),
    )
    shapes = {
        "rewards": (count,),
        "logits": (count, columns),
        "hidden": (count, WIDTH),
        "steps": (int(targets.marks.sum()),),
        **dict.fromkeys(PER_TOKEN, (int(length.sum()),)),
    }
    names = {"rewards" if name == "gap" else name for name in loss.reads}  # what has rewards has gaps
    read = {name: (4 * draw(*shapes[name]) - 2).requires_grad_() for name in sorted(names)}
    return Case(read, targets)


def same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    for found, expected in zip(one, other, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@every
def test_gradients_are_the_finite_differences(loss: Loss) -> None:
    made = case(loss)

    def value(*read: Tensor) -> Tensor:
        return Case(dict(zip(made.read, read, strict=True)), made.targets).total(loss)[0]

    assert torch.autograd.gradcheck(value, tuple(made.read.values()), eps=1e-6, atol=1e-6)


@every
@pytest.mark.parametrize("size", [0.0, 90.0, 1e4])
@pytest.mark.parametrize("signs", [[1], [1, -1], [-1, 1, 1]], ids=["all alike", "in turn", "by threes"])
def test_values_and_gradients_are_finite_at_extreme_gaps(loss: Loss, size: float, signs: list[int]) -> None:
    made = case(loss, dtype=torch.float32)
    with torch.no_grad():
        for name, value in made.read.items():
            pattern = torch.tensor(signs).repeat(len(value))[: len(value)]
            value.copy_(size * pattern.reshape(-1, *[1] * (value.ndim - 1)).to(value.dtype))
            if name == "logprobs":
                value.copy_(-value.abs())
    assert all(number.isfinite() for number in made.total(loss))
    assert all(gradient.isfinite().all() for gradient in made.gradients(loss).values())


@every
def test_the_order_of_answers_comparisons_and_trees_changes_nothing(loss: Loss) -> None:
    made = case(loss)
    said = made.targets
    random = torch.Generator().manual_seed(1)
    order = torch.randperm(len(said.length), generator=random)
    pairs = torch.randperm(len(said.first), generator=random)
    trees = torch.randperm(len(ANSWERS), generator=random)
    place = order.argsort()
    moved = {name: getattr(said, name)[order] for name in OF_ANSWERS}
    moved |= {name: getattr(said, name)[pairs] for name in OF_COMPARISONS}
    moved |= {"tree": trees[moved["tree"]], "first": place[moved["first"]], "second": place[moved["second"]]}

    def rows(name: str, value: Tensor) -> Tensor:
        parts = value.split(_counts(name, said).tolist())
        return torch.cat([parts[i] for i in order])

    moved["steps"] = rows("steps", said.steps)
    other = Case({name: rows(name, value) for name, value in made.read.items()}, Targets(**moved))
    same(other.total(loss), made.total(loss))


@pytest.mark.parametrize(
    "loss",
    [x for x in LOSSES.values() if x.target == "comparisons"],
    ids=[n for n, x in LOSSES.items() if x.target == "comparisons"],
)
def test_swapping_the_sides_of_comparisons_with_their_labels_changes_nothing(loss: Loss) -> None:
    made = case(loss)
    said = made.targets
    swapped = replace(said, first=said.second, second=said.first, label=1 - said.label)
    same(Case(made.read, swapped).total(loss), made.total(loss))


@every
def test_a_batch_that_is_silenced_changes_nothing_and_gets_no_gradient(loss: Loss) -> None:
    made, idle = case(loss), case(loss, seed=1)
    idle.targets.silence()
    both = made + idle
    same(both.total(loss), made.total(loss))
    expected = made.gradients(loss)
    for name, gradient in both.gradients(loss).items():
        own = len(expected[name])
        torch.testing.assert_close(gradient[:own], expected[name], rtol=1e-9, atol=1e-12)
        assert not gradient[own:].any()


@every
def test_nothing_but_silence_is_a_loss_of_zero(loss: Loss) -> None:
    made = case(loss)
    made.targets.silence()
    value, weight = made.total(loss)
    assert value == 0 and weight == 0
    assert not any(gradient.any() for gradient in made.gradients(loss).values())


@every
def test_single_items_of_weight_zero_are_as_if_they_were_not_there(loss: Loss) -> None:
    made, alone = case(loss, answers=[2, 3, 2]), case(loss, answers=[2, 3, 2])
    made.targets.weight[1] = 0  # of the first two answers of the middle tree
    made.targets.counted[3] = 0  # of the second one
    before = made.total(loss)
    with torch.no_grad():
        for name, value in made.read.items():
            if loss.target == "comparisons":  # answer 2 stands in no other comparison
                rows = _rows(name, made.targets, 2)
            else:
                rows = _rows(name, made.targets, 3)
            value[rows] += 3.0
    same(made.total(loss), before)
    assert before[1] < alone.total(loss)[1] or loss.unit == "prompt"


def _counts(name: str, targets: Targets) -> Tensor:
    """(N,) rows each answer has in a field."""
    if name == "steps":
        return targets.marks
    return targets.length if name in PER_TOKEN else torch.ones_like(targets.length)


def _rows(name: str, targets: Targets, answer: int) -> slice:
    counts = _counts(name, targets)
    ends = counts.cumsum(0)
    return slice(int(ends[answer] - counts[answer]), int(ends[answer]))


@every
def test_what_raters_did_not_say_never_leaks(loss: Loss) -> None:
    made = case(loss)
    made.targets.ratings[[0, 4]] = torch.nan
    made.targets.ratings[7, 0] = torch.nan
    made.targets.accepted[[0, 4]] = torch.nan
    for answer in (0, 4):
        made.targets.steps[_rows("steps", made.targets, answer)] = torch.nan
    assert all(number.isfinite() for number in made.total(loss))
    gradients = made.gradients(loss)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    if loss.target != "comparisons":
        for name, gradient in gradients.items():
            assert not any(gradient[_rows(name, made.targets, answer)].any() for answer in (0, 4))
        assert any(gradient.any() for gradient in gradients.values())


@every
def test_nothing_said_at_all_is_a_loss_of_zero(loss: Loss) -> None:
    made = case(loss)
    made.targets.ratings.fill_(torch.nan)
    made.targets.accepted.fill_(torch.nan)
    made.targets.steps.fill_(torch.nan)
    value, weight = made.total(loss)
    assert value.isfinite()
    if loss.target != "comparisons":
        assert value == 0 and weight == 0


@independent
def test_a_batch_cut_in_two_has_the_same_sums_and_gradients(loss: Loss) -> None:
    one, other = case(loss), case(loss, seed=1)
    both = one + other
    parts = zip(one.total(loss), other.total(loss), strict=True)
    same(both.total(loss), tuple(a + b for a, b in parts))  # type: ignore[arg-type]
    parts_of = one.gradients(loss), other.gradients(loss)
    for name, gradient in both.gradients(loss).items():
        expected = torch.cat([part[name] for part in parts_of])
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


@coupled
def test_a_coupled_loss_is_another_one_when_cut_in_two(loss: Loss) -> None:
    one, other = case(loss), case(loss, seed=1)
    whole, _ = (one + other).total(loss)
    assert not torch.isclose(whole, one.total(loss)[0] + other.total(loss)[0])


@every
@pytest.mark.parametrize("answers", [[], [1], [1, 1]], ids=["no answers", "one answer", "two prompts"])
def test_a_batch_without_comparisons_has_a_loss_too(loss: Loss, answers: list[int]) -> None:
    made = case(loss, answers=answers)
    value, weight = made.total(loss)
    assert value.isfinite()
    if loss.target == "comparisons":
        assert value == 0 and weight == 0
    assert all(gradient.isfinite().all() for gradient in made.gradients(loss).values())


@every
def test_the_inputs_are_left_as_they_were(loss: Loss) -> None:
    made, again = case(loss), case(loss)
    made.gradients(loss)
    for column in fields(Targets):
        assert torch.equal(getattr(made.targets, column.name), getattr(again.targets, column.name))
    assert all(torch.equal(made.read[name], again.read[name]) for name in made.read)


@pytest.mark.parametrize("loss", [x for x in LOSSES.values() if "gap" in x.reads], ids=lambda x: x.name())
def test_gaps_a_model_gives_itself_count_as_those_of_rewards(loss: Loss) -> None:
    made = case(loss)
    rewards, targets = made.read["rewards"], made.targets
    gap = (rewards[targets.first] - rewards[targets.second]).detach()
    found = loss(RewardOutput(gap=gap), targets)
    same(((found.terms * found.weights).sum(), found.weights.sum()), made.total(loss))


@every
def test_a_model_that_does_not_give_what_is_read_is_refused(loss: Loss) -> None:
    made = case(loss)
    for name in made.read:
        rest = Case({n: v for n, v in made.read.items() if n != name}, made.targets)
        with pytest.raises(ValueError, match=f"reads {name}"):
            rest.total(loss)


@every
def test_it_says_what_it_computes_what_it_needs_and_when_to_choose_it(loss: Loss) -> None:
    import importlib
    import inspect

    page = inspect.getdoc(importlib.import_module(type(loss).__module__)) or ""
    assert "Needs " in page and "hoose " in page and "=" in page
    assert ";" in (type(loss).__doc__ or "").partition("\n")[0], "one line: what it is; when to choose it"
