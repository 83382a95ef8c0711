import json
from pathlib import Path
from typing import Any

import pytest

from holdtrue.data.splits import Splits, read_splits, split_by_prompt
from holdtrue.records import Answer, Group
from holdtrue.settings import DataSettings


def groups_with(prompts: list[str]) -> list[Group]:
    return [Group(prompt, (Answer(f"a{i}"), Answer(f"b{i}"))) for i, prompt in enumerate(prompts)]


def test_a_split_keeps_a_prompt_on_one_side_whatever_the_order() -> None:
    groups = groups_with([f"p{i % 200}" for i in range(600)])
    train, held_out = split_by_prompt(groups, 0.25)
    assert len(train) + len(held_out) == 600
    held = {group.prompt for group in held_out}
    assert held.isdisjoint({group.prompt for group in train})
    assert 35 <= len(held) <= 65  # 50 expected, standard deviation 6.1
    assert {group.prompt for group in split_by_prompt(groups[::-1], 0.25)[1]} == held


def test_a_prompt_stays_held_out_when_others_come_and_the_share_grows() -> None:
    some = {group.prompt for group in split_by_prompt(groups_with([f"p{i}" for i in range(50)]), 0.2)[1]}
    more = {group.prompt for group in split_by_prompt(groups_with([f"p{i}" for i in range(500)]), 0.2)[1]}
    wider = {group.prompt for group in split_by_prompt(groups_with([f"p{i}" for i in range(500)]), 0.3)[1]}
    assert some <= more <= wider


@pytest.mark.parametrize("fraction", [0.001, 0.5, 0.999])
def test_neither_side_of_a_split_is_empty(fraction: float) -> None:
    train, held_out = split_by_prompt(groups_with(["p", "q", "q"]), fraction)
    assert train and held_out


@pytest.mark.parametrize("prompt", "abcdefgh")
def test_a_single_prompt_is_trained_on(prompt: str) -> None:
    train, held_out = split_by_prompt(groups_with([prompt] * 3), 0.9)
    assert len(train) == 3 and not held_out


def test_rows_without_a_prompt_are_split_by_their_answers() -> None:
    train, held_out = split_by_prompt(groups_with([""] * 100), 0.5)
    assert 30 <= len(held_out) <= 70 and len(train) == 100 - len(held_out)


def test_the_extremes_of_a_split_hold_out_nothing_and_everything() -> None:
    groups = groups_with(["p", "q"])
    assert split_by_prompt(groups, 0) == (groups, [])
    assert split_by_prompt(groups, 1) == ([], groups)
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_by_prompt(groups, 1.5)


def splits_of(tmp_path: Path, rows: list[dict[str, Any]], **settings: Any) -> Splits:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_splits(DataSettings(train=[str(path)], **settings), None)


PAIRS = [{"prompt": f"p{i}", "chosen": "a", "rejected": "bb" * (i % 2)} for i in range(40)]
RATED = [{"prompt": f"p{i}", "completions": ["a", "b"], "ratings": [1, 2]} for i in range(40)]


def test_transforms_change_what_is_trained_on_and_not_what_is_held_out(tmp_path: Path) -> None:
    plain = splits_of(tmp_path, PAIRS)
    swapped = splits_of(tmp_path, PAIRS, transforms=[{"kind": "swap", "share": 1}])
    assert plain.transformed == {}
    assert swapped.eval == plain.eval and swapped.train != plain.train
    count = len(plain.train)
    assert swapped.transformed == {"train": [{"kind": "swap", "changed": {"comparisons swapped": count}}]}
    assert all(group.comparisons[0].label == 0 for group in swapped.train)


def test_ratings_become_pairs_on_both_sides(tmp_path: Path) -> None:
    splits = splits_of(tmp_path, RATED, transforms=["best_worst", "swap"])
    assert all(group.comparisons for group in [*splits.train, *splits.eval])
    assert len(splits.train) + len(splits.eval) == 40
    assert [change["kind"] for change in splits.transformed["train"]] == ["best_worst", "swap"]
    assert [change["kind"] for change in splits.transformed["eval"]] == ["best_worst"]


def test_validation_pairs_stay_as_they_are_beside_training_ratings(tmp_path: Path) -> None:
    held_out = tmp_path / "eval.jsonl"
    held_out.write_text(json.dumps(PAIRS[1]) + "\n")
    splits = splits_of(tmp_path, RATED, eval=[str(held_out)], transforms=["best_worst"])
    assert len(splits.eval) == 1 and set(splits.transformed) == {"train"}


def test_rows_without_comparisons_are_read_as_others(tmp_path: Path) -> None:
    single = [{"prompt": f"p{i}", "completion": "a", "rating": i} for i in range(40)]
    splits = splits_of(tmp_path, single)
    assert splits.train and splits.eval and len(splits.train) + len(splits.eval) == 40
    scored = [row | {"rewards": [0.0, 3.0]} for row in RATED]
    splits = splits_of(tmp_path, scored, transforms=["pseudo_label"])
    assert set(splits.transformed) == {"train"} and splits.eval
