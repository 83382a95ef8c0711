"""What the kinds of reward models reach on real data, beside rules without a model.

python benchmarks/quality.py --encoder FOLDER --decoder FOLDER [--only PART] [--write docs/results.md]

Every row of the table is an ordinary run of a recipe in ``recipes/``. Finished runs are kept, so the command
goes on where it was stopped. Data is read from ``$HOLDTRUE_SHARED/data`` (default: ``shared`` beside the
repository).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("HOLDTRUE_SHARED", ROOT.parent / "shared")) / "data"
ENCODER = {"data.truncation": "left", "training.num_train_epochs": 1}
SHORTER = {"data.truncation": "left", "data.max_length": 256, "training.num_train_epochs": 0.5}
LONGER = {"data.truncation": "left", "training.num_train_epochs": 2, "training.eval_steps": 100}
KEPT = (
    "data",
    "accuracy",
    "interval",
    "count",
    "baselines",
    "length_correlation",
    "best_of_n",
    "labels",
    "ratings",
    "aspects",
)
MARKS = re.compile(r"(<!-- table -->\n).*?(<!-- end of table -->)", re.S)


@dataclass(frozen=True)
class Case:
    """A recipe on a data set.

    Attributes:
        name: of the run's folder.
        model: ``encoder`` or ``decoder``, a folder given on the command line.
        recipe: a file in ``recipes/``.
        train, test: files below the data folder.
        set: settings that differ from the recipe's.
        note: what the table says about it.
    """

    name: str
    model: str
    recipe: str
    train: list[str]
    test: list[str]
    set: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def _split(folder: str, kind: str = "") -> tuple[list[str], list[str]]:
    return [f"{folder}/train{kind}.jsonl.gz"], [f"{folder}/test{kind}.jsonl.gz"]


def _goals(folder: str) -> tuple[list[str], list[str]]:
    both = ("helpful", "harmless")
    return [f"{folder}/{goal}.train.jsonl.gz" for goal in both], [
        f"{folder}/{goal}.test.jsonl.gz" for goal in both
    ]


def _length_bias(folder: str) -> Iterator[Case]:
    train, test = _split(folder)
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        "plain": ("scalar", {"loss.center": 0}),
        "centred": ("scalar", {"loss.center": 0.1}),
        "balanced": ("scalar", {"loss.center": 0, "data.transforms": "[balance_length]"}),
        "odin": ("odin", {}),
    }
    for way, (recipe, changes) in ways.items():
        yield Case(f"{folder}-{way}", "decoder", recipe, train, test, changes, "" if way == recipe else way)


def cases() -> list[Case]:
    """All rows of the table, cheap ones first."""
    hh, unpaired = _split("hh_harmless"), ["hh_unpaired_bad/train.jsonl.gz"]
    return [
        Case("hh-decoder", "decoder", "scalar", *hh),
        Case("hh-token-values", "decoder", "token_values", *hh),
        Case(
            "toxicity-ranked",
            "encoder",
            "ranked",
            *_split("toxicity_ratings"),
            {**ENCODER, "training.num_train_epochs": 4},
        ),
        Case(
            "truthfulqa-aspects",
            "encoder",
            "aspects",
            *_split("truthfulqa_aspects"),
            {"data.truncation": "left", "model.kind.names": "[truthful, informative]"},
        ),
        Case(
            "fine-grained-aspects",
            "encoder",
            "aspects",
            _split("fine_grained_qa", ".spans")[0],
            _split("fine_grained_qa", ".pairs")[1],
            {"data.truncation": "left", "model.kind.names": "[relevance, factuality, completeness]"},
        ),
        Case("hh-encoder", "encoder", "encoder", *hh),
        Case(
            "hh-two-class",
            "encoder",
            "two_class",
            [*hh[0], *unpaired],
            hh[1],
            ENCODER,
            "with unpaired bad answers",
        ),
        Case(
            "autoj-ties",
            "encoder",
            "ties",
            ["autoj_pairs_ties/train.jsonl.gz"],
            [],
            ENCODER,
        ),
        Case(
            "rmb-pair-ranker",
            "encoder",
            "pair_ranker",
            *_goals("rmb_bon"),
            {**SHORTER, "data.transforms": "[best_worst]"},
        ),
        Case("rmb-encoder", "encoder", "encoder", *_goals("rmb_pairs"), LONGER),
        *_length_bias("hh_helpful_ai_pairs"),
        *_length_bias("alpaca_eval_pairs"),
    ]


def measure(case: Case, model: Path, output: Path) -> dict[str, Any]:
    """Train the case unless its run is finished, evaluate it, and keep what came out.

    A tenth of the training prompts decides which step is best; the test files are seen once, at the end.
    """
    kept, run = output / f"{case.name}.json", output / case.name
    if kept.is_file():
        row: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return row
    train, test = _files(case, output)
    settings = [part for key, value in case.set.items() for part in ("--set", f"{key}={value}")]
    recipe = str(ROOT / "recipes" / f"{case.recipe}.yaml")
    if not (run / "settings.yaml").is_file():
        _holdtrue("train", recipe, *train, "--model", str(model), "--output", str(run), *settings)
    elif json.loads((run / "run.json").read_text(encoding="utf-8"))["status"] != "finished":
        _holdtrue("resume", str(run))
    said = _holdtrue("evaluate", str(run), *test, "--json")
    found = json.loads(said)
    parts = found.get("results", [found])
    row = {
        "case": case.name,
        "info": json.loads((run / "run.json").read_text(encoding="utf-8")),
        "results": [{k: part[k] for k in KEPT if k in part} for part in parts],
    }
    kept.write_text(json.dumps(row), encoding="utf-8")
    return row


def _files(case: Case, output: Path) -> tuple[list[str], list[str]]:
    train, test = ([str(DATA / file) for file in files] for files in (case.train, case.test))
    if len(test) > 1:
        both = output / f"{case.name}.both.jsonl"
        if not both.is_file():
            _holdtrue("convert", *test, "--output", str(both), "--to", "preference")
        test.append(str(both))
    if test:
        return train, test
    pairs = output / f"{case.name}.jsonl"
    halves = [str(pairs.with_suffix(f".{half}.jsonl")) for half in ("train", "test")]
    if not Path(halves[1]).is_file():
        _holdtrue("convert", *train, "--output", str(pairs), "--to", "preference", "--split", "test=0.3")
    return [halves[0]], [halves[1]]


def _holdtrue(*arguments: str) -> str:
    print("holdtrue", *arguments, file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "holdtrue", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def table(rows: list[tuple[Case, dict[str, Any]]]) -> str:
    """The rows as Markdown: accuracy, the rules without a model, and by how much it beats these."""
    heads = ("data", "recipe", "model", "test pairs", "accuracy", "longer answer", "bag of words")
    heads += ("ahead of the better of these", "correlation with length", "minutes")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for case, row in rows:
        for result in row["results"]:
            lines += ["| " + " | ".join(cells) + " |" for cells in _cells(case, row["info"], result)]
    return "\n".join(lines) + "\n"


def _cells(case: Case, info: dict[str, Any], result: dict[str, Any]) -> Iterator[list[str]]:
    path = Path(result["data"])
    data = path.relative_to(DATA).as_posix() if path.is_relative_to(DATA) else path.name
    recipe = case.recipe + (f", {case.note}" if case.note else "")
    minutes = f"{info['seconds'] / 60:.1f}"
    for name, row in (result.get("aspects") or {}).items():
        if row.get("pairs"):
            accuracy = _with_interval(row["accuracy"], row["interval"])
            yield [data, f"{recipe}: {name}", case.model, str(row["pairs"]), accuracy, *["–"] * 4, minutes]
    if result["accuracy"] is None:
        return
    rules = {name: rule for name, rule in result["baselines"].items() if rule["accuracy"] is not None}
    best = max(rules.values(), key=lambda rule: rule["accuracy"])
    ahead = result["accuracy"] - best["accuracy"]
    correlation = result["length_correlation"]["within_pairs_spearman"]
    yield [
        data,
        recipe,
        case.model,
        str(result["count"]),
        _with_interval(result["accuracy"], result["interval"]),
        *(f"{rules[n]['accuracy']:.3f}" if n in rules else "–" for n in ("longer_answer", "bag_of_words")),
        _with_interval(ahead, best["advantage_interval"], "+"),
        "–" if correlation is None else f"{correlation:+.2f}",
        minutes,
    ]


def _with_interval(value: float, interval: list[float] | None, sign: str = "") -> str:
    if interval is None:
        return f"{value:{sign}.3f}"
    return f"{value:{sign}.3f} [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", type=Path, required=True, help="folder of a sentence encoder")
    parser.add_argument("--decoder", type=Path, required=True, help="folder of a causal language model")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--output", type=Path, default=Path("runs/quality"), help="folder for the runs")
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    models = {"encoder": options.encoder, "decoder": options.decoder}
    chosen = [case for case in cases() if options.only in case.name]
    rows = [(case, measure(case, models[case.model], options.output)) for case in chosen]
    text = table(rows)
    print(text)
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        options.write.write_text(MARKS.sub(lambda m: m[1] + text + m[2], page), encoding="utf-8")


if __name__ == "__main__":
    main()
