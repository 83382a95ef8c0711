"""``holdtrue evaluate --policy``: policies judged on prompts they were not trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

import comparing
import optimising
import toy
from holdtrue.reward import adapters
from holdtrue.reward.classifiers import quiet_loading
from holdtrue.rundir import RunDir, read_json, read_jsonl
from holdtrue.settings import LoraSettings

Run = Callable[..., Any]
SHORT = ["--set", "decoding.max_new_tokens=6"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, another one, prompts with a column, and rewards."""
    folder = optimising.write(tmp_path_factory.mktemp("policies"))
    toy.write_model(folder / "other", width=24)
    rows = [
        {"prompt": f"tell about {a} {b} ?", "length": "long" if a > b else "short"}
        for a in toy.TOPICS
        for b in toy.TOPICS
        if a != b
    ]
    toy.write_pairs(folder / "all.jsonl", 0, rows=rows)
    (folder / "mine.py").write_text(
        "def share(prompts, texts, completion_ids):\n"
        "    return [list(ids).count(6) / len(ids) for ids in completion_ids]\n"
        "def broken(prompts, texts, completion_ids):\n"
        "    return [1 / 0 for _ in texts]\n",
        encoding="utf-8",
    )
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """A run of policy optimisation whose prompts are 12 of the 30, and whose answers have 5 tokens."""
    settings = optimising.settings(folder, decoding={"max_new_tokens": 5}).dump()
    run = RunDir.create(folder / "run", settings)
    shutil.copytree(folder / "policy", run.model)
    return run.path


def test_a_run_is_judged_on_the_prompts_it_was_not_trained_on_as_it_draws_itself(
    holdtrue: Run, folder: Path, trained: Path
) -> None:
    judge = f"{folder}/mine.py:share"
    given = ["evaluate", judge, folder / "all.jsonl", "--policy", trained, "--success", "0.2", "--json"]
    done = holdtrue(*given)
    assert done.code == 0, done.err
    value = done.value
    assert value["prompts"] == 18 and value["left_out"] == {f"trained on by {trained}": 12}
    assert value["decoding"]["max_new_tokens"] == 5 and value["against"] is None
    (row,) = value["policies"]
    assert row["policy"] == str(trained) and row["answers"] == 18 and row["seconds_per_answer"] > 0
    assert 0 < row["length"]["mean"] <= 5
    shares = [one["mean"] for one in row["finish"].values()]
    assert sum(shares) == pytest.approx(1)
    found = row["rewards"][judge]
    assert found["interval"][0] <= found["mean"] <= found["interval"][1] and found["unscored"] == 0
    assert 0 <= found["success"]["mean"] <= 1
    asked = {row["prompt"] for row in read_jsonl(folder / "prompts.jsonl")}
    rest = [row["length"] for row in read_jsonl(folder / "all.jsonl") if row["prompt"] not in asked]
    counts = {part["value"]: part["prompts"] for part in value["slices"]["length"]}
    assert counts == {"long": rest.count("long"), "short": rest.count("short")} and len(rest) == 18
    again = holdtrue(*given).value
    for one in (value, again):
        one["policies"][0].pop("seconds_per_answer")
    assert value == again


def test_two_policies_answer_the_same_prompts_and_everything_is_kept(
    holdtrue: Run, folder: Path, toy_run: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    judge = f"{folder}/mine.py:share"
    done = holdtrue(
        "evaluate", toy_run, folder / "prompts.jsonl", "--policy", folder / "policy", "--against",
        folder / "other", "--reward", judge, "--group", "2", "--output", output, *SHORT, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    value = done.value
    assert read_json(output / "evaluation.json") == value
    rows = list(read_jsonl(output / "rollouts.jsonl"))
    assert len(rows) == 2 * 12 * 2
    by_policy = {
        name: np.array([row["by_judge"][str(toy_run)] for row in rows if row["policy"] == str(folder / name)])
        for name in ("policy", "other")
    }
    ours, theirs = by_policy["policy"].reshape(12, 2), by_policy["other"].reshape(12, 2)
    signs = np.sign(ours[:, :, None] - theirs[:, None, :])
    against = value["against"][str(toy_run)]
    assert against["win_rate"]["mean"] == pytest.approx(((1 + signs) / 2).mean())
    assert against["difference"]["mean"] == pytest.approx(ours.mean() - theirs.mean())
    assert value["policies"][0]["rewards"][str(toy_run)]["mean"] == pytest.approx(ours.mean())
    assert all(row["reward"] == row["by_judge"][str(toy_run)] for row in rows)
    first = rows[0]
    assert first["by_judge"][judge] == pytest.approx(
        first["completion_ids"].count(optimising.KIND) / len(first["completion_ids"])
    )
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "Side by side" in page and page.count('class="side ') == page.count('class="side"') == 12
    examined = holdtrue("doctor", "rollouts", output, "--tokenizer", folder / "policy", "--json")
    assert examined.code in (0, 4) and len(examined.value["rows"]) == 48
    rates = examined.value["rates"]["degenerate"]["by_policy"]
    for row in value["policies"]:
        assert row["flags"]["degenerate"]["mean"] == pytest.approx(rates[row["policy"]]["rate"])
    shift = holdtrue("shift", toy_run, output / "rollouts.jsonl", "--json")
    assert shift.code == 0 and list(shift.value["policies"]) == [str(folder / n) for n in ("policy", "other")]
    refused = holdtrue(
        "evaluate", judge, folder / "prompts.jsonl", "--policy", folder / "policy", "-o", output, "--json"
    )
    assert refused.code == 2 and "already exists and is not empty" in refused.error["message"]


@pytest.fixture
def ranker(tmp_path: Path) -> Path:
    """A model that compares, as random as it was made."""
    folder = comparing.write(tmp_path / "ranker", "llama")
    card = {"kind": {"kind": "preference_lm"}}
    (folder / "reward_card.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


def test_a_model_that_compares_says_who_wins(holdtrue: Run, folder: Path, ranker: Path) -> None:
    given = ["evaluate", ranker, folder / "prompts.jsonl", "--policy", folder / "policy"]
    done = holdtrue(*given, "--against", folder / "other", *SHORT, "--json")
    assert done.code == 0, done.err
    assert [row["rewards"] for row in done.value["policies"]] == [{}, {}]
    won = done.value["against"][str(ranker)]
    back = holdtrue(
        "evaluate", ranker, folder / "prompts.jsonl", "--policy", folder / "other", "--against",
        folder / "policy", *SHORT, "--json",
    ).value["against"][str(ranker)]  # fmt: skip
    assert won["win_rate"]["mean"] == pytest.approx(1 - back["win_rate"]["mean"])  # both orders were read
    assert won["difference"]["mean"] == pytest.approx(-back["difference"]["mean"])
    assert won["prompts"] == 12
    refused = holdtrue(*given, *SHORT, "--json")
    assert refused.code == 2 and "name the policy to compare with: --against" in refused.error["message"]


def test_people_see_the_verdict_and_a_table(holdtrue: Run, folder: Path, trained: Path) -> None:
    judge = f"{folder}/mine.py:share"
    done = holdtrue(
        "evaluate", judge, folder / "all.jsonl", "--policy", trained, "--against", folder / "other"
    )
    assert done.code == 0, done.err
    for words in ("run is", "run wins", "ended by an end token", "degenerate", "seconds per answer"):
        assert words in done.out
    assert f"Prompts left out: 12 trained on by {trained}." in done.out
    assert "Control tokens were banned" in done.out and "18 in" in done.err
    kept = holdtrue(
        "evaluate", judge, folder / "all.jsonl", "--policy", trained, "--set", "decoding.control=keep"
    )
    assert "Control tokens were banned" not in kept.out


def test_a_policy_that_was_trained_on_everything_has_nothing_left_to_be_judged_on(
    holdtrue: Run, folder: Path, trained: Path
) -> None:
    given = ["evaluate", f"{folder}/mine.py:share", folder / "prompts.jsonl", "--policy", trained, "--json"]
    done = holdtrue(*given)
    assert done.code == 3
    assert (
        f"no usable prompt in {folder / 'prompts.jsonl'}: 12 trained on by {trained}" in done.error["message"]
    )


def test_an_adapter_is_judged_with_its_base(holdtrue: Run, folder: Path, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(folder / "policy")
    with quiet_loading():
        adapters.with_new(base, LoraSettings(r=2), 0, task="CAUSAL_LM").save_pretrained(tmp_path / "adapter")
    done = holdtrue(
        "evaluate", f"{folder}/mine.py:share", folder / "prompts.jsonl", "--policy", tmp_path / "adapter",
        "--against", folder / "policy", *SHORT, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    won = done.value["against"][f"{folder}/mine.py:share"]
    assert won["win_rate"]["mean"] == 0.5 and won["difference"]["mean"] == 0  # fresh adapters change nothing


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--policy", "nowhere/at/all"], 3, "nowhere/at/all cannot be loaded (no such folder here"),
        (["--policy", "."], 3, "neither a run directory (settings.yaml) nor a model folder"),
        (["--policy", "POLICY", "--against", "POLICY"], 2, "is given twice"),
        (["--policy", "POLICY", "--reward", "nowhere"], 3, "nowhere does not exist"),
        (["--policy", "POLICY", "--set", "decoding.max_new_tokens=200"], 2, "has a context of 128 tokens"),
        (["--policy", "POLICY", "--set", "decoding.max_new_tokens=125"], 3, "no usable prompt in"),
        (["--policy", "POLICY", "--set", "grop=2"], 2, "unknown setting 'grop'; did you mean 'group'"),
        (["--policy", "POLICY", *SHORT, "--slice", "nope"], 2, "unknown slice 'nope'; known: length"),
        (["--policy", "POLICY", "--benchmark", "rmb"], 2, "--benchmark measures a reward model"),
        (["--policy", "POLICY", "--min-accuracy", "0.5"], 2, "--min-accuracy measures a reward model"),
        (["--against", "POLICY"], 2, "--against needs a --policy"),
        (["--seed", "0"], 2, "--seed needs a --policy"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    holdtrue: Run, folder: Path, arguments: list[str], code: int, said: str
) -> None:
    own = [str(folder / "policy") if one == "POLICY" else one for one in arguments]
    done = holdtrue("evaluate", f"{folder}/mine.py:share", folder / "all.jsonl", *own, "--json")
    assert done.code == code and said in done.error["message"] and "\n" not in done.error["message"]


def test_no_prompts_a_broken_judge_and_a_policy_without_an_end_are_said(
    holdtrue: Run, folder: Path, tmp_path: Path
) -> None:
    policy = ["--policy", folder / "policy", *SHORT, "--json"]
    nothing = holdtrue("evaluate", f"{folder}/mine.py:share", *policy)
    assert nothing.code == 2 and "nothing to evaluate on: give PROMPTS" in nothing.error["message"]
    broken = holdtrue("evaluate", f"{folder}/mine.py:broken", folder / "all.jsonl", *policy)
    assert broken.code == 3 and "raised ZeroDivisionError" in broken.error["message"]
    endless = toy.write_model(tmp_path / "endless", eos_token_id=None)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (file := endless / name).is_file():
            values = json.loads(file.read_text(encoding="utf-8"))
            values.pop("eos_token", None)
            file.write_text(json.dumps(values), encoding="utf-8")
    done = holdtrue(
        "evaluate", f"{folder}/mine.py:share", folder / "all.jsonl", "--policy", endless, *SHORT, "--json"
    )
    assert done.code == 3 and "declares no end token" in done.error["message"]


def test_a_real_model_is_judged(holdtrue: Run, shared: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def long(p, texts, ids):\n    return [len(t) for t in texts]\n")
    rows = [{"prompt": f"Once upon a time, {name} had a"} for name in ("Lily", "Tom", "Mia")]
    toy.write_pairs(tmp_path / "p.jsonl", 0, rows=rows)
    given = ["--policy", shared("models/stories260K"), "--set", "data.plain_text=raw", *SHORT, "--json"]
    done = holdtrue("evaluate", f"{tmp_path}/mine.py:long", tmp_path / "p.jsonl", *given)
    assert done.code == 0, done.err
    assert done.value["plain_text"] == "raw" and done.value["policies"][0]["length"]["mean"] == 6
