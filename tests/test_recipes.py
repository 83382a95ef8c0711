"""Every recipe is a settings file that fits together, and every kind of reward model has one."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdtrue import kinds, settings
from holdtrue.losses import require_compatible
from holdtrue.reward.store import chosen_kind

FOLDER = Path(__file__).resolve().parents[1] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_fits_together_and_says_how_it_is_used(recipe: Path) -> None:
    made = settings.build(settings.read(recipe))
    require_compatible(chosen_kind(made.model), made.loss)
    head = recipe.read_text(encoding="utf-8").splitlines()
    commands = [line for line in head if line.startswith(f"# holdtrue train recipes/{recipe.name} ")]
    assert len(commands) == 1 and head[0].startswith("# ")


def test_every_kind_of_reward_model_has_a_recipe() -> None:
    used = {settings.build(settings.read(recipe)).model.kind.name() for recipe in RECIPES}
    assert used == set(kinds.names("holdtrue.reward.kinds"))
