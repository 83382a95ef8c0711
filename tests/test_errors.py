"""Errors carry exit codes and name the nearest right thing."""

from __future__ import annotations

import pytest

from holdtrue import errors


def test_exit_codes_are_those_of_the_contract() -> None:
    codes = {cls.__name__: cls.exit_code for cls in errors.HoldtrueError.__subclasses__()}
    assert codes == {
        "SettingsError": 2,
        "DataError": 3,
        "ModelError": 3,
        "QualityError": 4,
        "Interrupted": 5,
        "ResourceError": 6,
    }


def test_a_near_name_is_suggested() -> None:
    assert errors.unknown("setting", "loss.centre", ["loss.center", "seed"]) == (
        "unknown setting 'loss.centre'; did you mean 'loss.center'?"
    )


def test_without_a_near_name_the_known_ones_are_listed_once_in_order() -> None:
    assert errors.unknown("verb", "xyz", ["train", "check", "train"]) == (
        "unknown verb 'xyz'; known: check, train"
    )


def test_a_long_list_of_known_names_is_cut_and_counted() -> None:
    message = errors.unknown("key", "zz", [f"a{index:02}" for index in range(15)])
    assert message.endswith(", a10, a11, and 3 more") and "a12" not in message


@pytest.mark.parametrize(("seen", "near"), [("trian", "train"), ("train", "train"), ("q", None), ("", None)])
def test_nearest_is_the_likest_name_or_none(seen: str, near: str | None) -> None:
    assert errors.nearest(seen, ["train", "plan", "score"]) == near


def test_where_there_is_nothing_to_know_that_is_said() -> None:
    assert errors.unknown("field of scalar", "old", []) == "unknown field of scalar 'old'; there are none"
