"""Which losses train which kinds of models, and what is said where they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import families
import said
from holdtrue import kinds
from holdtrue.cli import main
from holdtrue.errors import SettingsError
from holdtrue.losses import FAMILY, compatible, kinds_of, losses_of, require_compatible
from holdtrue.losses.aspect_regression import AspectRegression
from holdtrue.losses.bradley_terry import BradleyTerry
from holdtrue.losses.cross_entropy import CrossEntropy
from holdtrue.losses.mse import Mse
from holdtrue.reward.kinds import ComparingKind
from holdtrue.reward.kinds.aspects import Aspects
from holdtrue.reward.kinds.odin import Odin
from holdtrue.reward.kinds.scalar import Scalar
from holdtrue.reward.kinds.two_class import TwoClass
from holdtrue.reward.language import LanguageHead
from holdtrue.reward.model import RewardModel

LOSSES: list[Any] = [kinds.load(FAMILY, name)() for name in kinds.names(FAMILY)]
KINDS: list[Any] = [
    kinds.load("holdtrue.reward.kinds", name)() for name in kinds.names("holdtrue.reward.kinds")
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name())
def test_every_loss_trains_at_least_one_kind(loss: Any) -> None:
    assert kinds_of(loss)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name())
def test_every_kind_has_at_least_one_loss(kind: Any) -> None:
    assert losses_of(kind)


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if not isinstance(k, ComparingKind)], ids=lambda kind: kind.name()
)
def test_all_losses_of_a_kind_that_rewards_give_it_a_gradient(kind: Any) -> None:
    classifier = families.classifier("llama")
    classifier.score = torch.nn.Linear(32, len(kind.labels), bias=False)
    model = RewardModel(classifier, 0, kind).eval()
    model.examine()
    if "logprobs" in kind.gives:
        model.language_head = LanguageHead(torch.nn.Linear(32, 97, bias=False))
    for name in losses_of(kind):
        loss: Any = kinds.load(FAMILY, name)()
        batch = model.batch(said.trees())
        model.zero_grad()
        found = loss(model(batch), batch.targets)
        (found.terms * found.weights).sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert found.weights.sum() > 0 and all(g.isfinite().all() for g in gradients), name
        assert model.head.weight.grad.abs().max() > 0, name


def test_a_loss_that_does_not_fit_names_what_is_missing_and_the_kinds_that_would_do() -> None:
    with pytest.raises(SettingsError) as error:
        require_compatible(Scalar(), CrossEntropy())
    assert str(error.value) == (
        "loss cross_entropy reads logits (refused, accepted), which model.kind scalar does not give; "
        "set model.kind to one it trains: two_class"
    )
    require_compatible(TwoClass(), CrossEntropy())


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name())
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name())
def test_every_pair_either_fits_or_says_what_would(kind: Any, loss: Any) -> None:
    if compatible(kind, loss):
        require_compatible(kind, loss)
        return
    with pytest.raises(SettingsError) as error:
        require_compatible(kind, loss)
    assert str(error.value).endswith("set model.kind to one it trains: " + ", ".join(kinds_of(loss)))


def test_a_rating_per_output_is_needed_where_outputs_are_trained_on_ratings() -> None:
    assert compatible(Aspects(names=["helpful", "true"]), AspectRegression())
    # else the one rating would be taken for the target of both classes, or of quality and length
    assert not compatible(TwoClass(), AspectRegression()) and not compatible(Odin(), AspectRegression())


def test_several_ratings_are_not_taken_for_the_one_of_the_reward() -> None:
    several = Aspects(names=["helpful", "true"])
    assert compatible(several, BradleyTerry()) and compatible(Aspects(names=["helpful"]), Mse())
    with pytest.raises(SettingsError, match=r"one rating per answer; .* rated in helpful, true"):
        require_compatible(several, Mse())


def test_a_run_of_a_pair_that_does_not_fit_ends_before_data_and_model_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()  # neither could be read
    (tmp_path / "rows.jsonl").write_text("garbage")
    line = ["train", str(tmp_path / "rows.jsonl"), "--model", str(tmp_path / "model")]
    code = main.run([*line, "-o", str(tmp_path / "run"), "--set", "loss=cross_entropy"])
    assert code == 2 and "set model.kind to one it trains: two_class" in capsys.readouterr().err


def test_a_probability_is_not_taken_for_a_logit() -> None:
    probability = TwoClass(reward="probability")
    for loss in LOSSES:
        if compatible(TwoClass(), loss):
            assert compatible(probability, loss) == (loss.name() in ("cross_entropy", "mse", "huber", "rmse"))
    with pytest.raises(SettingsError, match=r"rewards for logits, .* two_class as it is set are bounded"):
        require_compatible(probability, kinds.load(FAMILY, "binary_cross_entropy")())  # type: ignore[arg-type]
