"""The bag-of-words baseline, against numbers derived by hand and on real preferences."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.data.reader import Reader
from holdtrue.errors import DataError
from holdtrue.evaluation import bag_of_words
from holdtrue.evaluation.bag_of_words import BagOfWords, fit
from holdtrue.records import Answer, Comparison, Group


def pair(preferred: str, other: str, label: float = 1.0) -> Group:
    return Group("p", (Answer(preferred), Answer(other)), (Comparison(0, 1, label),))


def test_two_words_that_decide_every_pair_get_the_weights_of_the_equation() -> None:
    # Gradient 0 for w and -w, n pairs: λ w = n σ(-2w). With λ = 10 and w = ln(3)/2, σ(-ln 3) = 1/4, so
    # n = 20 ln 3 = 21.97: 22 pairs give a w a little above ln(3)/2.
    bag = fit([pair("good", "bad")] * 22)
    w = bag.reward("good")
    assert 10 * w == pytest.approx(22 / (1 + math.exp(2 * w)), rel=1e-4)
    assert w == pytest.approx(math.log(3) / 2, abs=1e-3)
    assert bag.reward("bad") == pytest.approx(-w)
    assert (bag.pairs, bag.of) == (22, 22)


def test_the_weights_are_where_the_gradient_vanishes() -> None:
    rng = np.random.default_rng(0)
    words = [f"w{n}" for n in range(12)]
    texts = [[" ".join(rng.choice(words, size=5)) for _ in range(2)] for _ in range(80)]
    groups = [pair(*sides) for sides in texts]
    bag = fit(groups)
    # λ w_gram = Σ over pairs of (±1 where one side has the gram) · σ(-gap), for every gram.
    gaps = np.array([bag.reward(one) - bag.reward(two) for one, two in texts])
    pull = dict.fromkeys(bag.keys.tolist(), 0.0)
    for (one, two), gap in zip(texts, gaps, strict=True):
        for text, sign in ((one, 1), (two, -1)):
            for gram in bag_of_words._grams(text).tolist():
                if gram in pull:
                    pull[gram] += sign / (1 + math.exp(gap))
    assert 10 * bag.weights == pytest.approx(np.array(list(pull.values())), abs=1e-3)


def test_words_are_distinct_lower_case_and_paired_with_their_neighbours() -> None:
    bag = fit([pair("red fox", "fox red")] * 5)
    # Both sides have both words, so only the order tells them apart.
    assert bag.reward("red") == bag.reward("fox") == 0
    assert bag.reward("the RED, fox! red fox") == bag.reward("red fox") + bag.reward("fox red")
    assert bag.reward("red fox") > 0 > bag.reward("fox red")


def test_ties_of_the_raters_are_not_learned_from_and_the_label_says_which_side_won() -> None:
    groups = [pair("good", "bad", 0.5)] * 3 + [pair("good", "bad", 0.1)] * 4
    bag = fit(groups)
    assert bag.pairs == 4
    assert bag.reward("bad") > 0


def test_what_only_one_comparison_has_is_left_out() -> None:
    bag = fit([pair("good once", "bad"), pair("good", "bad")])
    assert bag.reward("once") == 0
    assert bag.reward("never seen") == bag.reward("") == 0


def test_without_a_decided_comparison_every_text_is_equal() -> None:
    bag = fit([pair("good", "bad", 0.5)])
    assert (bag.pairs, bag.reward("good")) == (0, 0.0)


def test_more_text_than_the_cap_is_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bag_of_words, "_MOST_CHARACTERS", 40)
    bag = fit([pair("good", "evil")] * 3 + [pair("fine", "evil")] * 7)  # 8 characters each, 80 in all
    assert (bag.pairs, bag.of) == (5, 10)
    assert bag.reward("fine") > 0


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(12)))
def test_the_order_of_the_pairs_does_not_matter(order: list[int]) -> None:
    groups = [pair(f"good w{n % 3}", f"bad w{n % 4}") for n in range(12)]
    plain, turned = fit(groups), fit([groups[n] for n in order])
    assert turned.keys.tolist() == plain.keys.tolist()
    assert turned.weights == pytest.approx(plain.weights, abs=1e-5)


@given(st.text(), st.text())
def test_any_text_has_a_finite_reward_and_its_mirror_image_the_opposite(one: str, two: str) -> None:
    there, back = fit([pair(one, two)] * 3), fit([pair(two, one)] * 3)
    gap = there.reward(one) - there.reward(two)
    assert math.isfinite(gap) and gap >= 0
    assert back.reward(one) - back.reward(two) == pytest.approx(-gap)


def test_it_is_the_same_after_saving_and_loading(tmp_path: Path) -> None:
    bag = fit([pair("good \udc80", "bad")] * 4)
    bag.save(tmp_path / "bag_of_words.npz")
    found = BagOfWords.load(tmp_path / "bag_of_words.npz")
    assert found.reward("good \udc80 thing") == bag.reward("good \udc80 thing") != 0
    assert (found.pairs, found.of) == (4, 4)


@pytest.mark.parametrize(
    ("train", "test", "low", "high"),
    [
        ("hh_harmless/train.jsonl.gz", "hh_harmless/test.jsonl.gz", 0.60, 0.66),
        ("rmb_pairs/harmless.train.jsonl.gz", "rmb_pairs/harmless.test.jsonl.gz", 0.82, 0.87),
    ],
)
def test_what_it_reaches_on_other_prompts_of_real_preferences(
    shared: Callable[[str], Path], train: str, test: str, low: float, high: float
) -> None:
    # The notes of hh_harmless give 0.62 for a bag of words on pairs.
    bag = fit(list(Reader([str(shared("data/" + train))])))
    gaps = [
        bag.reward(group.answers[0].text) - bag.reward(group.answers[1].text)
        for group in Reader([str(shared("data/" + test))])
    ]
    assert low < float(np.mean(np.sign(gaps) + 1) / 2) < high


@pytest.mark.parametrize("content", [b"", b"x", b"PK\x03\x04 cut"])
def test_a_broken_file_is_named_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bag_of_words.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"bag_of_words\.npz is broken .*remove it"):
        BagOfWords.load(tmp_path / "bag_of_words.npz")
