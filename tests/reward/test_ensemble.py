"""Ensembles: combinations against numbers made by hand, and folders that score, verify and refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import encoders
from holdtrue.errors import DataError, ModelError
from holdtrue.records import Answer, Group, Message
from holdtrue.reward import folders, members, store
from holdtrue.reward.card import RewardCard
from holdtrue.reward.ensemble import Combination, Ensemble, EnsembleScorer, Scaled, combine, scale_of
from holdtrue.reward.scorer import RewardScorer
from holdtrue.settings import LoraSettings, ModelSettings

Make = Callable[..., Path]
SCALES = ((0.5, 2.0), (-1.0, 0.25))


def chat(question: str, *answers: str) -> Group:
    return Group(
        (Message("user", question),), tuple(Answer((Message("assistant", text),)) for text in answers)
    )


GROUPS = [chat("Why?", "Because.", "No idea."), chat("How?", "Well", "so " * 300), chat("Who?", "me")]


@pytest.fixture
def models(base_model: Make, tmp_path: Path) -> list[Path]:
    """Two models with heads of different seeds, of different kinds."""
    base = base_model()
    for seed, kind in ((1, "scalar"), (2, "two_class")):
        loaded = store.load(ModelSettings(path=str(base), kind=kind), seed=seed)
        store.save(loaded, tmp_path / f"m{seed}", RewardCard())
    return [tmp_path / "m1", tmp_path / "m2"]


def named(paths: Sequence[Path], by: Combination, folder: Path, penalty: float = 1.0) -> Path:
    scaled = tuple(
        Scaled(**members.Member.of(path).model_dump(), mean=mean, std=std)
        for path, (mean, std) in zip(paths, SCALES, strict=True)
    )
    made = Ensemble(members=scaled, combine=by, penalty=penalty, scale="data")
    members.write(made, folder, members.ENSEMBLE)
    return folder


@pytest.mark.parametrize(
    ("by", "expected"),
    # over the two members: mean 2, 3, 0; std (dividing by 2) 1, 0, 1; λ = 0.5
    [("mean", [2, 3, 0]), ("min", [1, 3, -1]), ("mean_minus_std", [1.5, 3, -0.5])],
)
def test_combinations_by_hand(by: Combination, expected: list[float]) -> None:
    rewards, spread = combine(np.array([[1.0, 3, -1], [3, 3, 1]]), by, 0.5)
    assert rewards.tolist() == expected and spread.tolist() == [1, 0, 1]


def test_a_scale_is_that_of_all_rewards_there_are() -> None:
    found = scale_of([np.array([1.0, 3]), np.array([np.nan, 5])], "x")
    assert found == {"mean": 3, "std": pytest.approx((8 / 3) ** 0.5)}


def test_equal_rewards_have_no_scale() -> None:
    with pytest.raises(ModelError, match="x gives the data 1 different rewards"):
        scale_of([np.array([1.0, 1])], "x")


@pytest.mark.parametrize("by", ["mean", "min", "mean_minus_std"])
def test_a_folder_scores_with_its_members_each_on_its_scale(
    by: Combination, models: list[Path], tmp_path: Path
) -> None:
    opened = folders.open_scorer(named(models, by, tmp_path / "both", 0.5))
    own = [RewardScorer(store.load_trained(path)).score(GROUPS) for path in models]
    for number, scored in enumerate(opened.scorer.stream(GROUPS)):
        z = np.array([(r[number] - mean) / std for r, (mean, std) in zip(own, SCALES, strict=True)])
        expected = {"mean": z.mean(0), "min": z.min(0), "mean_minus_std": z.mean(0) - 0.5 * z.std(0)}[by]
        np.testing.assert_allclose(scored.rewards, expected, rtol=1e-5, atol=1e-5)
        assert scored.std is not None
        np.testing.assert_allclose(scored.std, z.std(0), rtol=1e-5, atol=1e-5)
        assert [reason is None for reason in scored.reasons] == np.isfinite(expected).tolist()


def test_an_answer_one_member_cannot_score_has_no_reward_and_its_reason(
    models: list[Path], tmp_path: Path
) -> None:
    opened = folders.open_scorer(named(models, "min", tmp_path / "both"))
    assert isinstance(opened.scorer, EnsembleScorer)
    short = opened.scorer.scorers[1]
    assert isinstance(short, RewardScorer)
    short.encoder = short.loaded.encoder(max_length=44)
    (scored,) = opened.scorer.stream([chat("Why?", "a", "long " * 8)])
    assert np.isfinite(scored.rewards[0]) and np.isnan(scored.rewards[1])
    assert scored.reasons == (None, "longer than max_length")


def test_chunks_change_no_reward(models: list[Path], tmp_path: Path) -> None:
    scorer = folders.open_scorer(named(models, "mean", tmp_path / "both")).scorer
    expected = scorer.score(GROUPS)
    scorer.chunk = 1
    for found, own in zip(scorer.score(GROUPS), expected, strict=True):
        np.testing.assert_allclose(found, own, rtol=1e-5, atol=1e-5)


def test_an_ensemble_can_be_a_member(models: list[Path], tmp_path: Path) -> None:
    inner = named(models, "mean", tmp_path / "inner")
    outer = named([inner, models[0]], "mean", tmp_path / "outer")
    (one,), (two,) = (folders.open_scorer(path).scorer.score(GROUPS[:1]) for path in (inner, models[0]))
    (both,) = folders.open_scorer(outer).scorer.score(GROUPS[:1])
    np.testing.assert_allclose(both, ((one - 0.5) / 2 + (two + 1) / 0.25) / 2, rtol=1e-4)


def test_models_that_compare_are_members_too(base_model: Make, tmp_path: Path) -> None:
    base, paths = base_model(), [tmp_path / "m1", tmp_path / "m2"]
    for seed, path in enumerate(paths, start=1):
        loaded = store.load(ModelSettings(path=str(base), kind="preference_lm"))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in loaded.model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        store.save(loaded, path, RewardCard())
    own = [RewardScorer(store.load_trained(path)).score(GROUPS[:1])[0] for path in paths]
    expected = sum((r - mean) / std for r, (mean, std) in zip(own, SCALES, strict=True)) / 2
    both = named(paths, "mean", tmp_path / "both")
    np.testing.assert_allclose(folders.open_scorer(both).scorer.score(GROUPS[:1])[0], expected, rtol=1e-4)
    assert folders.compares(both) and not folders.compares(base)


def test_adapters_of_one_base_share_it_in_memory(base_model: Make, tmp_path: Path) -> None:
    base, paths = base_model(), [tmp_path / "m1", tmp_path / "m2"]
    for seed, path in enumerate(paths, start=1):
        loaded = store.load(ModelSettings(path=str(base), lora=LoraSettings(r=seed)), seed=seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in loaded.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        store.save(loaded, path, RewardCard(max_length=400 + seed))
    scorer = folders.open_scorer(named(paths, "mean", tmp_path / "both")).scorer
    assert isinstance(scorer, EnsembleScorer)
    one, two = scorer.scorers
    assert isinstance(one, RewardScorer) and isinstance(two, RewardScorer)
    assert one.loaded.model is two.loaded.model
    assert (one.encoder.max_length, two.encoder.max_length) == (401, 402)
    own = [RewardScorer(store.load_trained(path)).score(GROUPS[:1])[0] for path in paths]
    assert np.abs(own[0] - own[1]).min() > 0.01
    expected = sum((r - mean) / std for r, (mean, std) in zip(own, SCALES, strict=True)) / 2
    for _ in range(2):  # the members take turns
        np.testing.assert_allclose(scorer.score(GROUPS[:1])[0], expected, rtol=1e-4)


def test_verify_says_everything_of_every_member(models: list[Path], tmp_path: Path) -> None:
    checks = folders.verify_folder(named(models, "mean", tmp_path / "both"))
    assert checks[0].name == "members" and checks[0].detail.startswith("2,")
    alone = [check.name for check in folders.verify_folder(models[0])]
    assert [check.name for check in checks if check.name.startswith("1: ")] == [f"1: {n}" for n in alone]
    assert any(check.name.startswith("2: ") for check in checks)


def test_members_that_are_gone_or_changed_are_not_scored_with(models: list[Path], tmp_path: Path) -> None:
    both = named(models, "mean", tmp_path / "both")
    loaded = store.load_trained(models[0])
    with torch.no_grad():
        loaded.model.head.weight.add_(1)
    store.publish(loaded, models[0], RewardCard())
    with pytest.raises(ModelError, match=f"made with other weights than {models[0]} has now"):
        folders.open_scorer(both)
    shutil.rmtree(models[0])
    with pytest.raises(ModelError, match=f"{both} needs {models[0]}, which does not exist"):
        folders.open_scorer(both)


def test_an_ensemble_is_not_loaded_as_one_model(models: list[Path], tmp_path: Path) -> None:
    both = named(models, "mean", tmp_path / "both")
    with pytest.raises(ModelError, match="is an ensemble, which is not trained as one"):
        store.load(ModelSettings(path=str(both)))


def test_a_file_that_is_no_ensemble_is_refused(tmp_path: Path) -> None:
    (tmp_path / members.ENSEMBLE).write_text(json.dumps({"members": [], "combine": "mean", "scale": "data"}))
    with pytest.raises(DataError, match=r"ensemble.json: members: "):
        folders.open_scorer(tmp_path)


def test_the_scale_is_that_of_the_card_or_of_openrlhf(models: list[Path]) -> None:
    assert folders.scale_in_card(models[0]) is None  # its config.json has a mean and std nobody measured
    store.publish(store.load_trained(models[0]), models[0], RewardCard(reward={"mean": 2.0, "std": 0.5}))
    assert folders.scale_in_card(models[0]) == {"mean": 2.0, "std": 0.5}
    (models[0] / "reward_card.json").unlink()
    assert folders.scale_in_card(models[0]) == {"mean": 2.0, "std": 0.5}


@pytest.mark.parametrize("pools", [("cls", "cls"), ("mean", "mean"), ("mean", "max")])
def test_adapters_of_an_encoder_keep_the_head_and_pool_of_each(
    pools: tuple[str, str], tmp_path: Path
) -> None:
    base, paths = encoders.write(tmp_path / "base", "roberta"), [tmp_path / "m1", tmp_path / "m2"]
    for seed, (pool, path) in enumerate(zip(pools, paths, strict=True)):
        loaded = store.load(ModelSettings(path=str(base), pool=pool, lora=LoraSettings(r=2)), seed=seed)
        store.save(loaded, path, RewardCard())
    own = [RewardScorer(store.load_trained(path)).score(GROUPS[:1])[0] for path in paths]
    expected = sum((r - mean) / std for r, (mean, std) in zip(own, SCALES, strict=True)) / 2
    both = folders.open_scorer(named(paths, "mean", tmp_path / "both")).scorer
    np.testing.assert_allclose(both.score(GROUPS[:1])[0], expected, rtol=1e-4)
