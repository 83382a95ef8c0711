import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from holdtrue.cli.check import check, render
from holdtrue.cli.main import run
from holdtrue.errors import DataError, ModelError

SHARED = Path(os.environ.get("HOLDTRUE_SHARED", Path(__file__).parents[3] / "shared"))


def write(path: Path, *rows: dict[str, object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def printed(audit: object) -> str:
    console = Console(width=300, markup=False)
    with console.capture() as capture:
        console.print(render(audit))  # type: ignore[arg-type]
    return capture.get()


def test_a_leak_ends_the_command_with_exit_code_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"prompt": "p", "chosen": "good", "rejected": "evil"}
    train = write(tmp_path / "train.jsonl", row, {**row, "prompt": "q"})
    other = write(tmp_path / "eval.jsonl", {**row, "prompt": "r"})
    assert run(["check", train, "--eval", other]) == 0
    assert "Nothing suspicious found" in capsys.readouterr().out
    assert run(["check", train, "--eval", train, "--json"]) == 4
    value = json.loads(capsys.readouterr().out)
    assert value["failed"] is True and value["counts"]["eval"]["kept"] == 2


def test_nothing_usable_is_a_data_error_that_says_why(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"question": "?"})
    with pytest.raises(DataError, match=r"no usable rows in .*layout not recognised"):
        check([path])


def test_a_missing_model_is_said_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model folder .*nowhere does not exist"):
        check([write(tmp_path / "a.jsonl", {})], model=str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="is not a model folder"):
        check([write(tmp_path / "a.jsonl", {})], model=str(tmp_path / "empty"))


def test_text_from_data_is_never_read_as_markup(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "label": "[red]x[/blue]"}
    path = write(tmp_path / "a.jsonl", row, {"prompt": "p", "chosen": "a", "rejected": "b"})
    text = printed(check([path]))
    assert "label is '[red]x[/blue]'" in text
    assert f"for example {path}:1" in text


def test_examples_of_one_file_name_it_once(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    path = write(tmp_path / "a.jsonl", row, row, row)
    assert f"for example {path}:2, :3\n" in "\n".join(
        line.rstrip() + "\n" for line in printed(check([path])).splitlines()
    )


def test_columns_format_and_plain_text_reach_the_reader(tmp_path: Path) -> None:
    row = {"question": "q", "chosen": "aa", "rejected": "b", "strength": 0.5}
    path = write(tmp_path / "a.jsonl", row)
    audit = check([path], columns={"prompt": "question", "margin": "strength"}, plain_text="raw")
    assert audit.counts["train"]["margins"] == 1
    assert audit.counts["train"]["turns"] == {"0": 1}
    with pytest.raises(DataError, match="not a hh row"):
        check([path], format="hh")


def test_a_real_tokenizer_says_what_does_not_fit() -> None:
    model, data = SHARED / "models" / "stories260K", SHARED / "data" / "hh_harmless" / "train.jsonl.gz"
    if not (model.exists() and data.exists()):
        pytest.skip(f"{model} or {data} is not here")
    audit = check([str(data)], model=str(model))
    assert audit.fit is not None
    fit = audit.fit["train"]
    assert (fit["max_length"], fit["answers"], fit["comparisons"]) == (512, 3050, 1525)
    assert 0.25 < fit["comparisons_dropped"] / fit["comparisons"] < 0.4
    assert "longer than max_length" in printed(audit)
    shorter = check([str(data)], model=str(model), max_length=100)
    assert shorter.fit is not None
    assert shorter.fit["train"]["comparisons_dropped"] > fit["comparisons_dropped"]
