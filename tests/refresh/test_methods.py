"""Every method runs end to end on the support desk, and refuses what it cannot work with in one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from holdtrue import kinds
from holdtrue.errors import DataError, HoldtrueError, Interrupted, ModelError, SettingsError
from holdtrue.records import Comparison, Group
from holdtrue.refresh.context import RefreshContext
from holdtrue.refresh.labels import recorded
from holdtrue.refresh.methods import FAMILY, named
from holdtrue.reward import store
from holdtrue.reward.ensemble import EnsembleScorer
from holdtrue.reward.folders import open_scorer
from holdtrue.reward.scorer import RewardScorer
from holdtrue.rundir import RunDir, read_jsonl
from holdtrue.settings import ModelSettings, build

Make = Callable[..., RefreshContext]
CHOICES = ("random", "uncertainty", "disagreement", "d_optimal", "shift")
ALL: list[dict[str, Any]] = [
    *({"kind": name} for name in kinds.names(FAMILY) if name not in ("fresh_labels", "self_train")),
    *({"kind": "fresh_labels", "choose": choose, "members": 2} for choose in CHOICES),
    {"kind": "self_train", "threshold": 0.5},
    {"kind": "metarm", "order": "second", "scope": "head"},
    {"kind": "metarm", "preset": "paper"},
    {"kind": "metarm", "step": "adam", "sign": -1},
]
SHIFTED = {"metarm", "joint", "self_train", "adversarial", "fresh_labels"}


def weights(scorer: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in scorer.loaded.model.named_parameters()}


def text(values: dict[str, Any]) -> str:
    return "-".join(map(str, values.values()))


@pytest.mark.parametrize("method", ALL, ids=text)
def test_every_method_gives_a_scorer_that_is_also_saved(make: Make, method: dict[str, Any]) -> None:
    context = make()
    scorer, report = named(method)(context)
    assert report.method == method["kind"] and report.seconds >= 0
    assert report.labels == (6 if method["kind"] == "fresh_labels" else 0)
    rewards = scorer.score(context.shifted)
    assert all(np.isfinite(own).all() for own in rewards)
    if method["kind"] == "none":
        assert report.model is None and scorer is context.current
        return
    assert report.model == context.folder / "model"
    saved = open_scorer(report.model).scorer.score(context.shifted)
    np.testing.assert_allclose(np.concatenate(saved), np.concatenate(rewards), atol=1e-5)
    assert report.comparisons >= 32
    assert build({"model": {"path": str(report.model)}})  # a plain path, as settings take it
    assert all(value is None or np.isfinite(value) for value in report.as_json()["numbers"].values())


def test_the_control_is_another_model_for_another_seed_and_the_same_for_the_same(make: Make) -> None:
    first, again, other = (named("retrain")(make(seed=seed))[0] for seed in (3, 3, 4))
    assert all(torch.equal(p, weights(again)[name]) for name, p in weights(first).items())
    assert not torch.equal(first.loaded.model.head.weight, other.loaded.model.head.weight)


def test_a_finished_refresh_is_read_and_an_interrupted_one_goes_on(make: Make, tmp_path: Path) -> None:
    settings = make().settings
    often = settings.model_copy(update={"training": settings.training.model_copy(update={"save_steps": 1})})
    method = named({"kind": "metarm", "order": "second"})
    straight = method(make(settings=often, folder=tmp_path / "a"))[0]
    seen: list[int] = []
    part = make(
        settings=often, folder=tmp_path / "b", tell=lambda row: seen.append(1), stop=lambda: len(seen) > 2
    )
    with pytest.raises(Interrupted):
        method(part)
    rest = method(replace(part, stop=lambda: False))[0]
    assert all(torch.equal(p, weights(rest)[name]) for name, p in weights(straight).items())
    told: list[int] = []
    method(replace(part, stop=lambda: False, tell=lambda row: told.append(1)))
    assert not told
    with pytest.raises(SettingsError, match="holds a refresh with other seed, order"):
        method(replace(part, seed=9))


@pytest.mark.parametrize("method", sorted(SHIFTED))
def test_methods_that_need_new_answers_say_so(make: Make, method: str) -> None:
    with pytest.raises(DataError, match=f"{method} needs answers of the current policy") as error:
        named(method)(make(shifted=()))
    assert "\n" not in str(error.value)
    single = [replace(group, answers=group.answers[:1]) for group in make().shifted]
    with pytest.raises(DataError, match="sample two or more of each, got 1"):
        named(method)(make(shifted=single))


@pytest.mark.parametrize(
    ("method", "values", "error", "said"),
    [
        ("fresh_labels", {"labeller": None}, SettingsError, "the context has no labeller"),
        ("fresh_labels", {"budget": 0}, SettingsError, "budget must be 1 or more, got 0"),
        ("fresh_labels", {"labeller": lambda groups: []}, DataError, "gave 0 labels for 6 pairs"),
        ("fresh_labels", {"labeller": lambda g: [None] * len(g)}, DataError, "no label for any of 6 pairs"),
        (
            "fresh_labels",
            {"labeller": lambda g: [Comparison(0, 2)] * len(g)},
            DataError,
            "compares answers 0 and 1",
        ),
        ("importance", {"pair_log_ratios": None}, DataError, "the context has none"),
        ("importance", {"pair_log_ratios": [np.zeros(3)]}, DataError, "one number for each answer"),
        ("importance", {"pair_log_ratios": [np.full(2, np.nan)] * 32}, DataError, "needs finite"),
        ("retrain", {"pairs": ()}, DataError, "the context holds no comparison"),
        (
            "retrain",
            {"settings": build({"training": {"parallel": "fsdp"}})},
            SettingsError,
            r"set training\.parallel to data",
        ),
    ],
)
def test_a_context_that_lacks_something_is_refused_in_one_line(
    make: Make, method: str, values: dict[str, Any], error: type[HoldtrueError], said: str
) -> None:
    with pytest.raises(error, match=said) as raised:
        named(method)(make(**values))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("method", kinds.names(FAMILY))
def test_a_reward_model_that_gives_no_numbers_is_refused(make: Make, desk: Path, method: str) -> None:
    broken = RewardScorer(store.load(ModelSettings(path=str(desk)), seed=5))
    with torch.no_grad():
        broken.loaded.model.head.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"no finite number for \d+ of \d+ answers"):
        named(method)(make(current=broken))


def test_lora_is_asked_for_where_the_inner_step_is_to_move_adapters_only(make: Make) -> None:
    with pytest.raises(SettingsError, match=r"scope lora: .* set model\.lora"):
        named({"kind": "metarm", "scope": "lora"})(make())


def test_what_the_second_order_cannot_differentiate_is_refused() -> None:
    with pytest.raises(SettingsError, match="order second goes with step normalised or raw"):
        named({"kind": "metarm", "order": "second", "step": "adam"})


def test_the_papers_preset_is_overridden_field_by_field_and_inert_steps_are_told(make: Make) -> None:
    paper = named({"kind": "metarm", "preset": "paper", "prompts": 2})
    assert (paper.order, paper.step, paper.answers, paper.prompts) == ("first", "raw", 5, 2)
    tiny = named({"kind": "metarm", "preset": "paper", "size": 1e-9})
    _, report = tiny(make())
    assert "numerically inert" in report.warnings[0] and report.numbers["relative_step"] < 1e-6


def test_the_first_member_of_an_ensemble_is_the_control(make: Make) -> None:
    context = make()
    scorer, _ = named({"kind": "ensemble", "members": 2})(context)
    assert isinstance(scorer, EnsembleScorer)
    control, _ = named("retrain")(make())
    np.testing.assert_array_equal(
        np.concatenate(scorer.scorers[0].score(context.shifted)),
        np.concatenate(control.score(context.shifted)),
    )


def test_members_whose_weights_are_averaged_begin_with_one_head(make: Make) -> None:
    _, report = named({"kind": "weight_average", "members": 3})(make())
    assert report.numbers["least_head_cosine"] > 0.9


def test_fresh_labels_can_come_from_a_file(make: Make) -> None:
    context = make()
    flipped = [replace(group, comparisons=(Comparison(1, 0), Comparison(2, 1))) for group in context.shifted]
    _, report = named("fresh_labels")(make(labeller=recorded(flipped), budget=8))
    assert 0 < report.labels < 8
    assert report.counts["pairs without a label"] == 8 - report.labels


def test_bought_labels_count_so_many_times_beside_the_pairs_those_of_before_too(make: Make) -> None:
    known = make().pairs
    pairs, bought = known[:24], known[24:]
    heavy = [replace(g, comparisons=(replace(g.comparisons[0], weight=4.0),)) for g in pairs]

    def refreshed(weight: float, pairs: Any) -> Any:
        context = make(pairs=pairs, bought=bought, pair_log_ratios=None)
        scorer, report = named({"kind": "fresh_labels", "weight": weight})(context)
        assert report.comparisons == 24 + 8 + 6
        return np.concatenate(scorer.score(context.shifted))

    plain = refreshed(1, pairs)
    np.testing.assert_allclose(refreshed(4, heavy), plain, atol=1e-5)  # all alike: only ratios count
    assert np.abs(refreshed(4, pairs) - plain).max() > 1e-3


@pytest.mark.parametrize("choose", ["disagreement", "d_optimal"])
def test_labels_bought_before_are_known_to_what_chooses_the_next(make: Make, choose: str) -> None:
    known = make().pairs
    both = [*known[24:], *known[:24]] if choose == "disagreement" else known
    found = []
    for given in ({"pairs": known[24:], "bought": known[:24]}, {"pairs": both}):
        context = make(pair_log_ratios=None, **given)
        named({"kind": "fresh_labels", "choose": choose, "members": 2})(context)
        members = [RunDir(path).settings()["rows"] for path in sorted(context.folder.glob("member-*"))]
        found.append((list(read_jsonl(context.folder / "labels.jsonl")), members))
    assert found[0] == found[1] and len(found[0][0]) == 6


def test_junk_that_pays_is_taught_to_lose(make: Make) -> None:
    context = make()
    _, report = named({"kind": "adversarial", "share": 0.1})(context)
    assert report.counts["junk used"] == 3  # a tenth of 32, rounded
    assert report.comparisons == 32 + 3 + report.counts.get("of them used", 0)


def test_listing_and_building_methods_loads_no_torch() -> None:
    code = (
        "import sys; from holdtrue import kinds; from holdtrue.refresh.methods import FAMILY, named\n"
        "for name in kinds.names(FAMILY): named(name)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rows_of_a_group_without_comparisons_are_allowed_beside_others(make: Make) -> None:
    context = make()
    bare = [*context.pairs, Group(context.pairs[0].prompt, context.pairs[0].answers)]
    _, report = named("retrain")(make(pairs=bare))
    assert report.comparisons == 32
