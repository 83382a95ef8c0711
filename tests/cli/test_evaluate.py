"""``holdtrue evaluate``: one object per data set, in order, and the gate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toy
from holdtrue.rundir import RunDir, read_json

Run = Callable[..., Any]
PROMISED = {"accuracy", "interval", "count", "ties", "longer_answer_accuracy", "ece", "slices"}


@pytest.fixture
def copied(toy_run: Path, tmp_path: Path) -> RunDir:
    return RunDir(shutil.copytree(toy_run, tmp_path / "run"))


def test_one_data_set_is_one_object_with_all_that_is_promised(
    holdtrue: Run, toy_folder: Path, copied: RunDir
) -> None:
    done = holdtrue("evaluate", copied.path, toy_folder / "eval.jsonl", "--json")
    assert done.code == 0 and done.value.keys() >= PROMISED
    validated = read_json(copied.evaluation_file)["results"][0]
    assert done.value["accuracy"] == validated["accuracy"] and done.value["count"] == 20


def test_several_data_sets_are_results_in_the_order_given(
    holdtrue: Run, toy_folder: Path, copied: RunDir
) -> None:
    paths = [toy_folder / "train.jsonl", toy_folder / "eval.jsonl"]
    for order in (paths, paths[::-1]):
        found = holdtrue("evaluate", copied.path, *order, "--json").value
        assert [result["data"] for result in found["results"]] == [str(path) for path in order]
        assert [result["count"] for result in found["results"]] == [
            60 if path == paths[0] else 20 for path in order
        ]


def test_results_are_kept_in_the_run_and_replace_older_ones_on_the_same_data(
    holdtrue: Run, toy_folder: Path, copied: RunDir
) -> None:
    for _ in range(2):
        assert holdtrue("evaluate", copied.path, toy_folder / "train.jsonl").code == 0
    names = [result["data"] for result in read_json(copied.evaluation_file)["results"]]
    assert names == ["validation", str(toy_folder / "train.jsonl")]
    assert str(toy_folder / "train.jsonl") in copied.report_file.read_text()


def test_a_model_folder_is_measured_and_not_written_to(
    holdtrue: Run, toy_folder: Path, copied: RunDir
) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.path.rglob("*")}
    assert holdtrue("evaluate", copied.model, toy_folder / "eval.jsonl").code == 0
    assert {path: path.stat().st_mtime_ns for path in copied.path.rglob("*")} == before


def test_slices_are_by_the_columns_asked_for(holdtrue: Run, copied: RunDir, tmp_path: Path) -> None:
    rows = [{**row, "kind": "ab"[i % 2], "other": "cd"[i % 2]} for i, row in enumerate(toy.pairs(20))]
    data = toy.write_pairs(tmp_path / "a.jsonl", 0, rows=rows)
    value = holdtrue("evaluate", copied.path, data, "--slice", "kind", "--json").value
    assert value["slices"].keys() == {"kind"}
    assert [(part["value"], part["count"]) for part in value["slices"]["kind"]] == [("a", 10), ("b", 10)]


@pytest.mark.parametrize("gate", [["--min-accuracy", "0.999"], ["--set", "evaluation.min_accuracy=0.999"]])
def test_an_accuracy_below_the_gate_ends_with_4_and_the_result(
    holdtrue: Run, toy_folder: Path, copied: RunDir, gate: list[str]
) -> None:
    done = holdtrue("evaluate", copied.path, toy_folder / "eval.jsonl", *gate, "--json")
    assert done.code == 4 and done.value["accuracy"] < 0.999
    assert holdtrue("evaluate", copied.path, toy_folder / "eval.jsonl", "--min-accuracy", "0").code == 0


def test_one_of_several_below_the_gate_is_enough(holdtrue: Run, toy_folder: Path, copied: RunDir) -> None:
    both = [toy_folder / "train.jsonl", toy_folder / "eval.jsonl"]
    accuracies = [r["accuracy"] for r in holdtrue("evaluate", copied.path, *both, "--json").value["results"]]
    assert accuracies[0] != accuracies[1]
    between = sum(accuracies) / 2
    assert holdtrue("evaluate", copied.path, *both, "--min-accuracy", between).code == 4


def test_pairs_of_which_none_can_be_scored_fail_the_gate_and_are_said(
    holdtrue: Run, copied: RunDir, tmp_path: Path
) -> None:
    rows = [{"prompt": "tell " * 200, "chosen": "kind", "rejected": "rude"}]
    data = toy.write_pairs(tmp_path / "a.jsonl", 0, rows=rows)
    done = holdtrue("evaluate", copied.path, data, "--json", "--min-accuracy", "0.1")
    assert done.code == 4
    assert (done.value["accuracy"], done.value["count"]) == (None, 0)
    assert done.value["unscored"] == {"longer than max_length": 2}
    assert holdtrue("evaluate", copied.path, data).code == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "does not exist"),
        ("garbage\n", "no usable rows"),
        (
            json.dumps({"prompt": "a", "completions": ["b", "c"]}) + "\n",
            "no comparison, rating, label or judged step",
        ),
    ],
)
def test_data_that_cannot_be_used_ends_with_3(
    holdtrue: Run, copied: RunDir, tmp_path: Path, data: str | None, message: str
) -> None:
    path = tmp_path / "data.jsonl"
    if data is not None:
        path.write_text(data)
    done = holdtrue("evaluate", copied.path, path, "--json")
    assert done.code == 3 and message in done.error["message"]


def test_a_run_without_a_model_yet_is_said_to_be_unfinished(
    holdtrue: Run, toy_folder: Path, copied: RunDir
) -> None:
    shutil.rmtree(copied.model)
    done = holdtrue("evaluate", copied.path, toy_folder / "eval.jsonl", "--json")
    assert done.code == 3 and f"holdtrue resume {copied.path}" in done.error["message"]


def hhh_rows(path: Path, long: bool = False) -> Path:
    names = ("harmless", "helpful", "honest", "other")
    rows = [{**row, "subset": names[i % 4]} for i, row in enumerate(toy.pairs(40))]
    if long:
        rows[0] |= {"prompt": "tell " * 200}
    return toy.write_pairs(path, 0, rows=rows)


def test_a_benchmark_is_scored_kept_in_the_run_and_shown_in_its_report(
    holdtrue: Run, copied: RunDir, tmp_path: Path
) -> None:
    data = hhh_rows(tmp_path / "a.jsonl")
    for _ in range(2):
        done = holdtrue("evaluate", copied.path, data, "--benchmark", "hhh", "--json")
    assert done.code == 0
    assert done.value["benchmark"] == "hhh" and done.value["data"] == [str(data)]
    assert [row["count"] for row in done.value["subsets"]] == [10, 10, 10, 10]
    # the toy's pairs can all be learned, and hhh is the plain mean of its subsets
    subsets = [row["score"] for row in done.value["subsets"]]
    assert done.value["score"] == pytest.approx(sum(subsets) / 4) and done.value["score"] > 0.8
    kept = read_json(copied.evaluation_file)
    assert [row["benchmark"] for row in kept["benchmarks"]] == ["hhh"]
    assert [row["data"] for row in kept["results"]] == ["validation"]
    assert '<section id="benchmarks">' in copied.report_file.read_text()
    assert (
        "Equal rewards count as wrong." in holdtrue("evaluate", copied.model, data, "--benchmark", "hhh").out
    )


def test_a_run_taken_up_again_keeps_the_scores_of_its_model(
    holdtrue: Run, toy_folder: Path, copied: RunDir, tmp_path: Path
) -> None:
    assert holdtrue("evaluate", copied.path, toy_folder / "train.jsonl").code == 0
    assert holdtrue("evaluate", copied.path, hhh_rows(tmp_path / "a.jsonl"), "--benchmark", "hhh").code == 0
    before = read_json(copied.evaluation_file)
    assert holdtrue("resume", copied.path).code == 0
    assert read_json(copied.evaluation_file) == before


def test_rows_of_a_benchmark_that_cannot_be_scored_or_read_are_said(
    holdtrue: Run, copied: RunDir, tmp_path: Path
) -> None:
    data = hhh_rows(tmp_path / "a.jsonl", long=True)
    with data.open("a") as file:
        file.write("garbage\n")
    found = holdtrue("evaluate", copied.path, data, "--benchmark", "hhh", "--json").value
    assert (found["count"], found["unscored_items"]) == (40, 1)
    assert found["unscored"] == {"longer than max_length": 2} and found["rejected"] == {"not JSON": 1}
    text = holdtrue("evaluate", copied.path, data, "--benchmark", "hhh").out
    assert "1 of 40 items. An item with an answer that has no reward counts as wrong." in text
    assert "1 rows: not JSON" in text


def test_a_benchmark_with_a_layout_of_its_own_runs_from_end_to_end(
    holdtrue: Run, copied: RunDir, tmp_path: Path
) -> None:
    praise, blame = (
        ["kind", "the answer is kind", "the answer is so kind"],
        ["rude", "so rude", "then so rude"],
    )
    domains = ("chat", "math", "code", "safety-refuse", "safety-response")
    rows = [
        {"prompt": "tell about rain ?", "chosen": praise, "rejected": blame, "domain": domain}
        for domain in domains
    ]
    data = toy.write_pairs(tmp_path / "a.jsonl", 0, rows=rows)
    found = holdtrue("evaluate", copied.path, data, "--benchmark", "rm_bench", "--json").value
    assert found["missing"] == [] and found["count"] == 5
    assert found["score"] == pytest.approx(sum(found["details"]["all"].values()) / 3)


def test_a_score_below_the_gate_ends_with_4(holdtrue: Run, copied: RunDir, tmp_path: Path) -> None:
    data = hhh_rows(tmp_path / "a.jsonl", long=True)  # one row cannot be right
    assert holdtrue("evaluate", copied.path, data, "--benchmark", "hhh", "--min-accuracy", "0.999").code == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to evaluate on: give DATA, or --benchmark NAME"),
        (["--benchmark", "rewardbnech"], "unknown benchmark 'rewardbnech'; did you mean 'rewardbench'?"),
        (["--benchmark", "hhh"], "benchmark hhh has no place on the hub"),
        (["--benchmark", "hhh", "a.jsonl", "--slice", "x"], "--slice is for plain data"),
    ],
)
def test_arguments_that_do_not_go_together_end_with_2(
    holdtrue: Run, copied: RunDir, arguments: list[str], message: str
) -> None:
    done = holdtrue("evaluate", copied.path, *arguments, "--json")
    assert done.code == 2 and message in done.error["message"]


def test_rows_of_no_benchmark_end_with_3(holdtrue: Run, toy_folder: Path, copied: RunDir) -> None:
    done = holdtrue("evaluate", copied.path, toy_folder / "eval.jsonl", "--benchmark", "hhh", "--json")
    assert done.code == 3 and "eval.jsonl:1: hhh needs a column 'subset'" in done.error["message"]


def test_a_run_brings_its_bag_of_words_and_a_model_folder_has_none(
    holdtrue: Run, toy_folder: Path, copied: RunDir
) -> None:
    validated = read_json(copied.evaluation_file)["results"][0]["baselines"]
    found = holdtrue("evaluate", copied.path, toy_folder / "eval.jsonl", "--json").value["baselines"]
    assert found == validated
    assert (found["bag_of_words"]["pairs"], found["bag_of_words"]["reason"]) == (60, None)
    bare = holdtrue("evaluate", copied.model, toy_folder / "eval.jsonl", "--json").value["baselines"]
    assert bare["bag_of_words"]["accuracy"] is None
    assert "run" in bare["bag_of_words"]["reason"]


def test_rated_answers_are_measured_by_the_best_of_n(holdtrue: Run, copied: RunDir, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"q{n}", "completions": ["ab", "ba", "aa", "bb"], "ratings": [1, 2, 3, 4]}
        for n in range(12)
    ]
    data = tmp_path / "rated.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = holdtrue("evaluate", copied.path, data, "--json")
    assert (done.code, done.value["count"]) == (0, 72)
    curve = done.value["best_of_n"]["curve"]
    # The best of 1, 2, 3, 4 among n: 5/2, 10/3, 15/4 and 4.
    assert [point["oracle"] for point in curve] == pytest.approx([2.5, 10 / 3, 15 / 4, 4])
    assert "Of 4 answers, the one with the highest reward" in copied.report_file.read_text()
    said = holdtrue("evaluate", copied.path, data).out
    assert "of 4, its pick is rated" in said and "12 lists of 12 prompts" in said
