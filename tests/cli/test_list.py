"""Lists of what there is to choose from."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from holdtrue import kinds
from holdtrue.cli import main
from holdtrue.cli.list import FAMILIES, setting_rows, spell
from holdtrue.settings import keys


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main.run(["list", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_a_family_is_listed_with_a_summary(
    family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = listed(capsys, family)
    assert [row["kind"] for row in rows] == kinds.names(FAMILIES[family])
    assert all(row["summary"] and field["meaning"] for row in rows for field in row["fields"])


def test_a_loss_is_listed_with_type_default_and_meaning_of_its_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = next(row for row in listed(capsys, "losses") if row["kind"] == "bradley_terry")
    smoothing = row["fields"][0]
    assert (smoothing["name"], smoothing["type"], smoothing["default"]) == (
        "label_smoothing",
        "number >= 0, < 0.5",
        0.0,
    )


def test_a_loss_says_what_it_needs_and_which_kinds_it_trains_and_a_kind_its_losses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    losses = {row["kind"]: row for row in listed(capsys, "losses")}
    odin = losses["odin"]
    assert (odin["needs"], odin["unit"], odin["reads"]) == ("comparisons", "comparison", ["logits"])
    assert odin["coupled"] and odin["kinds"] == ["odin"] and not losses["mse"]["coupled"]
    for row in listed(capsys, "kinds"):
        assert row["losses"] == [name for name, loss in losses.items() if row["kind"] in loss["kinds"]]
    assert main.run(["list", "losses"]) == 0
    assert "Needs labels; reads logits of each answer by itself; trains two_class." in capsys.readouterr().out


def test_every_setting_is_listed_with_what_it_means() -> None:
    rows = {row["name"]: row for row in setting_rows()}
    assert list(rows) == [key for key, _ in keys()]
    assert all(row["meaning"] for row in rows.values())
    assert rows["training.max_steps"]["default"] == -1
    assert rows["loss"]["type"] == " | ".join(kinds.names("holdtrue.losses"))


def test_people_get_a_line_per_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["list", "settings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(setting_rows())  # the header and a rule
    line = next(line for line in lines if line.startswith("data.truncation"))
    assert re.search(r'drop \| left \| right \| error +"drop" +What is done', line)


def test_people_get_a_table_per_loss(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["list", "losses"]) == 0
    assert "bradley_terry: Pairwise logistic loss" in capsys.readouterr().out


def test_without_an_argument_the_families_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert {row["family"]: row["kinds"] for row in listed(capsys)} == {
        family: kinds.names(package) for family, package in FAMILIES.items()
    }


def test_an_unknown_family_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["list", "loses"]) == 2
    assert capsys.readouterr().err == "error: unknown family 'loses'; did you mean 'losses'?\n"


@pytest.mark.parametrize(
    ("schema", "spelled"),
    [
        ({"type": "integer", "exclusiveMinimum": 0}, "integer > 0"),
        ({"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"}]},
         "number >= 0, <= 1 or null"),
        ({"type": "array", "items": {"enum": ["a", "b"]}}, "list of a | b"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "mapping to string"),
        ({}, "any"),
    ],
)  # fmt: skip
def test_types_are_spelled_for_people(schema: dict[str, Any], spelled: str) -> None:
    assert spell(schema) == spelled
