"""``holdtrue combine``: ensembles, averages and implicit rewards, from runs to every verb that scores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

Run = Callable[..., Any]


def rewards(path: Path, key: str = "rewards") -> np.ndarray:
    return np.array([json.loads(line)[key] for line in path.read_text(encoding="utf-8").splitlines()])


@pytest.fixture(scope="session")
def second_run(toy_folder: Path) -> Path:
    """Of another seed, on the first 40 of the pairs; not to be changed."""
    from holdtrue import job
    from holdtrue.settings import build

    lines = (toy_folder / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (toy_folder / "part.jsonl").write_text("".join(lines[:40]), encoding="utf-8")
    data = {"train": [str(toy_folder / "part.jsonl")], "eval": [str(toy_folder / "eval.jsonl")]}
    settings = build({"seed": 7, "data": data, "model": {"path": str(toy_folder / "model")}})
    run = job.start(settings, toy_folder / "second_run")
    job.train(run)
    return run.path


@pytest.fixture
def policy(toy_folder: Path, tmp_path: Path) -> Path:
    """The toy's decoder, its weights a tenth longer."""
    shutil.copytree(toy_folder / "model", tmp_path / "policy")
    file = tmp_path / "policy" / "model.safetensors"
    save_file({k: 1.1 * v for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    return tmp_path / "policy"


@pytest.mark.parametrize("by", ["mean", "min", "mean_minus_std"])
def test_an_ensemble_of_runs_scores_as_its_members_do(
    by: str, holdtrue: Run, toy_run: Path, second_run: Path, toy_folder: Path, tmp_path: Path
) -> None:
    pairs, both = toy_folder / "eval.jsonl", tmp_path / "both"
    lam = ("--penalty", 2) if by == "mean_minus_std" else ()
    done = holdtrue("combine", toy_run, second_run, "--by", by, *lam, "-o", both, "--json")
    assert done.code == 0 and done.value["scale"] == "cards", done.err
    z = []
    for number, run in enumerate((toy_run, second_run)):
        assert holdtrue("score", run, pairs, "-o", tmp_path / f"{number}.jsonl").code == 0
        scale = json.loads((run / "model" / "reward_card.json").read_text())["reward"]
        z.append((rewards(tmp_path / f"{number}.jsonl") - scale["mean"]) / scale["std"])
    spread = np.abs(z[0] - z[1]) / 2  # the standard deviation of two numbers
    mean = (z[0] + z[1]) / 2
    expected = {"mean": mean, "min": np.minimum(*z), "mean_minus_std": mean - 2 * spread}[by]
    assert holdtrue("score", both, pairs, "-o", tmp_path / "both.jsonl").code == 0
    np.testing.assert_allclose(rewards(tmp_path / "both.jsonl"), expected, atol=1e-4)
    np.testing.assert_allclose(rewards(tmp_path / "both.jsonl", "reward_std"), spread, atol=1e-4)


def test_every_verb_that_scores_takes_an_ensemble(
    holdtrue: Run, toy_run: Path, second_run: Path, toy_folder: Path, tmp_path: Path
) -> None:
    both, pairs = tmp_path / "both", toy_folder / "eval.jsonl"
    said = holdtrue("combine", toy_run, second_run, "-o", both, "--data", pairs)
    assert said.code == 0 and "ensemble of 2" in said.out
    assert holdtrue("score", both, pairs, "-o", tmp_path / "scored.jsonl").code == 0
    right = rewards(tmp_path / "scored.jsonl") @ [1, -1] > 0
    done = holdtrue("evaluate", both, pairs, "--json")
    assert done.code == 0 and done.value["accuracy"] == pytest.approx(right.mean())
    done = holdtrue("compare", both, toy_run, second_run, "--data", pairs, "--json")
    assert done.code == 0 and len(done.value["models"]) == 3
    answers = [
        {"prompt": f"tell {n}", "completion": w, "policy": w} for n in range(6) for w in ("kind", "rude")
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    done = holdtrue("rank", both, tmp_path / "answers.jsonl", "--json")
    assert done.code == 0 and {row["policy"] for row in done.value["policies"]} == {"kind", "rude"}
    done = holdtrue("verify", both, "--json")
    names = [check["name"] for check in done.value["checks"]]
    assert done.code == 0 and names[0] == "members" and {"1: head saved", "2: head saved"} <= set(names)


def test_scoring_with_an_ensemble_goes_on_where_it_stopped(
    holdtrue: Run, toy_run: Path, second_run: Path, toy_folder: Path, tmp_path: Path
) -> None:
    both, out = tmp_path / "both", tmp_path / "scored.jsonl"
    holdtrue("combine", toy_run, second_run, "-o", both)
    assert holdtrue("score", both, toy_folder / "eval.jsonl", "-o", out).code == 0
    whole, expected = out.read_text(encoding="utf-8"), rewards(out)
    out.write_text(whole[: len(whole) // 2], encoding="utf-8")
    done = holdtrue("score", both, toy_folder / "eval.jsonl", "-o", out, "--json")
    assert done.code == 0 and done.value["resumed_after"] > 0
    np.testing.assert_allclose(rewards(out), expected, atol=1e-5)


def test_averaged_weights_are_an_ordinary_model(
    holdtrue: Run, toy_run: Path, second_run: Path, toy_folder: Path, tmp_path: Path
) -> None:
    mean = tmp_path / "mean"
    done = holdtrue("combine", toy_run, second_run, "--by", "weights", "-o", mean, "--json")
    assert done.code == 0 and -1 <= done.value["head_cosine"] <= 1, done.err
    found, one, two = (
        load_file(path / "model.safetensors") for path in (mean, toy_run / "model", second_run / "model")
    )
    for name, weight in found.items():
        np.testing.assert_allclose(weight, (one[name] + two[name]) / 2, atol=1e-6)
    card = json.loads((mean / "reward_card.json").read_text())
    assert list(card["averaged"]) == [str(run / "model") for run in (toy_run, second_run)]
    assert holdtrue("verify", mean).code == 0
    assert holdtrue("evaluate", mean, toy_folder / "eval.jsonl").code == 0
    goes_on = ("--model", mean, "-o", tmp_path / "next", "--set", "training.max_steps=1")
    assert holdtrue("train", toy_folder / "train.jsonl", *goes_on).code == 0


def test_a_policy_and_its_reference_are_a_model(
    holdtrue: Run, policy: Path, toy_run: Path, toy_folder: Path, tmp_path: Path
) -> None:
    pairs, reference = toy_folder / "eval.jsonl", toy_folder / "model"
    for beta in (0.1, 0.2):
        folder = tmp_path / f"{beta}"
        done = holdtrue("combine", policy, reference, "--by", "implicit", "--beta", beta, "-o", folder)
        assert done.code == 0 and "implicit reward of" in done.out, done.err
        assert holdtrue("score", folder, pairs, "-o", tmp_path / f"{beta}.jsonl").code == 0
    np.testing.assert_allclose(
        rewards(tmp_path / "0.2.jsonl"), 2 * rewards(tmp_path / "0.1.jsonl"), rtol=1e-4
    )
    done = holdtrue("evaluate", tmp_path / "0.1", pairs, "--json")
    assert done.code == 0 and done.value["count"] == 20
    assert holdtrue("verify", tmp_path / "0.1").code == 0
    mixed = tmp_path / "mixed"
    assert holdtrue("combine", tmp_path / "0.1", toy_run, "-o", mixed, "--data", pairs).code == 0
    assert holdtrue("score", mixed, pairs, "-o", tmp_path / "mixed.jsonl").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{run}", "-o", "{out}"], 2, "takes two models or more, got only"),
        (["{run}", "{run}"], 2, "--output FOLDER"),
        (["{run}", "{run}/model", "-o", "{out}"], 2, "is given twice"),
        (["{run}", "gone", "-o", "{out}"], 3, "gone does not exist"),
        (
            ["{run}", "{base}", "-o", "{out}"],
            3,
            "does not say how its rewards spread; measure them with --data",
        ),
        (["{run}", "{base}", "-o", "{out}", "--data", "{pairs}"], 3, "has no reward head; train one first"),
        (["{run}", "{second}", "-o", "{run}"], 2, "is not empty; choose another --output"),
        (
            ["{run}", "{second}", "-o", "{out}", "--beta", "1"],
            2,
            "--beta goes with --by implicit, not with mean",
        ),
        (["{run}", "{second}", "-o", "{out}", "--format", "hh"], 2, "no --data is given"),
        (["{run}", "{base}", "-o", "{out}", "--by", "weights"], 3, "has no reward head"),
        (["{base}", "-o", "{out}", "--by", "implicit"], 3, "is a whole model: name its reference too"),
        (["{base}", "{run}", "-o", "{out}", "--by", "implicit"], 3, "a causal LM is needed"),
        (
            ["{base}", "{policy}", "-o", "{out}", "--by", "implicit", "--beta", "0"],
            2,
            "beta: should be greater",
        ),
        (["{base}", "{run}", "{second}", "-o", "{out}", "--by", "implicit"], 2, "a policy and its reference"),
        (["{base}", "{base}", "-o", "{out}", "--by", "implicit"], 2, "every reward would be 0"),
    ],
)
def test_what_cannot_be_combined_is_said_in_one_line_and_leaves_nothing(
    arguments: list[str],
    code: int,
    message: str,
    holdtrue: Run,
    toy_run: Path,
    second_run: Path,
    policy: Path,
    toy_folder: Path,
    tmp_path: Path,
) -> None:
    places = {"run": toy_run, "second": second_run, "base": toy_folder / "model", "out": tmp_path / "out"}
    places |= {"pairs": toy_folder / "eval.jsonl", "policy": policy}
    done = holdtrue("combine", *(argument.format(**places) for argument in arguments), "--json")
    assert done.code == code and message in done.error["message"], done.err
    assert "\n" not in done.error["message"] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "plain_text", "message"),
    [
        ("preference_lm", "chat", "no ensemble: "),
        ("scalar", "raw", "plain text is raw text to"),
    ],
)
def test_members_whose_rewards_mean_different_things_make_no_ensemble(
    kind: str,
    plain_text: Any,
    message: str,
    holdtrue: Run,
    toy_run: Path,
    base_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    from holdtrue.reward import store
    from holdtrue.reward.card import RewardCard
    from holdtrue.settings import ModelSettings

    loaded = store.load(ModelSettings(path=str(base_model()), kind=kind))
    card = RewardCard(reward={"mean": 0.0, "std": 1.0}, plain_text=plain_text)
    store.save(loaded, tmp_path / "lm", card)
    done = holdtrue("combine", toy_run, tmp_path / "lm", "-o", tmp_path / "both", "--json")
    assert done.code == 3 and message in done.error["message"]


def test_a_missing_member_and_training_an_ensemble_are_errors(
    holdtrue: Run, toy_run: Path, second_run: Path, toy_folder: Path, tmp_path: Path
) -> None:
    moved, both, pairs = tmp_path / "moved", tmp_path / "both", toy_folder / "eval.jsonl"
    shutil.copytree(second_run / "model", moved)
    assert holdtrue("combine", toy_run, moved, "-o", both).code == 0
    for verb in (["train"], ["plan"]):
        output = ["-o", tmp_path / "next"] if verb == ["train"] else []
        done = holdtrue(*verb, pairs, "--model", both, *output, "--json")
        assert done.code == 3 and "which is not trained as one" in done.error["message"]
    shutil.rmtree(moved)
    for verb in (["evaluate", both, pairs], ["score", both, pairs, "-o", tmp_path / "x"], ["verify", both]):
        done = holdtrue(*verb, "--json")
        assert done.code == 3 and f"needs {moved}, which does not exist" in done.error["message"]


def test_training_goes_on_from_a_run_by_its_name(
    holdtrue: Run, toy_run: Path, toy_folder: Path, tmp_path: Path
) -> None:
    more = ("--set", "training.max_steps=1")
    done = holdtrue("train", toy_folder / "train.jsonl", "--model", toy_run, "-o", tmp_path / "next", *more)
    assert done.code == 0, done.err
    card = json.loads((tmp_path / "next" / "model" / "reward_card.json").read_text())
    assert card["base_model"] == str(toy_run / "model")
    (tmp_path / "settings.yaml").write_text(f"model: {{path: {toy_run}}}\n")
    said = holdtrue(
        "train", tmp_path / "settings.yaml", toy_folder / "train.jsonl", "-o", tmp_path / "x", "--json"
    )
    assert (
        said.code == 3 and f"is a run; the model it trained is {toy_run / 'model'}" in said.error["message"]
    )
