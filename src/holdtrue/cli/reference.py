"""The pages of ``docs/reference``, made from the classes and the command line.

    python -m holdtrue.cli.reference docs/reference

A test holds the pages current.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import typer

from holdtrue import kinds
from holdtrue.cli import frame, main
from holdtrue.cli.list import FAMILIES, facts, kind_rows, paragraph, setting_rows

NOTE = "<!-- Made by `python -m holdtrue.cli.reference docs/reference`; edit the classes, not this page. -->"
SPHINX_CODE = re.compile("(?<!`)``(?!`)")
SPHINX_ROLE = re.compile(r":(?:class|func|meth|data):`~?")
SPHINX_MODULE = re.compile(r":mod:`~([\w.]+)\.(\w+)`")


def page(name: str) -> str:
    """The text of one page, by file name."""
    text = SPHINX_ROLE.sub("`", SPHINX_CODE.sub("`", PAGES[name]()))
    return f"{NOTE}\n\n{text.strip()}\n"


def settings_page() -> str:
    """Every setting, a table per section."""
    parts = [
        "# Settings",
        "A settings file is YAML, grouped as below; `--set training.max_steps=100` sets one from the command "
        "line. Later ones win: the file, then arguments and flags, then `--set`. Unknown keys are errors. "
        "`holdtrue schema` prints the JSON Schema of the file.",
    ]
    return "\n\n".join([*parts, *_sections(setting_rows())])


def sft_page() -> str:
    """Every setting of fine-tuning, and its losses."""
    from holdtrue.policy.sft_settings import SftSettings

    parts = [
        "# Settings of fine-tuning",
        "What `holdtrue sft` takes, in the way of [other settings](settings.md).",
    ]
    parts += _sections(setting_rows(SftSettings.model_json_schema()))
    package = "holdtrue.policy.sft_losses"
    for name in kinds.names(package):
        cls = kinds.load(package, name)
        parts += [f"## loss: {name}", paragraph(cls.__doc__), inspect.getdoc(inspect.getmodule(cls)) or ""]
        parts.append(fields_table("field", setting_rows(cls.model_json_schema())))
    return "\n\n".join(parts)


def rl_page() -> str:
    """Every setting of policy optimisation."""
    from holdtrue.policy.settings import RLSettings

    parts = [
        "# Settings of policy optimisation",
        "What `holdtrue rl` takes, in the way of [other settings](settings.md).",
    ]
    return "\n\n".join([*parts, *_sections(setting_rows(RLSettings.model_json_schema()))])


def policy_evaluation_page() -> str:
    """Every setting of policy evaluation."""
    from holdtrue.policy.evaluation import PolicyEvaluationSettings

    parts = ["# Settings of policy evaluation", "What `holdtrue evaluate --policy` takes by `--set`."]
    return "\n\n".join([*parts, *_sections(setting_rows(PolicyEvaluationSettings.model_json_schema()))])


def rounds_page() -> str:
    """What settings of rounds have beside those of their parts, and every setting of a gold world."""
    from holdtrue.experiments.goldworld.settings import GoldworldSettings
    from holdtrue.rounds.settings import RoundsSettings

    parts = [
        "# Settings of rounds",
        "What `holdtrue rounds` takes. Section `reward` is as in [settings](settings.md), `rl` as in "
        "[policy optimisation](rl.md), and `refresh` one of the [refreshes](refreshes.md).",
    ]
    own = setting_rows(RoundsSettings.model_json_schema())
    parts += _sections([row for row in own if not row["name"].startswith(("reward.", "rl."))])
    parts += ["# Settings of the gold world", "What `holdtrue goldworld` takes."]
    return "\n\n".join([*parts, *_sections(setting_rows(GoldworldSettings.model_json_schema()))])


def _sections(settings: list[dict[str, Any]]) -> list[str]:
    """A heading and a table for each section of settings."""
    sections: dict[str, list[dict[str, Any]]] = {}
    for row in settings:
        sections.setdefault(row["name"].rpartition(".")[0], []).append(row)
    parts = []
    for section, rows in sections.items():
        parts += [f"## {section}" if section else "## At the top", fields_table("setting", rows)]
    return parts


def family_page(family: str, package: str) -> str:
    """A family's kinds with their fields, and formulas or sample rows where the kind has them."""
    parts = [f"# {family.capitalize()}"]
    for row in kind_rows(package):
        cls: Any = kinds.load(package, row["kind"])
        parts += [f"## {row['kind']}", row["summary"]]
        if said := facts(row):
            parts += said
            document = inspect.getdoc(inspect.getmodule(cls)) or ""
            parts += [_linked(document)] if "\n\n" in document else []
        if row["fields"]:
            parts.append(fields_table("field", row["fields"]))
        if columns := getattr(cls, "columns", None):
            parts.append(markdown_table(["column", "holds"], [(code(k), v) for k, v in columns.items()]))
        if sample := getattr(cls, "sample", None):
            lines = "\n".join(json.dumps(dict(line), ensure_ascii=False) for line in sample)
            parts.append(f"```json\n{lines}\n```")
    return "\n\n".join(parts)


def _linked(docstring: str) -> str:
    """References to modules of a family become links to their sections."""
    pages = {package: f"{family}.md" for family, package in FAMILIES.items()}
    return SPHINX_MODULE.sub(lambda found: f"[{found[2]}]({pages[found[1]]}#{found[2]})", docstring)


def commands_page() -> str:
    """Every verb with its arguments and options, and the exit codes."""
    root = typer.Context(main.group(), info_name="holdtrue")
    parts = ["# Commands", "```text\n" + (frame.__doc__ or "").partition("\n\n")[2].rstrip() + "\n```"]
    for verb, command in _verbs(main.VERBS, "holdtrue.cli"):
        ctx = typer.Context(command, info_name=verb, parent=root)
        text = "\n\n".join(paragraph(part) for part in (command.help or "").split("\n\n"))
        usage = " ".join(["holdtrue", verb, *command.collect_usage_pieces(ctx)])
        records = [param.get_help_record(ctx) for param in command.get_params(ctx)]
        rows = [(code(record[0]), record[1]) for record in records if record]
        parts += [f"## {verb}", text, f"```text\n{usage}\n```", markdown_table(["option", "meaning"], rows)]
    return "\n\n".join(parts)


def _verbs(table: Iterable[str], package: str) -> Iterator[tuple[str, Any]]:
    for verb in table:
        command = main.load(verb, package)
        if isinstance(command, main.Verbs):
            inner = _verbs(command.table, command.package)
            yield from ((f"{verb} {name}", below) for name, below in inner)
        else:
            yield verb, command


def fields_table(header: str, rows: Iterable[dict[str, Any]]) -> str:
    """Fields of settings or of a kind as a markdown table."""
    cells = [
        (code(row["name"]), row["type"], code(json.dumps(row["default"])), row["meaning"]) for row in rows
    ]
    return markdown_table([header, "type", "default", "meaning"], cells)


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; bars in cells are escaped."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: str) -> str:
    """Text as inline code."""
    return f"`{text}`"


PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands_page,
    "settings.md": settings_page,
    "sft.md": sft_page,
    "rl.md": rl_page,
    "policy_evaluation.md": policy_evaluation_page,
    "rounds.md": rounds_page,
    **{f"{family}.md": partial(family_page, family, package) for family, package in FAMILIES.items()},
}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in PAGES:
        (folder / name).write_text(page(name), encoding="utf-8")
