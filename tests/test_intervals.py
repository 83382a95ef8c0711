import pytest

from holdtrue.intervals import normal, pooled, student, t_quantile, wilson


def test_the_interval_of_a_half_of_a_hundred() -> None:
    # z = 1.959964: middle 0.5, half width z·sqrt(0.0025 + z²/40000) / (1 + z²/100) = 0.096168
    assert wilson(50, 100) == pytest.approx((0.403832, 0.596168), abs=1e-6)


def test_no_successes_leave_room_above_zero() -> None:
    # low 0, high z²/(n + z²) = 3.841459 / 13.841459
    assert wilson(0, 10) == pytest.approx((0.0, 0.277533), abs=1e-6)
    assert wilson(10, 10) == pytest.approx((0.722467, 1.0), abs=1e-6)


def test_neighbouring_shares_are_taken_together_and_none_is_lost() -> None:
    shares = {str(step): {"count": step, "rows": 10} for step in range(7)}
    found = pooled(shares, 3)
    # 7 in 3 parts: 0 to 1, 2 to 4, 5 to 6
    assert {name: (one["count"], one["rows"]) for name, one in found.items()} == {
        "0–1": (1, 20),
        "2–4": (9, 30),
        "5–6": (11, 20),
    }
    assert found["0–1"]["rate"] == 0.05
    assert found["0–1"]["interval"] == pytest.approx(wilson(1, 20))
    assert list(pooled(shares, 7)) == list(shares)
    assert pooled({}, 3) == {}


def test_rows_without_a_step_stand_apart() -> None:
    shares = {name: {"count": 1, "rows": 10} for name in ("0", "1", "2", "3", "None")}
    assert {name: one["rows"] for name, one in pooled(shares, 2).items()} == {
        "0–1": 20,
        "2–3": 20,
        "None": 10,
    }


def test_nothing_counted_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_more_confidence_is_wider_and_ties_count_half() -> None:
    low, high = wilson(5.5, 10)
    wider_low, wider_high = wilson(5.5, 10, confidence=0.99)
    assert wider_low < low < 0.55 < high < wider_high


def test_the_normal_interval_of_four_values() -> None:
    # mean 2.5, σ = sqrt(5/4); half width 1.959964·sqrt(1.25)/2 = 1.095653
    assert normal([1, 2, 3, 4]) == pytest.approx((1.404347, 3.595653), abs=1e-6)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (15, 2.1314), (100, 1.9840)],
)
def test_quantiles_of_students_distribution_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(quantile, abs=5e-5)
    assert t_quantile(0.5, freedom) == pytest.approx(0, abs=1e-9)


def test_students_interval_of_three_values() -> None:
    # mean 2, s = 1, t(0.975, 2) = 4.302653, so 2 ± 4.302653/√3
    assert student([1, 2, 3]) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)
