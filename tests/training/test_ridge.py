from __future__ import annotations

import numpy as np
import pytest

from holdtrue.errors import DataError
from holdtrue.training import ridge

RNG = np.random.default_rng(0)


def made(count: int = 60, width: int = 4) -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
    """States, ratings 3 + W · h of two aspects, prompts of two answers each, and W."""
    states = RNG.normal(size=(count, width)).astype(np.float32)
    weights = RNG.normal(size=(2, width))
    ratings = (states @ weights.T + 3).astype(np.float32)
    return states, ratings, [f"p{i // 2:03d}" for i in range(count)], weights


def test_three_points_by_hand() -> None:
    # H = [[1, 0], [0, 1], [1, 1]], y = (1, 2, 4): HᵀH = [[2, 1], [1, 2]], Hᵀy = (5, 6)
    # α = 1: [[3, 1], [1, 3]]⁻¹ (5, 6) = (3·5 - 6, 3·6 - 5) / 8 = (9/8, 13/8)
    x, y = np.array([[1.0, 0], [0, 1], [1, 1]]), np.array([[1.0], [2], [4]])
    weights, intercepts = ridge.solve(x, y, [1.0], intercept=False)
    assert weights[0, :, 0] == pytest.approx([9 / 8, 13 / 8])
    assert intercepts[0, 0] == 0


def test_without_penalty_it_is_least_squares_with_and_without_an_intercept() -> None:
    x, y = np.array([[1.0, 0], [0, 1], [1, 1], [2, 1]]), np.array([[1.0], [2], [4], [3]])
    weights, intercepts = ridge.solve(x, y, [1e-12], intercept=False)
    assert weights[0] == pytest.approx(np.linalg.lstsq(x, y, rcond=None)[0], abs=1e-8)
    with_ones = np.linalg.lstsq(np.column_stack([x, np.ones(4)]), y, rcond=None)[0]
    weights, intercepts = ridge.solve(x, y, [1e-12], intercept=True)
    assert [*weights[0, :, 0], intercepts[0, 0]] == pytest.approx(with_ones[:, 0], abs=1e-8)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_few_rows_and_few_columns_both_solve_the_normal_equations(
    shape: tuple[int, int], intercept: bool
) -> None:
    x, y = RNG.normal(size=shape), RNG.normal(size=(shape[0], 3))
    weights, intercepts = ridge.solve(x, y, [0.1, 10.0], intercept=intercept)
    centre, middle = (x.mean(0), y.mean(0)) if intercept else (0.0, 0.0)
    for a, alpha in enumerate([0.1, 10.0]):
        left = (x - centre).T @ (x - centre) + alpha * np.eye(shape[1])
        assert weights[a] == pytest.approx(np.linalg.solve(left, (x - centre).T @ (y - middle)))
        assert intercepts[a] == pytest.approx(middle - centre @ weights[a] if intercept else np.zeros(3))


def test_known_weights_are_recovered_with_the_smallest_alpha() -> None:
    states, ratings, prompts, weights = made()
    lines = ridge.fit(states, ratings, prompts, ["a", "b"], intercept=True)
    for line, known in zip(lines, weights, strict=True):
        assert line.weights == pytest.approx(known, abs=1e-4)
        assert line.intercept == pytest.approx(3, abs=1e-4)
        # 30 prompts of two answers, every fifth held out
        assert (line.alpha, line.count, line.held_out) == (1e-4, 60, 12)
        assert line.mse < 1e-8 and line.pearson == pytest.approx(1)


def test_noise_that_says_nothing_is_shrunk_by_the_largest_alpha() -> None:
    states = RNG.normal(size=(40, 30)).astype(np.float32)
    ratings = RNG.normal(size=(40, 1)).astype(np.float32)
    (line,) = ridge.fit(states, ratings, [f"p{i}" for i in range(40)], ["a"], intercept=False)
    assert line.alpha >= 100 and np.abs(line.weights).max() < 0.2


def test_an_aspect_is_fitted_on_the_answers_that_have_its_rating() -> None:
    states, ratings, prompts, _ = made()
    ratings[::3, 1] = np.nan
    lines = ridge.fit(states, ratings, prompts, ["a", "b"], intercept=False)
    rated = ~np.isnan(ratings[:, 1])
    (alone,) = ridge.fit(
        states[rated], ratings[rated, 1:], list(np.array(prompts)[rated]), ["b"], intercept=False
    )
    assert [line.count for line in lines] == [60, 40]
    assert np.array_equal(lines[1].weights, alone.weights) and lines[1].alpha == alone.alpha


def test_the_order_of_rows_changes_nothing() -> None:
    states, ratings, prompts, _ = made()
    ratings[::5, 0] = np.nan
    mixed = RNG.permutation(len(states))
    one = ridge.fit(states, ratings, prompts, ["a", "b"], intercept=True)
    other = ridge.fit(states[mixed], ratings[mixed], [prompts[i] for i in mixed], ["a", "b"], intercept=True)
    for first, second in zip(one, other, strict=True):
        assert first.weights == pytest.approx(second.weights, rel=1e-9)
        assert (first.alpha, first.held_out) == (second.alpha, second.held_out)


def test_no_prompt_is_on_both_sides_of_the_split() -> None:
    # every prompt's two answers have the same state: were they split, the held-out error would be 0
    states = np.repeat(RNG.normal(size=(20, 20)), 2, axis=0).astype(np.float32)
    ratings = np.repeat(RNG.normal(size=(20, 1)), 2, axis=0).astype(np.float32)
    (line,) = ridge.fit(states, ratings, [f"p{i // 2:02d}" for i in range(40)], ["a"], intercept=False)
    assert line.mse > 0.1


def test_ratings_that_are_all_equal_are_refused() -> None:
    states, ratings, prompts, _ = made()
    ratings[:, 1] = 0.5
    with pytest.raises(DataError, match=r"all 60 ratings of 'b' are 0\.5"):
        ridge.fit(states, ratings, prompts, ["a", "b"], intercept=False)


def test_ratings_of_a_single_prompt_are_refused() -> None:
    states, ratings, _, _ = made()
    with pytest.raises(DataError, match="'a' is rated for 1 prompt"):
        ridge.fit(states, ratings, ["p"] * 60, ["a", "b"], intercept=False)
