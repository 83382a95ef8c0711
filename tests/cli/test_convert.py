"""``holdtrue convert``: read any layout, transform, write."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """40 pairs of 20 prompts; every second row repeats the one before."""
    return write(
        tmp_path / "pairs.jsonl",
        [
            {"prompt": f"p{i // 2}", "chosen": f"kind {i // 2}", "rejected": "so rude", "n": i // 2}
            for i in range(40)
        ],
    )


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    return write(
        tmp_path / "rated.jsonl",
        [
            {"prompt": f"p{i}", "completions": ["a", "b", "c"], "ratings": [0.2, 0.9, i / 100]}
            for i in range(20)
        ],
    )


def test_pairs_are_written_with_what_else_their_rows_say(holdtrue: Run, pairs: Path, tmp_path: Path) -> None:
    done = holdtrue("convert", pairs, "-o", tmp_path / "out.jsonl", "--json")
    assert done.code == 0
    assert done.value == {
        "layout": "preference",
        "files": [{"path": str(tmp_path / "out.jsonl"), "rows": 40}],
        "rejected": {},
        "transformed": [],
        "left_out": {},
        "lost": {},
    }
    assert rows(tmp_path / "out.jsonl")[3] == {
        "prompt": [{"role": "user", "content": "p1"}],
        "chosen": [{"role": "assistant", "content": "kind 1"}],
        "rejected": [{"role": "assistant", "content": "so rude"}],
        "n": 1,
    }


def test_plain_strings_stay_as_they_are_when_asked(holdtrue: Run, pairs: Path, tmp_path: Path) -> None:
    assert holdtrue("convert", pairs, "-o", tmp_path / "out.jsonl", "--plain-text", "raw").code == 0
    assert rows(tmp_path / "out.jsonl") == rows(pairs)


def test_a_layout_can_be_named_and_what_it_does_not_hold_is_said(
    holdtrue: Run, pairs: Path, tmp_path: Path
) -> None:
    for layout, labels in {"unpaired": [True, False], "completion": [None, None]}.items():
        path = tmp_path / f"{layout}.jsonl"
        done = holdtrue("convert", pairs, "-o", path, "--to", layout)
        assert done.code == 0
        assert done.out.splitlines() == [
            f"80 rows in {path} ({layout})",
            f"not held by {layout}: 40 comparisons",
        ]
        assert [row.get("label") for row in rows(path)[:2]] == labels


def test_transforms_are_named_or_given_with_fields_and_say_what_they_changed(
    holdtrue: Run, rated: Path, tmp_path: Path
) -> None:
    best_worst = "{kind: best_worst, pairs: all, min_gap: 0.5}"
    options = ["--apply", best_worst, "--apply", "swap", "--to", "completions", "--json"]
    done = holdtrue("convert", rated, "-o", tmp_path / "out.jsonl", *options)
    assert done.code == 0
    first, second = done.value["transformed"]
    # 0.9 against 0.2 and against i / 100 <= 0.19 in each of 20 rows; 0.2 against i / 100 is too close
    assert first["changed"]["pairs made"] == 40
    assert second["kind"] == "swap" and 0 < second["changed"]["comparisons swapped"] < 40
    # read again, all three pairs of a row are there, with a weight of 1/3 each
    assert done.value["lost"] == {
        "weights": 40,
        "answers rated differently but not compared": 20,
        "orders of two answers, preferred second": second["changed"]["comparisons swapped"],
    }


def test_rated_completions_stay_what_they_are_unless_pairs_are_asked_for(
    holdtrue: Run, rated: Path, tmp_path: Path
) -> None:
    done = holdtrue("convert", rated, "-o", tmp_path / "out.jsonl", "--plain-text", "raw", "--json")
    assert done.code == 0 and done.value["layout"] == "completions" and done.value["lost"] == {}
    assert rows(tmp_path / "out.jsonl") == rows(rated)
    done = holdtrue("convert", rated, "-o", tmp_path / "pairs.jsonl", "--to", "preference", "--json")
    assert done.code == 0 and done.value["lost"] == {"ratings": 60}
    assert [row["weight"] for row in rows(tmp_path / "pairs.jsonl")] == [1 / 3] * 60


def test_a_file_of_rated_completions_becomes_pairs(holdtrue: Run, rated: Path, tmp_path: Path) -> None:
    assert holdtrue("convert", rated, "-o", tmp_path / "out.jsonl", "--apply", "best_worst").code == 0
    written = rows(tmp_path / "out.jsonl")
    assert len(written) == 20 and {row["chosen"][0]["content"] for row in written} == {"b"}


def test_prompts_are_split_off_and_transforms_change_the_training_side(
    holdtrue: Run, pairs: Path, tmp_path: Path
) -> None:
    def run(name: str, *options: str) -> tuple[list[Any], list[Any], Any]:
        done = holdtrue(
            "convert", pairs, "-o", tmp_path / f"{name}.jsonl.gz", "--split", "eval=0.3", *options
        )
        assert done.code == 0
        return *(rows(tmp_path / f"{name}.{side}.jsonl.gz") for side in ("train", "eval")), done

    train, held_out, _ = run("plain")
    prompts = [{row["n"] for row in side} for side in (train, held_out)]
    assert not prompts[0] & prompts[1] and len(prompts[0] | prompts[1]) == 20 and all(prompts)
    assert not (tmp_path / "plain.jsonl.gz").exists()
    changed, same, done = run("changed", "--dedupe", "--apply", "noncontextual", "--json")
    assert {row["n"] for row in same} == prompts[1] and len(same) == len(prompts[1])
    assert any(row.get("augmented") == "noncontextual" for row in changed)
    # repeated rows are dropped before the split, the other transform belongs to one file
    where = [change.get("file") for change in done.value["transformed"]]
    assert where == [None, str(tmp_path / "changed.train.jsonl.gz")]
    assert done.value["transformed"][0]["changed"]["exact duplicates dropped"] == 20
    assert run("again", "--dedupe", "--apply", "noncontextual")[:2] == (changed, same)


def test_held_out_rows_get_pairs_of_their_ratings_too(holdtrue: Run, rated: Path, tmp_path: Path) -> None:
    options = ["--split", "test=0.3", "--apply", "best_worst", "--apply", "swap", "--json"]
    done = holdtrue("convert", rated, "-o", tmp_path / "out.jsonl", *options)
    assert done.code == 0 and sum(file["rows"] for file in done.value["files"]) == 20
    kinds = [(change["kind"], Path(change["file"]).name) for change in done.value["transformed"]]
    assert kinds == [
        ("best_worst", "out.train.jsonl"),
        ("swap", "out.train.jsonl"),
        ("best_worst", "out.test.jsonl"),
    ]


def test_rows_that_cannot_be_read_or_written_are_counted_and_listed(
    holdtrue: Run, pairs: Path, tmp_path: Path
) -> None:
    with open(pairs, "a") as file:
        file.write('garbage\n{"prompt": "p", "completion": "alone"}\n')
    done = holdtrue("convert", pairs, "-o", tmp_path / "out.jsonl", "--json")
    assert done.code == 0 and done.value["rejected"] == {"not JSON": 1}
    assert done.value["left_out"] == {"no comparison": 1}
    assert [row["line"] for row in rows(tmp_path / "out.jsonl.rejected.jsonl")] == [41]


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ([], 2, "say where the rows go: --output FILE"),
        (["-o", "pairs.jsonl"], 3, "exists and is not replaced; choose another --output"),
        (["-o", "out.parquet"], 2, "rows are written as JSON lines; call it out.jsonl"),
        (["-o", "no/out.jsonl"], 3, "cannot write"),
        (["-o", "."], 3, "cannot write"),
        (["-o", "out.jsonl", "--to", "prefrence"], 2, "did you mean 'preference'"),
        (["-o", "out.jsonl", "--to", "losses:X"], 2, "cannot be imported"),
        (["-o", "out.jsonl", "--apply", "swop"], 2, "unknown transform 'swop'; did you mean 'swap'"),
        (["-o", "out.jsonl", "--apply", "{kind: swap"], 2, "--apply takes a name or a mapping"),
        (["-o", "out.jsonl", "--apply", "best_worst"], 3, "makes pairs of ratings, but no answer has one"),
        (["-o", "out.jsonl", "--apply", "pseudo_label"], 3, "reads the column rewards, which no row has"),
        (["-o", "out.jsonl", "--split", "eval"], 2, "--split takes NAME=SHARE"),
        (["-o", "out.jsonl", "--split", "eval=1"], 2, "with a share between 0 and 1, got 'eval=1'"),
        (["-o", "out.jsonl", "--split", "train=0.5"], 2, "--split takes NAME=SHARE"),
        (["-o", "out.jsonl", "--format", "hh"], 3, "no usable rows"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(
    holdtrue: Run,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = pairs.read_bytes()
    done = holdtrue("convert", pairs, *options, "--json")
    assert done.code == code and says in done.error["message"]
    assert pairs.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} <= {"pairs.jsonl", "out.jsonl.rejected.jsonl"}


def test_rows_that_a_layout_cannot_hold_at_all_leave_no_empty_file(
    holdtrue: Run, rated: Path, tmp_path: Path
) -> None:
    bare = write(tmp_path / "bare.jsonl", [row | {"ratings": None} for row in rows(rated)])
    done = holdtrue("convert", bare, "-o", tmp_path / "out.jsonl", "--to", "preference", "--json")
    assert done.code == 3 and "out.jsonl as preference: 20 no comparison" in done.error["message"]
    assert not (tmp_path / "out.jsonl").exists()
    one = write(tmp_path / "one.jsonl", rows(rated)[:1])
    done = holdtrue("convert", one, "-o", tmp_path / "out.jsonl", "--split", "eval=0.5", "--json")
    assert done.code == 3 and "no prompts are on its side" in done.error["message"]


def test_a_failed_conversion_leaves_an_existing_side_of_a_split_alone(
    holdtrue: Run, pairs: Path, tmp_path: Path
) -> None:
    (tmp_path / "out.eval.jsonl").write_text("mine\n")
    done = holdtrue("convert", pairs, "-o", tmp_path / "out.jsonl", "--split", "eval=0.3", "--json")
    assert done.code == 3 and "out.eval.jsonl exists" in done.error["message"]
    assert (tmp_path / "out.eval.jsonl").read_text() == "mine\n"
    assert not (tmp_path / "out.train.jsonl").exists()


def test_rows_can_go_into_a_pipe_and_no_torch_is_loaded(pairs: Path) -> None:
    program = (
        "import sys; from holdtrue.cli.main import run;"
        f"code = run(['convert', {str(pairs)!r}, '-o', '/dev/stdout', '--dedupe', '--apply', 'swap']);"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert [json.loads(line)["n"] for line in done.stdout.splitlines()[:20]] == list(range(20))
