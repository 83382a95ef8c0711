"""Kinds: recipes chosen by name, found by their file's name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError, model_validator

from holdtrue import kinds
from holdtrue.errors import SettingsError
from holdtrue.losses import Loss, LossTerms
from holdtrue.losses.bradley_terry import BradleyTerry

LOSSES = "holdtrue.losses"


class Outside(Loss):
    """A kind that is not part of holdtrue."""

    low: float = Field(0.0, ge=0)
    """Lower end."""
    high: float = 1.0
    """Upper end."""

    @model_validator(mode="after")
    def _ordered(self) -> Outside:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self

    def __call__(self, out: Any, batch: Any) -> LossTerms:
        """Nothing is lost."""
        return LossTerms(out.rewards * 0, batch.weight)


OUTSIDE = f"{__name__}:Outside"


class Holder(BaseModel):
    loss: kinds.chosen(LOSSES, "bradley_terry") = BradleyTerry()  # type: ignore[valid-type]


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A family outside holdtrue, of two modules and a private one."""
    package = tmp_path / "shapes"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_private.py").write_text("raise RuntimeError('imported')")
    (package / "broken.py").write_text("raise RuntimeError('imported')")
    (package / "empty.py").write_text("from holdtrue.losses.bradley_terry import BradleyTerry\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "shapes"  # type: ignore[misc]
    for name in [name for name in sys.modules if name.partition(".")[0] == "shapes"]:
        del sys.modules[name]


def test_names_are_file_names_and_listing_imports_none_of_them(family: str) -> None:
    assert kinds.names(family) == ["broken", "empty"]
    assert "bradley_terry" in kinds.names(LOSSES)


def test_a_module_without_a_kind_of_its_own_is_an_error(family: str) -> None:
    with pytest.raises(SettingsError, match=r"shapes\.empty holds no Kind"):
        kinds.load(family, "empty")


def test_a_name_gives_the_class_and_the_class_its_name() -> None:
    assert kinds.load(LOSSES, "bradley_terry") is BradleyTerry
    assert BradleyTerry.name() == "bradley_terry"


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="unknown loss 'bradly_terry'; did you mean 'bradley_terry'"):
        kinds.load(LOSSES, "bradly_terry")


def test_a_kind_outside_is_named_by_module_and_class() -> None:
    assert kinds.load(LOSSES, OUTSIDE) is Outside
    assert Outside.name() == OUTSIDE
    assert kinds.choose(LOSSES, {"kind": OUTSIDE, "low": 0.5}, "bradley_terry") == Outside(low=0.5)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such_module:X", "cannot be imported: No module named 'no_such_module'"),
        ("json:NoSuchClass", "cannot be imported"),
        (":X", "cannot be imported: Empty module name"),
        (".relative:X", "cannot be imported"),
        ("json:JSONDecoder", "is not a subclass of holdtrue.losses.Loss"),
        ("json:loads", "is not a subclass of holdtrue.losses.Loss"),
    ],
)
def test_an_outside_name_that_leads_nowhere_says_why(name: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        kinds.load(LOSSES, name)


@pytest.mark.parametrize(
    ("value", "built"),
    [
        ("bradley_terry", BradleyTerry()),
        ({"kind": "bradley_terry", "center": 0.5}, BradleyTerry(center=0.5)),
        ({"center": 0.5}, BradleyTerry(center=0.5)),
        ({}, BradleyTerry()),
        (BradleyTerry(center=2), BradleyTerry(center=2)),
    ],
)
def test_a_kind_is_chosen_by_name_or_by_its_fields(value: Any, built: kinds.Kind) -> None:
    assert kinds.choose(LOSSES, value, "bradley_terry") == built


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (3, "a loss is a name or a mapping with 'kind', got 3"),
        (None, "got None"),
        ({"kind": None}, "got {'kind': None}"),
        ({"kind": "bradley_terry", "centre": 1}, "field of bradley_terry 'centre'; did you mean 'center'"),
        ({"center": -1}, "bradley_terry.center: should be greater than or equal to 0, got -1"),
        ({"center": float("nan")}, "bradley_terry.center: should be a finite number, got nan"),
        ({"kind": OUTSIDE, "low": 2}, f"{OUTSIDE}: low is above high$"),
    ],
)  # fmt: skip
def test_a_kind_that_cannot_be_built_says_where_and_what_was_seen(value: Any, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        kinds.choose(LOSSES, value, "bradley_terry")


def test_a_kind_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        BradleyTerry().center = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("loss", [BradleyTerry(label_smoothing=0.1), Outside(low=0.25)])
def test_a_field_that_holds_a_kind_is_written_with_name_and_fields_and_read_back(loss: kinds.Kind) -> None:
    written = Holder(loss=loss).model_dump(mode="json")
    assert written["loss"]["kind"] == loss.name()
    assert Holder(**written).loss == loss


def test_the_schema_of_a_kind_field_lists_names_fields_and_the_way_outside() -> None:
    names, outside, *options, elsewhere = Holder.model_json_schema()["properties"]["loss"]["anyOf"]
    own = next(o for o in options if o["properties"]["kind"] == {"const": "bradley_terry"})
    assert names == {"enum": kinds.names(LOSSES)} and len(options) == len(kinds.names(LOSSES))
    assert own["properties"]["kind"] == {"const": "bradley_terry"}
    assert own["properties"]["label_smoothing"]["exclusiveMaximum"] == 0.5
    assert elsewhere["properties"]["kind"] == outside
    assert elsewhere["required"] == ["kind"]


def test_building_every_loss_loads_no_torch() -> None:
    program = (
        "import sys; from holdtrue import kinds;"
        "[kinds.choose('holdtrue.losses', name, name) for name in kinds.names('holdtrue.losses')];"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
