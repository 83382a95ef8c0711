"""The sentences of the report."""

from __future__ import annotations

from typing import Any

import pytest

from holdtrue.report import wording


def result(**values: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "data": "held out",
        "accuracy": 0.6134,
        "interval": [0.571, 0.653],
        "count": 1200,
        "baselines": {
            "longer_answer": {"accuracy": 0.54, "interval": [0.5, 0.58], "advantage_interval": [0.01, 0.13]},
            "shorter_answer": {"accuracy": 0.46, "interval": [0.42, 0.5], "advantage_interval": [0.09, 0.2]},
            "bag_of_words": {"accuracy": None, "interval": None, "advantage_interval": None},
        },
        "best_of_n": None,
        "temperature": 1.0,
        "temperature_bounded": False,
        "unscored_comparisons": 0,
        "label_ties": 0,
    }
    return plain | values


def longer(advantage: list[float] | None) -> dict[str, Any]:
    row = {"accuracy": 0.54, "interval": [0.5, 0.58], "advantage_interval": advantage}
    return {"baselines": {"longer_answer": row}}


def test_the_headline_sets_accuracy_beside_the_best_baseline() -> None:
    assert wording.headline(result()) == (
        "It picks the preferred answer in 61.3% of 1,200 comparisons (57.1–65.3%); "
        "picking the longer answer gets 54.0% (50.0–58.0%)."
    )
    found = result()
    found["baselines"]["bag_of_words"] |= {"accuracy": 0.6, "interval": [0.57, 0.63]}
    assert wording.headline(found).endswith("; a bag of words gets 60.0% (57.0–63.0%).")


@pytest.mark.parametrize(
    ("lead", "words"),
    [
        ([0.1, 0.2], "the best one 0.79: better than picking at random."),
        ([-0.1, 0.2], ": not clearly better than picking at random."),
        ([-0.2, -0.1], ": worse than picking at random."),
        (None, "the best one 0.79. Exact"),
    ],
)
def test_the_best_of_n_is_set_beside_random_and_best(lead: list[float] | None, words: str) -> None:
    last = {"n": 12, "rating": 0.61, "random": 0.42, "oracle": 0.79, "lead_interval": lead}
    said = wording.best_of_n({"curve": [last], "groups": 51, "prompts": 17, "left_out": 3})
    assert said.startswith(
        "Of 12 answers, the one with the highest reward is rated 0.61 on average, a random"
    )
    assert words in said
    assert said.endswith("51 lists of answers to 17 prompts; 3 with fewer are left out.")


def test_a_difference_is_given_in_points_with_its_signs() -> None:
    assert wording.lead([-0.012, 0.034]) == "−1.2 to +3.4 points"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "better than picking the longer answer, the best rule without it"),
        (longer([-0.02, 0.1]), "not clearly better than picking the longer answer"),
        (longer([-0.2, -0.1]), "picking the longer answer would do better"),
        (longer(None), "too few prompts"),
        ({"interval": [0.48, 0.7]}, "reaches a coin flip"),
        ({"interval": [0.3, 0.45]}, "swapped"),
        ({"accuracy": None, "unscored_comparisons": 7, "label_ties": 2}, "7 lack one, 2 are ties"),
    ],
)
def test_the_reading_says_what_the_intervals_allow(values: dict[str, Any], words: str) -> None:
    assert words in wording.reading(result(**values))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"temperature": 2.0}, "Too sure of itself: dividing its rewards by 2 "),
        ({"temperature": 0.5}, "Not sure enough"),
        ({"temperature": 1.04}, "About as sure as it should be"),
        ({"temperature": 100.0, "temperature_bounded": True}, "no better than chance"),
        ({"temperature": None}, "nothing to calibrate"),
    ],
)
def test_calibration_is_read_from_the_fitted_temperature(values: dict[str, Any], words: str) -> None:
    assert words in wording.calibration(result(**values))


TRAIN = {"event": "train", "step": 1, "loss": 0.7, "skipped": 0}
EVAL = {"event": "eval", "step": 1, "loss": 0.7}


@pytest.mark.parametrize(
    ("info", "metrics", "evaluation", "words"),
    [
        ({}, [], None, ["no run.json", "no curves", "not been evaluated"]),
        ({"status": "running"}, [TRAIN, EVAL], {}, ["still going on, or was killed"]),
        ({"status": "interrupted"}, [TRAIN, EVAL], {}, ["can be resumed"]),
        ({"status": "failed"}, [TRAIN, EVAL], {}, ["The run failed"]),
        ({"status": "finished"}, [TRAIN], {}, ["not validated while training"]),
        (
            {"status": "finished"},
            [TRAIN, EVAL, TRAIN | {"skipped": 3}],
            {},
            ["3 steps had a non-finite loss"],
        ),
        ({"status": "finished", "stopped_early": True}, [TRAIN, EVAL], {}, ["stopped early"]),
        ({"status": "finished", "model_hash": "a"}, [TRAIN, EVAL], {"model_hash": "b"}, ["another model"]),
        (
            {"status": "finished", "model": {"layout_reason": "attention sinks"}},
            [TRAIN, EVAL],
            {},
            ["padded instead of sharing prompts: attention sinks"],
        ),
        ({"status": "finished", "model_hash": "a"}, [TRAIN, EVAL], {"model_hash": "a"}, []),
    ],
)
def test_what_is_missing_or_went_wrong_is_said_and_nothing_else(
    info: dict[str, Any], metrics: list[Any], evaluation: Any, words: list[str]
) -> None:
    notes = wording.notes(info, metrics, evaluation)
    assert len(notes) == len(words)
    assert all(word in note for word, note in zip(words, notes, strict=True))


def test_a_chart_of_slices_that_is_cut_says_so() -> None:
    values = {"confidence": 0.95}
    assert wording.slices(values, 59, 60).endswith("in characters.")
    assert wording.slices(values, 60, 60).endswith("The first 59 of 60 rows; the table below has all.")


def test_numbers_are_written_for_readers() -> None:
    assert wording.many(1, "tie") == "1 tie"
    assert wording.many(2500, "tie") == "2,500 ties"
    assert wording.number(-0.12345) == "−0.123"
    assert wording.number(None) == "undefined"
    assert [wording.duration(s) for s in (48, 720, 12_240)] == ["48 s", "12 min", "3.4 h"]


def test_where_nothing_is_compared_the_headline_is_of_single_answers() -> None:
    none = {"accuracy": None, "data": "d", "unscored_comparisons": 0, "label_ties": 0}
    auc = {"auc": 0.75, "auc_interval": [0.6, 0.9], "count": 1200}
    labels = wording.headline(none | {"labels": auc})
    assert labels.startswith("It tells good answers from bad ones with an AUC of 0.750 (0.600–0.900; 0.5")
    assert wording.headline(none | {"labels": None, "steps": auc}).endswith("measured on 1,200 steps.")
    ratings = none | {"labels": None, "ratings": {"pearson": 0.5, "count": 1}}
    assert wording.headline(ratings) == "Its rewards correlate with the ratings of 1 answer by 0.5 (Pearson)."
    aspects = none | {"aspects": {"a": {"pearson": 0.5}, "b": {"pearson": -0.25}, "c": {"alpha": 1}}}
    assert wording.headline(aspects).endswith("correlate with the ratings by −0.25 to 0.5 (Pearson).")
    assert wording.reading(aspects) == "The data compares no answers, so there is no accuracy."
    assert wording.headline(none) == "On d nothing could be measured."
