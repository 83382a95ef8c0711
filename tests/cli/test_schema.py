"""The JSON Schema of the settings file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdtrue import kinds
from holdtrue.cli import main
from holdtrue.cli.schema import settings_schema
from holdtrue.settings import keys


def losses() -> list[dict[str, Any]]:
    return [option for option in settings_schema()["properties"]["loss"]["anyOf"] if "properties" in option]


def test_the_verb_prints_the_schema_for_people_and_programs_alike(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == settings_schema()
    assert main.run(["schema", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == settings_schema()


def test_the_schema_knows_every_section_and_setting() -> None:
    schema = settings_schema()
    for key, _ in keys():
        place: Any = schema
        for part in key.split("."):
            place = place["properties"][part]
            links = [place, *place.get("anyOf", ())]
            link = next((option["$ref"] for option in links if "$ref" in option), None)
            if link:
                place = schema["$defs"][link.removeprefix("#/$defs/")]
    assert all(section["additionalProperties"] is False for section in schema["$defs"].values())


def test_each_loss_has_its_fields_under_its_name() -> None:
    by_name = {schema["properties"]["kind"].get("const"): schema for schema in losses()}
    assert set(by_name) == {*kinds.names("holdtrue.losses"), None}
    bradley_terry = by_name["bradley_terry"]
    assert set(bradley_terry["properties"]) == {"kind", "label_smoothing", "center"}
    assert bradley_terry["properties"]["center"]["minimum"] == 0
    assert bradley_terry["additionalProperties"] is False


def test_only_the_default_loss_may_leave_out_its_name() -> None:
    for schema in losses():
        default = schema["properties"]["kind"].get("const") == "bradley_terry"
        assert ("kind" in schema.get("required", [])) is not default


def test_a_loss_may_be_named_alone_or_come_from_elsewhere() -> None:
    names, outside, *_ = settings_schema()["properties"]["loss"]["anyOf"]
    assert names["enum"] == kinds.names("holdtrue.losses")
    assert outside["pattern"] == "^[^:]+:[^:]+$"
