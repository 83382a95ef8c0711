"""Every recipe is a settings file that fits together, and every kind of reward model has one."""

from __future__ import annotations

import json
from itertools import cycle, islice
from pathlib import Path

import pytest

import encoders
import toy
from holdtrue import kinds, settings
from holdtrue.data import formats
from holdtrue.errors import DataError
from holdtrue.losses import require_compatible
from holdtrue.reward.store import chosen_kind
from holdtrue.training.setup import set_up

FOLDER = Path(__file__).resolve().parents[1] / "recipes"
RL = [FOLDER / "rl.yaml", FOLDER / "ppo.yaml"]
RECIPES = sorted(
    set(FOLDER.glob("*.yaml")) - {FOLDER / "sft.yaml", FOLDER / "rounds.yaml", *RL}
)  # of a policy: tests/policy/test_sft.py, tests/cli/test_rl.py, tests/cli/test_rounds.py
COMPARED = {"auto_j", "fine_grained", "helpsteer_pairs", "hh", "judgebench", "llama_factory", "ms_swift"}
COMPARED |= {"nemo", "preference", "rewardbench2", "rm_bench", "rmb", "shp", "tldr"}
"""Layouts whose samples prefer an answer to another, and below other recipes' own."""
RANKED = {"completions", "nemo", "ultrafeedback"}
TRAINS = dict.fromkeys((recipe.stem for recipe in RECIPES), COMPARED | RANKED) | {
    "all_pairs": RANKED,
    "aspects": RANKED - {"completions"},  # whose sample has one prompt, and alpha is chosen on others
    "process": {"steps"},
    "ranked": RANKED,
    "regression": RANKED,
    "two_class": COMPARED | RANKED | {"unpaired"},
}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_fits_together_and_says_how_it_is_used(recipe: Path) -> None:
    made = settings.build(settings.read(recipe))
    require_compatible(chosen_kind(made.model), made.loss)
    head = recipe.read_text(encoding="utf-8").splitlines()
    commands = [line for line in head if line.startswith(f"# holdtrue train recipes/{recipe.name} ")]
    assert len(commands) == 1 and head[0].startswith("# ")
    (row,) = (json.loads(line.partition(": ")[2]) for line in head if line.startswith("# A row of data: "))
    assert formats.recognise(row)().parse(row).answers


def test_every_kind_of_reward_model_has_a_recipe() -> None:
    used = {settings.build(settings.read(recipe)).model.kind.name() for recipe in RECIPES}
    assert used == set(kinds.names("holdtrue.reward.kinds"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A tiny encoder (True) and a decoder (False) that tell all characters of the samples apart."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = encoders.tokenizer("bert")
    decoder = toy.write_model(folder / "decoder", positions=512, vocab_size=len(tokenizer))
    tokenizer.eos_token, tokenizer.chat_template = "<sep>", toy.TEMPLATE.replace("<|end|>", "<sep>")
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(decoder)
    return {True: encoders.write(folder / "encoder"), False: decoder}


@pytest.mark.parametrize("layout", formats.classes(), ids=lambda layout: layout.name())
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_trains_on_a_layout_or_says_in_a_line_what_would_do(
    recipe: Path, layout: type[formats.Format], models: dict[bool, Path], tmp_path: Path
) -> None:
    rows = islice(cycle(layout.sample), 20)
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values = settings.read(recipe)
    values["model"]["path"] = str(models[recipe.stem in ("encoder", "pair_ranker")])
    values["data"] = values.get("data", {}) | {"train": [str(data)], "eval_fraction": 0}
    if layout.name() in TRAINS[recipe.stem]:
        assert set_up(settings.build(values), "cpu").train.trees
        return
    with pytest.raises(DataError) as error:
        set_up(settings.build(values), "cpu")
    message = str(error.value)
    assert "\n" not in message and len(message) < 400
    ways = ("loss=", "set loss.", "set model.kind", "holdtrue list formats", "needed")
    assert any(way in message for way in ways), message
