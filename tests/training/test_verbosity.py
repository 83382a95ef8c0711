from __future__ import annotations

import numpy as np
import pytest

from holdtrue.correlation import pearson, ranks
from holdtrue.errors import DataError
from holdtrue.training.verbosity import BOUND, penalties

RNG = np.random.default_rng(0)
VERBOSE = RNG.normal(size=4000)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    found = pearson(ranks(x), ranks(y))
    assert found is not None
    return found


def aspects(*columns: np.ndarray) -> np.ndarray:
    return np.column_stack([*columns, VERBOSE]).astype(np.float32)


@pytest.mark.parametrize("share", [2.0, 0.5, -1.5])
def test_what_is_left_of_an_aspect_does_not_go_with_verbosity(share: float) -> None:
    table = aspects(RNG.normal(size=4000) + share * VERBOSE)
    found = penalties(table, ["quality", "verbosity"], "verbosity")
    left = table[:, 0] - np.float32(found["quality"]) * table[:, 1]
    assert abs(spearman(table[:, 0], table[:, 1])) > 0.3
    assert abs(spearman(left, table[:, 1])) <= BOUND
    assert found["quality"] == pytest.approx(share, abs=0.1)


def test_the_first_of_the_grid_is_taken() -> None:
    table = aspects(RNG.normal(size=4000) + VERBOSE)
    penalty = penalties(table, ["quality", "verbosity"], "verbosity")["quality"]
    step = table[:, 0].astype(float).std() / table[:, 1].astype(float).std() / 100
    before = table[:, 0] - np.float32(penalty - step) * table[:, 1]
    assert abs(spearman(before, table[:, 1])) > BOUND


def test_an_aspect_free_of_verbosity_is_left_alone_and_verbosity_itself_counts_nothing() -> None:
    free = RNG.permutation(np.concatenate([VERBOSE, VERBOSE])[:4000])
    found = penalties(aspects(free), ["quality", "verbosity"], "verbosity")
    assert found == {"quality": 0.0, "verbosity": 1.0}


def test_a_set_too_small_for_the_bound_is_refused_with_what_was_reached() -> None:
    # ranks 1 3 2 against 1 2 3: Spearman 0.5; with three answers it can only be ±1, ±0.5 or undefined
    table = np.array([[1, 1], [30, 2], [2, 3]], dtype=np.float32)
    with pytest.raises(DataError, match=r"stays at 0\.50 .* fit on more answers"):
        penalties(table, ["quality", "verbosity"], "verbosity")
