"""Gold read off a policy's way, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from holdtrue.experiments.goldworld import curves


def steps(*pairs: tuple[float | None, float]) -> list[dict[str, float | None]]:
    return [{"kl": kl, "gold": gold, "proxy": gold} for kl, gold in pairs]


def test_a_way_begins_at_nothing_and_goes_through_means_of_three_steps():
    kls, gold = curves.way(steps((0, 0), (1, 3), (2, 3), (6, 0)))
    assert kls.tolist() == [0, 1, 3] and gold.tolist() == [0, 2, 2]


def test_steps_without_a_kl_are_left_out_and_few_steps_are_no_way():
    assert curves.way(steps((None, 9), (0, 0), (1, 3), (2, 3)))[1].tolist() == [0, 2]
    assert curves.way(steps((1, 1), (2, 1)))[0].tolist() == [0]


def test_gold_at_a_kl_is_linear_between_the_steps_that_first_pass_it():
    kls, gold = np.array([0.0, 2, 6, 5, 8]), np.array([0.0, 1, 3, 9, 9])
    assert curves.at(kls, gold, 4) == 2
    assert curves.at(kls, gold, 6) == 3
    assert curves.at(kls, gold, 5.5) == pytest.approx(2.75)  # the first time, not the second
    assert curves.at(kls, gold, 0) == 0
    assert curves.at(kls, gold, 9) is None


def test_the_area_of_gold_that_is_the_root_of_kl_is_half_its_end():
    kls = np.linspace(0, 4, 2001)
    assert curves.area(kls, np.sqrt(kls), 4) == pytest.approx(1, abs=1e-3)
    assert curves.area(kls, np.sqrt(kls), 5) is None


@pytest.mark.parametrize("form", ["optimisation", "best_of_n"])
def test_a_fit_finds_the_numbers_a_curve_was_made_with(form: str):
    d = np.linspace(0.5, 3, 20)
    gold = d * (1.5 - 0.7 * (np.log(d) if form == "optimisation" else d))
    found = curves.fit(d * d, gold, form)
    assert found == pytest.approx({"alpha": 1.5, "beta": 0.7, "r2": 1.0})


def test_two_points_are_no_fit_and_noise_is_not_explained():
    assert curves.fit(np.array([0.0, 1, 4]), np.array([0.0, 1, 1]), "optimisation") is None
    rng = np.random.default_rng(0)
    found = curves.fit(np.linspace(1, 9, 200), rng.standard_normal(200), "optimisation")
    assert found is not None and abs(found["r2"]) < 0.1 and math.isfinite(found["alpha"])
