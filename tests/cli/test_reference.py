"""The reference pages are those the classes and the command line give."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from holdtrue.cli import main, reference

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
REMEDY = "stale; run: python -m holdtrue.cli.reference docs/reference"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return reference.pages()


def test_every_verb_exists() -> None:
    missing = [verb for verb in main.VERBS if importlib.util.find_spec(f"holdtrue.cli.{verb}") is None]
    assert not missing


def test_the_pages_on_disk_are_current(pages: dict[str, str]) -> None:
    on_disk = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.md")}
    assert set(on_disk) == set(pages)
    assert [name for name in pages if on_disk[name] != pages[name]] == [], REMEDY


def test_the_command_writes_the_pages(tmp_path: Path, pages: dict[str, str]) -> None:
    folder = tmp_path / "made"
    subprocess.run([sys.executable, "-m", "holdtrue.cli.reference", str(folder)], check=True, timeout=60)
    assert {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()} == pages


def test_every_verb_has_a_section_with_its_options(pages: dict[str, str]) -> None:
    sections = pages["commands.md"].split("\n## ")[1:]
    assert [section.partition("\n")[0] for section in sections] == list(main.VERBS)
    assert all("`--json`" in section and "holdtrue " in section for section in sections)


def test_settings_are_tabled_by_section(pages: dict[str, str]) -> None:
    text = pages["settings.md"]
    assert (
        '| `data.truncation` | drop \\| left \\| right \\| error | `"drop"` | What is done with longer ones'
        in text
    )
    assert "\n## training\n" in text and "``" not in text


def test_formats_are_shown_with_their_sample_rows(pages: dict[str, str]) -> None:
    sections = pages["formats.md"].split("\n## ")[1:]
    assert len(sections) >= 4
    assert all(section.split("```json\n")[1].count("\n") == 4 for section in sections)  # 3 rows and the fence
