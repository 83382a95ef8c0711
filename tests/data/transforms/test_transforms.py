"""What all transforms have in common."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdtrue import kinds
from holdtrue.data import transforms
from holdtrue.errors import SettingsError
from holdtrue.records import Group

Pair = Callable[..., Group]


@pytest.fixture
def groups(pair: Pair, rated: Callable[..., Group]) -> list[Group]:
    """Pairs, ratings and rewards, so that every transform finds what it needs."""
    pairs = [pair(f"p{i}", "long " * (1 + i % 3), "short " * (1 + i % 2), label=0.9) for i in range(20)]
    scored = [
        Group(g.prompt, g.answers, g.comparisons, {"rewards": [2.0, float(i % 2)]})
        for i, g in enumerate(pairs)
    ]
    return [*scored, *(rated(f"r{i}", 1.0, i % 5, rater="abc"[i % 3]) for i in range(20))]


@pytest.mark.parametrize("name", kinds.names(transforms.FAMILY))
def test_a_transform_gives_the_same_again_and_leaves_what_it_was_given(
    name: str, groups: list[Group]
) -> None:
    before = list(groups)
    transform = transforms.named(name)
    result, counts = transform(groups)
    assert (result, counts) == transform(list(before))
    assert groups == before
    assert all(isinstance(count, int) for count in counts.values())
    for group in result:
        sides = {side for c in group.comparisons for side in (c.first, c.second)}
        assert sides <= set(range(len(group.answers)))


@pytest.mark.parametrize("name", ["swap", "noncontextual", "balance_length"])
def test_another_seed_draws_differently(name: str, pair: Pair) -> None:
    groups = [pair(f"p{i}", "long " * (1 + i % 3), "short " * (1 + i % 2)) for i in range(40)]
    fields = {"by": "drop"} if name == "balance_length" else {}
    drawn = [transforms.named({"kind": name, "seed": seed, **fields})(groups)[0] for seed in (0, 1)]
    assert drawn[0] != drawn[1]


def test_transforms_are_done_in_order_and_each_says_what_it_changed(pair: Pair) -> None:
    chosen = [transforms.named("dedupe"), transforms.named({"kind": "swap", "share": 1})]
    groups, changes = transforms.apply(chosen, [pair("p"), pair("p"), pair("q")])
    assert [g.comparisons[0].first for g in groups] == [1, 1]
    assert changes == [
        {"kind": "dedupe", "changed": {"exact duplicates dropped": 1, "near duplicates dropped": 0}},
        {"kind": "swap", "changed": {"comparisons swapped": 2}},
    ]
    assert transforms.sentence(changes[0]) == "dedupe: 1 exact duplicates dropped"
    assert transforms.sentence({"kind": "swap", "changed": {}}) == "swap: nothing changed"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("swop", "unknown transform 'swop'; did you mean 'swap'"),
        ({"share": 0.5}, "a transform is a name or a mapping with 'kind'"),
        ({"kind": "swap", "shares": 1}, "unknown field of swap 'shares'; did you mean 'share'"),
        ({"kind": "swap", "share": 2}, "swap.share: should be less than or equal to 1, got 2"),
        (None, "a transform is a name or a mapping with 'kind'"),
    ],
)
def test_a_transform_that_is_not_there_is_said(value: object, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        transforms.named(value)
