"""The closed form writes the head that is read, whatever stood there before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import encoders
import toy
from holdtrue.reward import store
from holdtrue.reward.card import RewardCard
from holdtrue.reward.kinds.aspects import Aspects
from holdtrue.reward.scorer import RewardScorer
from holdtrue.rundir import RunDir
from holdtrue.settings import ModelSettings, build
from holdtrue.training import fitting, ridge
from holdtrue.training.setup import set_up
from holdtrue.training.states import StateCache

KIND = Aspects(names=["x"])


def trained(base: Path, folder: Path, **settings: Any) -> Path:
    """A model of one aspect whose head, bias too, was trained before."""
    loaded = store.load(ModelSettings(path=str(base), kind=KIND, **settings))
    with torch.no_grad():
        for name, parameter in loaded.model.head.named_parameters():
            if parameter.requires_grad and "original_module" not in name:
                parameter.add_(1.0)
    store.save(loaded, folder, RewardCard())
    return folder


@pytest.mark.parametrize("form", ["an adapter", "a head with a bias"])
def test_what_was_fitted_is_what_scores(form: str, toy_folder: Path, tmp_path: Path) -> None:
    if form == "an adapter":
        path = trained(toy_folder / "model", tmp_path / "m", lora={"r": 2})
    else:
        path = trained(encoders.write(tmp_path / "b"), tmp_path / "m")
    rows = [
        {"prompt": pair["prompt"], "completions": [pair["chosen"]], "labels": {"x": [float(i % 3)]}}
        for i, pair in enumerate(toy.pairs(12))
    ]
    values = {
        "model": {"path": str(path)},
        "data": {"train": [str(toy.write_pairs(tmp_path / "rows.jsonl", 0, rows=rows))], "eval_fraction": 0},
        "loss": "aspect_regression",
        "training": {"method": "ridge"},
    }
    setup = set_up(build(values), "cpu")
    trees = setup.train.trees
    states = StateCache(setup.loaded.model, tmp_path / "states", 512).answers(trees).numpy()
    keys = [tree.key for tree in trees for _ in tree.answers]
    ratings = np.concatenate([tree.ratings for tree in trees])
    (line,) = ridge.fit(states, ratings, keys, ["x"], intercept=True)
    fitting.fit(setup, RunDir.create(tmp_path / "run", {}), lambda row: None)
    store.publish(setup.loaded, tmp_path / "fitted", RewardCard())
    scorer = RewardScorer(store.load_trained(tmp_path / "fitted"))
    found = np.concatenate(scorer.score(setup.train.groups))
    # equal prompts are one tree, so the answers stand in another order
    assert sorted(found) == pytest.approx(sorted(states @ line.weights + line.intercept), abs=1e-4)
