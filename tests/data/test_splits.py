import pytest

from holdtrue.data.splits import split_by_prompt
from holdtrue.records import Answer, Group


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


def test_rows_without_a_prompt_are_split_by_their_answers() -> None:
    train, held_out = split_by_prompt(groups_with([""] * 100), 0.5)
    assert 30 <= len(held_out) <= 70 and len(train) == 100 - len(held_out)


def test_the_extremes_of_a_split_hold_out_nothing_and_everything() -> None:
    groups = groups_with(["p", "q"])
    assert split_by_prompt(groups, 0) == (groups, [])
    assert split_by_prompt(groups, 1) == ([], groups)
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_by_prompt(groups, 1.5)
