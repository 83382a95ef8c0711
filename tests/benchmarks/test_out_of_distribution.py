"""Out of distribution: what a refresh may see of B, and what is made of the scores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

import encoders
import out_of_distribution as benchmark
from holdtrue.records import Answer, Comparison, Group, Message


def pair(prompt: str, better: str, worse: str) -> Group:
    """A labelled pair whose better answer stands first."""
    answers = tuple(Answer((Message("assistant", text),)) for text in (better, worse))
    return Group((Message("user", prompt),), answers, (Comparison(0, 1),), {"chosen_model": "x"})


def test_no_prompt_has_a_second_pair_before_every_prompt_has_its_first() -> None:
    groups = [
        pair(prompt, f"{i}", "-") for prompt, count in (("a", 5), ("b", 2), ("c", 1)) for i in range(count)
    ]

    chosen = benchmark.spread_out(groups, 6, seed=3)

    assert Counter(group.prompt_text[-1] for group in chosen[:3]) == {"a": 1, "b": 1, "c": 1}
    assert Counter(group.prompt_text[-1] for group in chosen) == {"a": 3, "b": 2, "c": 1}
    assert chosen == benchmark.spread_out(groups, 6, seed=3) != benchmark.spread_out(groups, 6, seed=4)


def test_unlabelled_answers_stand_in_an_order_that_no_label_decides() -> None:
    hidden = [benchmark.unlabelled(pair("q", f"good {i}", f"bad {i}")) for i in range(40)]
    swapped = [benchmark.unlabelled(pair("q", f"bad {i}", f"good {i}")) for i in range(40)]

    assert hidden == swapped
    assert not any(group.comparisons or group.meta for group in hidden)
    first = sum(group.answers[0].text.startswith("good") for group in hidden)
    assert 8 < first < 32  # of 40 coin flips all but 1 in 5,000 outcomes


def test_the_difference_to_the_control_is_of_the_seeds_that_both_have() -> None:
    prompt = np.arange(10)
    ones, zeros = {"other": [1.0] * 10}, {"other": [0.0] * 10}
    half = {"other": [1.0] * 5 + [0.0] * 5}

    assert benchmark.against({0: ones, 1: ones}, {0: zeros}, "other", prompt) == "+1.000 [+1.000, +1.000]"
    assert benchmark.against({0: ones, 1: zeros}, {0: half, 1: half}, "other", prompt).startswith("+0.000 [-")
    assert benchmark.against({1: ones}, {0: zeros}, "other", prompt) == "–"
    # nine prompts are too few for an interval
    assert benchmark.against({0: half}, {0: zeros}, "other", prompt % 9) == "+0.500"


def test_runs_of_another_size_are_not_taken_into_the_same_table(tmp_path: Path) -> None:
    file, experiment = tmp_path / "runs.jsonl", benchmark.Experiment("somewhere")
    file.write_text(json.dumps({"arm": "none", "made_of": asdict(experiment)}) + "\n")

    assert [row["arm"] for row in benchmark.finished(file, experiment)] == ["none"]
    with pytest.raises(SystemExit, match=r"runs\.jsonl holds runs of .*another --output"):
        benchmark.finished(file, replace(experiment, train=7))


def test_an_encoder_is_cut_after_its_lowest_layers_and_reads_as_they_do(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel

    whole = encoders.write(tmp_path / "whole")
    cut = benchmark.lowest_layers(whole, 1, tmp_path / "cut")

    ids = torch.tensor([[1, 70, 80, 2]])
    before = AutoModel.from_pretrained(whole)(ids, output_hidden_states=True).hidden_states
    assert torch.equal(AutoModel.from_pretrained(cut)(ids).last_hidden_state, before[1])
    with pytest.raises(SystemExit, match="has 2 layers, asked for the lowest 3"):
        benchmark.lowest_layers(whole, 3, tmp_path / "other")
    with pytest.raises(SystemExit, match=r"it has no config\.json"):
        benchmark.lowest_layers(tmp_path / "none", 1, tmp_path / "other")


def test_a_run_is_measured_once_and_its_table_written_into_the_page(
    tmp_path: Path, shared: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared("data/rmb_pairs")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- out of distribution -->\nold\n<!-- end of out of distribution -->\nafter\n")
    whole = encoders.write(tmp_path / "whole")
    command = ["x", "--encoder", str(whole), "--quick", "--seeds", "1", "--only", "rmb helpful"]
    command += ["--arms", "fresh_labels", "retrain", "--output", str(tmp_path / "runs"), "--write", str(page)]
    monkeypatch.setattr("sys.argv", command)

    benchmark.main()
    first = (tmp_path / "runs" / "runs.jsonl").read_text()
    benchmark.main()

    assert (tmp_path / "runs" / "runs.jsonl").read_text() == first
    control, fresh = map(json.loads, first.splitlines())
    assert (control["arm"], control["report"]["labels"]) == ("retrain", 0)
    assert (fresh["arm"], fresh["report"]["labels"], fresh["report"]["comparisons"]) == (
        "fresh_labels",
        4,
        16,
    )
    assert len(fresh["other"]) == len(fresh["own"]) == 12
    written = page.read_text()
    assert written.startswith("before\n<!-- out of distribution -->\n| A to B |") and written.endswith(
        "after\n"
    )
    mean = sum(fresh["other"]) / 12
    assert f"| rmb helpful to harmless | fresh_labels | 1 | {mean:.3f} | " in written


@pytest.mark.parametrize(
    ("argument", "value", "said"), [("--only", "maths", "no direction"), ("--seeds", "0", "1 or more, got 0")]
)
def test_wrong_arguments_are_refused_before_anything_runs(
    argument: str,
    value: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--encoder", str(tmp_path), argument, value])

    with pytest.raises(SystemExit):
        benchmark.main()

    assert said in capsys.readouterr().err
