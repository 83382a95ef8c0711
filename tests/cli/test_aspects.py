"""A model of several aspects from its data to its report: closed form, penalties, gate, scores, checks."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toy
from holdtrue.correlation import pearson, ranks

Run = Callable[..., Any]
KIND = {"kind": "aspects", "names": ["quality", "verbosity"], "weights": {"quality": 1}}
GATE = {"width": 8, "layers": 1, "steps": 20}


def rated(count: int, seed: int) -> list[dict[str, Any]]:
    """Answers whose quality goes with praise and with length; a third has no rating of quality."""
    draw = random.Random(seed)
    rows = []
    for pair in toy.pairs(count, seed):
        answers = [pair["chosen"], pair["rejected"]]
        lengths = [len(answer.split()) for answer in answers]
        quality: list[float | None] = [0.2 * n + praise for n, praise in zip(lengths, (1, 0), strict=True)]
        if draw.random() < 1 / 3:
            quality[draw.randrange(2)] = None
        labels = {"quality": quality, "verbosity": lengths}
        rows.append({"prompt": pair["prompt"], "completions": answers, "labels": labels})
    return rows


def train(holdtrue: Run, folder: Path, toy_folder: Path, name: str, *more: object, **kind: Any) -> Any:
    files = {"train": rated(150, 0), "eval": rated(40, 1)}
    paths = {split: toy.write_pairs(folder / f"{split}.jsonl", 0, rows=rows) for split, rows in files.items()}
    settings = {
        "model": {"path": str(toy_folder / "model"), "kind": KIND | kind},
        "loss": "aspect_regression",
        "training": {"method": "ridge"},
        "data": {
            "train": [str(paths["train"]), str(toy_folder / "train.jsonl")],
            "eval": [str(paths["eval"]), str(toy_folder / "eval.jsonl")],
        },
    }
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(settings), encoding="utf-8")
    return holdtrue("train", file, "-o", folder / name, *more, "--json")


def columns(path: Path) -> dict[str, np.ndarray]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = {
        name: np.concatenate([row["aspects"][name] for row in rows]) for name in ("quality", "verbosity")
    }
    texts = [text for row in rows for text in row["completions"]]
    return found | {
        "reward": np.concatenate([row["rewards"] for row in rows]),
        "length": np.array([len(text.split()) for text in texts], dtype=np.float64),
    }


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    found = pearson(ranks(x), ranks(y))
    assert found is not None
    return found


def test_the_gated_model_is_trained_scored_verified_and_reported(
    holdtrue: Run, toy_folder: Path, tmp_path: Path
) -> None:
    done = train(holdtrue, tmp_path, toy_folder, "run", weights={}, gate=GATE)
    assert done.code == 0, done.out
    run = tmp_path / "run"
    fit = json.loads((run / "run.json").read_text())["fit"]
    assert fit["gate"]["comparisons"] > 0 and fit["states"]["computed"] > 0
    assert (run / "model" / "gate.safetensors").is_file()
    assert holdtrue("verify", run).code == 0

    assert holdtrue("score", run, tmp_path / "eval.jsonl", "-o", tmp_path / "scored.jsonl").code == 0
    assert holdtrue("score", run, tmp_path / "eval.jsonl", "-o", tmp_path / "again.jsonl").code == 0
    assert (tmp_path / "scored.jsonl").read_bytes() == (tmp_path / "again.jsonl").read_bytes()
    found = columns(tmp_path / "scored.jsonl")
    assert spearman(found["verbosity"], found["length"]) > 0.5

    measured = holdtrue("evaluate", run, tmp_path / "eval.jsonl", "--json").value["aspects"]
    rows = rated(40, 1)
    known = [value for row in rows for value in row["labels"]["quality"] if value is not None]
    assert (measured["quality"]["count"], measured["verbosity"]["count"]) == (len(known), 80)
    assert measured["quality"]["pearson"] > 0.4 and measured["quality"]["accuracy"] > 0.6
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<bdi>quality</bdi>" in page and "<bdi>verbosity</bdi>" in page


def test_penalties_take_length_out_of_the_reward(holdtrue: Run, toy_folder: Path, tmp_path: Path) -> None:
    left = {}
    for name, verbosity in (("with", None), ("without", "verbosity")):
        done = train(holdtrue, tmp_path, toy_folder, name, verbosity=verbosity)
        assert done.code == 0, done.out
        out = tmp_path / f"{name}.scored.jsonl"
        assert holdtrue("score", tmp_path / name, tmp_path / "train.jsonl", "-o", out).code == 0
        found = columns(out)
        left[name] = (
            spearman(found["reward"], found["verbosity"]),
            spearman(found["reward"], found["length"]),
        )
    # quality = 0.2 length + praise, so the reward goes with length unless it is taken out; 0.03 is the bound
    # on the reference set, which is the training set, of the aspect itself
    assert left["with"][0] > 0.4 and left["with"][1] > 0.3
    assert abs(left["without"][0]) <= 0.031 and abs(left["without"][1]) < 0.15


def broken(**labels: Any) -> dict[str, Any]:
    return {"prompt": "tell about rain ?", "completions": ["so kind", "so rude"], "labels": labels}


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"names": ["quality", "depth"], "weights": {}}, 3, "depth"),
        ({"verbosity": "length"}, 2, "not among the names"),
        ({"weights": {"depth": 1}}, 2, "not among the names"),
    ],
)
def test_aspects_that_are_not_there_end_before_training(
    holdtrue: Run, toy_folder: Path, tmp_path: Path, change: dict[str, Any], code: int, said: str
) -> None:
    done = train(holdtrue, tmp_path, toy_folder, "run", **change)
    assert done.code == code and said in done.error["message"]
    assert "\n" not in done.error["message"] and not (tmp_path / "run" / "states").exists()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([broken(quality=[1, 2], verbosity=[1, 2])] * 2, "rated for 1 prompt"),
        (
            [
                broken(quality=[1, 1], verbosity=[1, 2]),
                broken(quality=[1, 1], verbosity=[3, 2]) | {"prompt": "?"},
            ],
            "all 4 ratings of 'quality' are 1",
        ),
        ([broken(verbosity=[1, 2])], "quality"),
        ([broken(quality=["high", 1], verbosity=[1, 2])], "quality"),
        ([broken(quality=[1], verbosity=[1, 2])], "quality"),
    ],
)
def test_ratings_that_nothing_can_be_learnt_of_end_before_the_backbone_is_read(
    holdtrue: Run, toy_folder: Path, tmp_path: Path, rows: list[dict[str, Any]], said: str
) -> None:
    data = toy.write_pairs(tmp_path / "rows.jsonl", 0, rows=rows)
    done = train(
        holdtrue,
        tmp_path,
        toy_folder,
        "run",
        "--set",
        f"data.train=[{data}]",
        "--set",
        "data.eval=[]",
        "--set",
        "data.eval_fraction=0",
    )
    assert done.code == 3 and said in json.dumps(done.error), done.out
    assert not (tmp_path / "run" / "states").exists()


def test_rows_with_nan_are_left_out_and_counted(holdtrue: Run, toy_folder: Path, tmp_path: Path) -> None:
    rows = rated(30, 0)
    path = tmp_path / "nan.jsonl"
    path.write_text("".join(json.dumps(row).replace("null", "NaN") + "\n" for row in rows), encoding="utf-8")
    done = train(holdtrue, tmp_path, toy_folder, "run", "--set", f"data.train=[{path}]")
    assert done.code == 0, done.out
    whole = [row for row in rows if None not in row["labels"]["quality"]]
    info = json.loads((tmp_path / "run" / "run.json").read_text())["data"]["train"]
    assert sum(info["rejected"].values()) == len(rows) - len(whole) > 0
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())["results"][0]
    assert result["aspects"]["quality"]["fitted_on"] == 2 * len(whole)


def test_a_gate_or_unknown_penalties_are_not_for_training_by_gradient(
    holdtrue: Run, toy_folder: Path, tmp_path: Path
) -> None:
    by_gradient = ("--set", "training.method=gradient")
    done = train(holdtrue, tmp_path, toy_folder, "a", *by_gradient, weights={}, gate=GATE)
    assert done.code == 2 and "trained by training.method ridge" in done.error["message"]
    done = train(holdtrue, tmp_path, toy_folder, "b", *by_gradient, verbosity="verbosity")
    assert done.code == 2 and "give model.kind.penalties" in done.error["message"]


def test_a_gate_needs_comparisons(holdtrue: Run, toy_folder: Path, tmp_path: Path) -> None:
    only = f"data.train=[{tmp_path / 'train.jsonl'}]"
    done = train(holdtrue, tmp_path, toy_folder, "run", "--set", only, weights={}, gate=GATE)
    assert done.code == 3 and "no usable one is among the training rows" in done.error["message"]
