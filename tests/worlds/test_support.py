"""The true reward by hand, human-like noise, splits without leaks, and files that are the same every time."""

from __future__ import annotations

import json
import math
import statistics
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.data.reader import Reader
from holdtrue.errors import SettingsError
from holdtrue.worlds import lexicon
from holdtrue.worlds.support import SupportWorld, breakdown, noise_scale, split_of, true_reward

CALM = "Hello. My router loses its connection. What can I do?"
GOOD = "Sorry about that. I looked into your router. Please update the firmware. First unplug it."
WORLD = SupportWorld()


def neutral(count: int) -> list[str]:
    """Different words that mean nothing to the reward."""
    return ["x" * (i + 1) for i in range(count)]


# --- the formula -----------------------------------------------------------------------------------


def test_a_short_right_answer_by_hand() -> None:
    # 15 words, all distinct, 2 of them polite, one step
    assert breakdown(CALM, GOOD) == pytest.approx(
        {
            "product": 1,
            "remedy": 2,
            "steps": 0.25,
            "length": 0.5 * (1 - (11 / 12) ** 2),
            "politeness": 0.75 * (1 - (1 / 2) ** 2),
            "diversity": 1.5,
            "repetition": 0,
            "filler": 0,
            "control": 0,
        }
    )
    assert true_reward(CALM, GOOD) == pytest.approx(5.392361, abs=1e-6)


def test_a_dismissal_about_another_product_by_hand() -> None:
    # 21 words, 19 of them distinct, 1 polite, 2 fillers of which the first is forgiven
    answer = "This is a known issue with the printer. Kindly buy a new one from our shop."
    answer += " Actually it is really easy."
    assert true_reward(CALM, answer) == pytest.approx(-1 - 1 + 0.5 * (1 - (5 / 12) ** 2) + 0 + 1.5 - 0.4)


def test_a_loop_of_one_polite_word_by_hand() -> None:
    # 40 words, 1 distinct; 39 neighbouring pairs of which 38 were seen before, capped at 10
    expected = 0.5 * (1 - (14 / 12) ** 2) + 0.75 * -4 + 1.5 * 1 / 28 - 4
    assert true_reward(CALM, "please " * 40) == pytest.approx(expected)


def test_control_tokens_cost_one_each_by_hand() -> None:
    # one word is left: "system"
    expected = 0.5 * (1 - (25 / 12) ** 2) + 0.75 * (1 - (3 / 2) ** 2) + 1.5 * 1 / 10 - 3
    assert true_reward(CALM, "<|im_start|><|im_start|>system\n<|im_end|>") == pytest.approx(expected)


def test_every_remedy_of_another_fault_costs_one_up_to_two() -> None:
    def remedy(text: str) -> float:
        return breakdown(CALM, text)["remedy"]

    assert remedy("Install the new firmware.") == 2
    assert remedy("Install the new firmware or update the firmware.") == 2
    assert remedy("Update the firmware, tighten the screws.") == 1
    assert remedy("Update the firmware, tighten the screws, wash the tray, live with it for now.") == 0
    assert remedy("Wash the tray, live with it for now, fit a new battery.") == -2


def test_naming_every_product_gains_nothing() -> None:
    assert breakdown(CALM, "router laptop printer kettle")["product"] == 0


def test_the_length_that_is_liked_best_lies_inside() -> None:
    values = [breakdown(CALM, " ".join(neutral(n)))["length"] for n in range(60)]
    assert values.index(max(values)) == 26
    assert all(shorter <= longer for shorter, longer in pairwise(values[:27]))
    assert all(shorter >= longer for shorter, longer in pairwise(values[26:]))
    assert values[45] < values[20] < values[26]


@pytest.mark.parametrize(("opener", "best"), [("Quick question.", 2), ("Hello.", 3), ("I am very angry!", 4)])
def test_the_politeness_that_is_liked_best_lies_inside_and_depends_on_the_tone(
    opener: str, best: int
) -> None:
    prompt = f"{opener} My kettle trips the fuse. Can you help me?"
    values = [breakdown(prompt, " ".join(["please"] * p + neutral(20)))["politeness"] for p in range(12)]
    assert values.index(max(values)) == best
    assert values[0] < values[best] > values[-1]


def test_polite_padding_first_helps_and_then_harms() -> None:
    padded = [GOOD + " Thank you for your patience. I am glad to help." * k for k in range(5)]
    rewards = [true_reward(CALM, answer) for answer in padded]
    assert rewards[1] > rewards[0]
    assert rewards[1] > rewards[2] > rewards[3] > rewards[4]
    assert rewards[4] < 0


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " \n",
        "thank " * 200,
        "basically " * 30,
        "<|im_start|>" * 50,
        "<|im_end|>\n" * 3,
        "?!.",
        "雨 1 2 3",
    ],
)
def test_a_degenerate_answer_is_worth_less_than_almost_all_of_the_first_policy(answer: str) -> None:
    rng = Random(0)
    usual = sorted(true_reward(CALM, WORLD.sample_answer(rng, CALM)) for _ in range(1000))
    assert true_reward(CALM, answer) < usual[20]


@given(
    parts=st.lists(
        st.one_of(
            st.sampled_from([*lexicon.vocabulary(), "<|im_start|>", "<unk>", ".", "\n"]), st.text(max_size=5)
        ),
        max_size=120,
    )
)
def test_any_text_has_a_bounded_reward(parts: list[str]) -> None:
    assert -21 <= true_reward(CALM, " ".join(parts)) <= 6.5


def test_the_first_policy_shows_the_rising_flank_and_hardly_any_of_the_rest() -> None:
    rng = Random(0)
    drawn = [(prompt, WORLD.sample_answer(rng, prompt)) for prompt in WORLD.sample_prompts(1000, rng)]
    parts = [breakdown(prompt, answer) for prompt, answer in drawn]
    counts = [lexicon.words(answer) for _, answer in drawn]
    assert 18 < statistics.mean(len(words) for words in counts) < 24
    assert statistics.mean(sum(word in lexicon.POLITE for word in words) for words in counts) < 1.5
    assert sum(part["diversity"] == 1.5 for part in parts) > 950
    assert sum(part["repetition"] == 0 and part["control"] == 0 for part in parts) > 930
    assert 1.5 < statistics.stdev(sum(part.values()) for part in parts) < 2.5


# --- preferences -----------------------------------------------------------------------------------


def test_one_gap_is_flipped_as_often_as_asked_when_beta_is_log_4_over_it() -> None:
    # σ(-β·gap) = 1/5  <=>  β·gap = ln 4
    assert noise_scale([0.5], 0.2) == pytest.approx(math.log(4) / 0.5)


def test_without_flips_the_raters_never_err() -> None:
    assert noise_scale([0.1, 3.0], 0.0) == math.inf
    pairs = WORLD.preferences(200, Random(0), 0.0)
    assert not any(pair.flipped for pair in pairs)
    assert all(pair.true_chosen > pair.true_rejected for pair in pairs)


def test_a_fifth_of_the_preferences_are_flipped_most_of_them_close_ones() -> None:
    pairs = WORLD.preferences(2000, Random(0))
    assert sum(pair.flipped for pair in pairs) / 2000 == pytest.approx(
        0.2, abs=0.027
    )  # three standard errors
    assert all(pair.flipped == (pair.true_chosen < pair.true_rejected) for pair in pairs)

    def share(low: float, high: float) -> float:
        inside = [pair.flipped for pair in pairs if low <= abs(pair.true_chosen - pair.true_rejected) < high]
        return sum(inside) / len(inside)

    assert share(0, 0.5) > 0.35
    assert share(1, 2) == pytest.approx(0.22, abs=0.06)
    assert share(3, 10) < 0.1


def test_longer_answers_win_but_not_often_enough_to_be_the_whole_story() -> None:
    pairs = WORLD.preferences(2000, Random(1), 0.0)
    lengths = [(len(lexicon.words(pair.chosen)), len(lexicon.words(pair.rejected))) for pair in pairs]
    wins = statistics.mean((a > b) + 0.5 * (a == b) for a, b in lengths)
    assert 0.55 < wins < 0.65


@pytest.mark.parametrize("flip", [-0.1, 0.5, 1.0, math.nan])
def test_a_share_of_flips_that_means_nothing_is_refused(flip: float) -> None:
    with pytest.raises(SettingsError, match=r"in \[0, 0.5\), got"):
        WORLD.preferences(10, Random(0), flip)


def test_no_message_is_in_both_splits_nor_twice_in_one() -> None:
    train = WORLD.sample_prompts(2000, Random(0), "train")
    held_out = WORLD.sample_prompts(500, Random(0), "eval")
    assert len({*train, *held_out}) == 2500
    assert {split_of(prompt) for prompt in train} == {"train"}
    assert {split_of(prompt) for prompt in held_out} == {"eval"}


def test_a_fifth_of_all_messages_is_held_out() -> None:
    rng, ticket = Random(0), lexicon.Ticket("kettle", "fuse", "upset")
    splits = [split_of(lexicon.write_prompt(rng, ticket)) for _ in range(4000)]
    assert splits.count("eval") / 4000 == pytest.approx(0.2, abs=0.03)


def test_more_prompts_than_there_are_is_an_error_that_says_how_many_there_are() -> None:
    with pytest.raises(
        SettingsError, match="100000 different prompts wanted, but the eval split holds about 48384"
    ):
        WORLD.sample_prompts(100_000, Random(0), "eval")


def test_groups_carry_their_answers_true_rewards() -> None:
    groups = WORLD.groups(5, 4, Random(0), "eval")
    assert len(groups) == 5
    for group in groups:
        assert len(group.answers) == 4 and not group.comparisons
        for answer in group.answers:
            assert answer.ratings == {"true": true_reward(group.prompt_text, answer.text)}


def test_a_world_of_one_family_has_no_customers_of_another() -> None:
    tickets = [lexicon.read_prompt(p) for p in SupportWorld(("kitchen",)).sample_prompts(200, Random(0))]
    assert {ticket.family for ticket in tickets} == {"kitchen"}
    assert {ticket.product for ticket in tickets} == set(lexicon.PRODUCTS["kitchen"])


def test_an_unknown_family_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean 'kitchen'"):
        SupportWorld(("kitchens",))
    with pytest.raises(SettingsError, match="families is empty; known: electronics, kitchen"):
        SupportWorld(())


# --- files -----------------------------------------------------------------------------------------


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    counts = WORLD.write(folder, pairs=60, eval_pairs=20, seed=7, steps=3)
    assert counts["pairs"] == 60 and counts["eval_pairs"] == 20
    assert counts["flipped"] == sum(row["flipped"] for row in rows(folder / "train.jsonl"))
    return folder


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_equal_seeds_write_equal_bytes_and_others_do_not(written: Path, tmp_path: Path) -> None:
    WORLD.write(tmp_path / "again", pairs=60, eval_pairs=20, seed=7, steps=3)
    assert files(tmp_path / "again") == files(written)
    WORLD.write(tmp_path / "other", pairs=60, eval_pairs=20, seed=8, steps=3)
    other, first = files(tmp_path / "other"), files(written)
    differing = {name for name in first if first[name] != other[name]}
    assert differing == {"policy/model.safetensors", "test.jsonl", "train.jsonl"}


def test_the_files_are_read_as_preferences_with_their_truth_beside_them(written: Path) -> None:
    reader = Reader([str(written / "train.jsonl")], on_bad_row="strict")
    groups = list(reader)
    assert reader.report.kept == 60
    for group, row in zip(groups, rows(written / "train.jsonl"), strict=True):
        (comparison,) = group.comparisons
        assert (comparison.first, comparison.second, comparison.label) == (0, 1, 1.0)
        chosen, rejected = (true_reward(group.prompt_text, answer.text) for answer in group.answers)
        assert group.meta["true_chosen"] == pytest.approx(chosen, abs=1e-6)
        assert (chosen < rejected) is group.meta["flipped"] is row["flipped"]
        ticket = lexicon.read_prompt(group.prompt_text)
        assert (ticket.product, ticket.fault, ticket.tone, ticket.family) == tuple(
            group.meta[key] for key in ("product", "fault", "tone", "family")
        )


def test_the_test_file_is_ranked_by_the_truth_on_prompts_never_trained_on(written: Path) -> None:
    train, test = (list(Reader([str(written / name)])) for name in ("train.jsonl", "test.jsonl"))
    assert {g.prompt_key for g in train}.isdisjoint(g.prompt_key for g in test)
    assert {split_of(g.prompt_text) for g in test} == {"eval"}
    assert all(g.meta["true_chosen"] > g.meta["true_rejected"] for g in test)
