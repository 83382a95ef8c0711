"""The reference pages are those the classes and the command line give."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from holdtrue.cli import doctor, main, reference

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
REMEDY = "stale; run: python -m holdtrue.cli.reference docs/reference"


def test_every_verb_exists() -> None:
    missing = [verb for verb in main.VERBS if importlib.util.find_spec(f"holdtrue.cli.{verb}") is None]
    assert not missing


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_page_on_disk_is_current(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == reference.page(name), REMEDY


def test_no_page_is_left_over() -> None:
    assert {file.name for file in FOLDER.iterdir()} <= set(reference.PAGES)


def test_the_command_writes_the_pages(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    subprocess.run([sys.executable, "-m", "holdtrue.cli.reference", str(folder)], check=True, timeout=60)
    written = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}
    assert written == {name: reference.page(name) for name in reference.PAGES}


def test_no_page_shows_the_marks_of_docstrings() -> None:
    assert not [name for name in reference.PAGES if ":`" in reference.page(name)]


def test_every_verb_has_a_section_with_its_options() -> None:
    sections = reference.page("commands.md").split("\n## ")[1:]
    groups = {"doctor": [f"doctor {verb}" for verb in doctor.VERBS]}
    verbs = [name for verb in main.VERBS for name in groups.get(verb, [verb])]
    assert [section.partition("\n")[0] for section in sections] == verbs
    assert all("`--json`" in section and "holdtrue " in section for section in sections)


def test_settings_are_tabled_by_section() -> None:
    text = reference.page("settings.md")
    row = '| `data.truncation` | drop \\| left \\| right \\| error | `"drop"` | What is done with longer ones'
    assert row in text and "\n## training\n" in text and "``" not in text


def test_losses_are_shown_with_formula_source_and_the_kinds_they_train() -> None:
    text = reference.page("losses.md")
    section = text.partition("\n## rao_kupper\n")[2].partition("\n## ")[0]
    assert "\n    P(win) = e^d / (e^d + θ)" in section and "JASA 62:194-204" in section
    assert "[bradley_terry](losses.md#bradley_terry)" in section and ":mod:" not in text
    assert "Needs comparisons; reads gap of each comparison by itself; trains " in section


def test_formats_are_shown_with_their_sample_rows() -> None:
    sections = reference.page("formats.md").split("\n## ")[1:]
    assert len(sections) >= 4
    assert all(section.split("```json\n")[1].count("\n") == 4 for section in sections)  # 3 rows and the fence
