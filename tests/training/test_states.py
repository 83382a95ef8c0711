from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import encoders
from holdtrue.reward import store
from holdtrue.reward.kinds.aspects import Aspects
from holdtrue.reward.model import RewardModel
from holdtrue.settings import ModelSettings
from holdtrue.tokens.tree import Tree, grow
from holdtrue.training.states import StateCache

PROMPT = [3, 20, 1, 4]
ANSWERS = ([6, 1], [7, 8, 1], [6, 1])


@pytest.fixture
def model(toy_folder: Path) -> RewardModel:
    return store.load(ModelSettings(path=str(toy_folder / "model"), kind=Aspects(names=["x", "y"]))).model


def trees(*answers: list[int]) -> list[Tree]:
    return [
        grow(
            [np.array(PROMPT + a, dtype=np.int32) for a in answers], marks=[(len(PROMPT) - 1,)] * len(answers)
        )
    ]


def plain(model: RewardModel, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model.backbone(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]


def test_states_are_those_of_the_backbone_read_plainly(model: RewardModel, tmp_path: Path) -> None:
    model.inner.set_attn_implementation("eager")
    expected = [plain(model, ids) for ids in (*(PROMPT + a for a in ANSWERS), PROMPT)]
    model.examine()
    cache = StateCache(model, tmp_path, 64)
    assert torch.allclose(cache.answers(trees(*ANSWERS)), torch.stack(expected[:3]), atol=1e-5)
    assert torch.allclose(cache.prompts(trees(*ANSWERS)), expected[3].expand(3, -1), atol=1e-5)


def test_each_sequence_goes_through_the_backbone_once(model: RewardModel, tmp_path: Path) -> None:
    passes: list[int] = []
    model.register_forward_hook(lambda _, batch, out: passes.append(len(out.hidden)))
    cache = StateCache(model, tmp_path, 64)
    first = cache.answers(trees(*ANSWERS))  # two are equal
    again = cache.answers(trees([7, 8, 1], [9, 1]))  # one more
    cache.prompts(trees(*ANSWERS))
    assert (sum(passes), cache.computed, cache.read) == (4, 4, 1)
    assert torch.equal(again[0], first[1])
    other = StateCache(model, tmp_path, 64)  # a later run
    assert torch.equal(other.answers(trees(*ANSWERS)), first)
    assert (sum(passes), other.computed, other.read) == (4, 0, 2)


def test_another_backbone_has_states_of_its_own_and_another_head_has_not(
    model: RewardModel, tmp_path: Path
) -> None:
    StateCache(model, tmp_path, 64).answers(trees(*ANSWERS))
    with torch.no_grad():
        next(model.head.parameters()).add_(1)
    cache = StateCache(model, tmp_path, 64)
    before = cache.answers(trees(*ANSWERS))
    assert cache.computed == 0
    with torch.no_grad():
        next(model.backbone.parameters()).add_(1)
    changed = StateCache(model, tmp_path, 64)
    assert not torch.equal(changed.answers(trees(*ANSWERS)), before) and changed.computed == 2


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_broken_file_is_computed_again_and_said(
    model: RewardModel, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = StateCache(model, tmp_path, 64).answers(trees(*ANSWERS))
    (file,) = tmp_path.rglob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content if damage == "changed" else content[:-4])
    with caplog.at_level(logging.WARNING):
        cache = StateCache(model, tmp_path, 64)
    assert "is broken, its states are computed again" in caplog.text
    assert torch.equal(cache.answers(trees(*ANSWERS)), first) and cache.computed == 2
    assert StateCache(model, tmp_path, 64).answers(trees(*ANSWERS)).equal(first)


@pytest.mark.parametrize(
    ("one", "other"),
    [({"seed": 0}, {"seed": 1}), ({"pool": "mean"}, {"pool": "max"})],
    ids=["layers of the classifier", "pools"],
)
def test_encoders_that_differ_before_the_head_share_no_states(
    one: dict[str, Any], other: dict[str, Any], tmp_path: Path
) -> None:
    # RoBERTa's classifier has a dense layer, drawn from the seed, between its backbone and its head
    base = encoders.write(tmp_path / "base", "roberta")
    sequence = [grow([np.array([1, 50, 60, 2], dtype=np.int32)])]

    def states(folder: str, *, seed: int = 0, **settings: Any) -> torch.Tensor:
        kind = Aspects(names=["x", "y"])
        loaded = store.load(ModelSettings(path=str(base), kind=kind, **settings), seed=seed)
        return StateCache(loaded.model, tmp_path / folder, 64).answers(sequence)

    states("shared", **one)
    assert torch.equal(states("shared", **other), states("own", **other))
