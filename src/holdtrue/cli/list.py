"""``holdtrue list``: what there is to choose from, read off the classes.

The rows made here are also those of the reference pages, so that there is no second list of options.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from holdtrue import kinds
from holdtrue.cli.frame import Result, table
from holdtrue.cli.schema import settings_schema
from holdtrue.errors import SettingsError, unknown

FAMILIES = {
    "kinds": "holdtrue.reward.kinds",
    "losses": "holdtrue.losses",
    "algorithms": "holdtrue.policy.algorithms",
    "formats": "holdtrue.data.formats",
    "transforms": "holdtrue.data.transforms",
    "refreshes": "holdtrue.refresh.methods",
    "benchmarks": "holdtrue.evaluation.benchmarks",
    "detectors": "holdtrue.doctor.detectors",
    "remedies": "holdtrue.doctor.remedies",
}
SETTINGS, CHECKS = "settings", "checks"


def command(
    what: Annotated[str | None, typer.Argument(help="A family, checks, or settings.")] = None,
) -> Result:
    """List what there is to choose from, each with its defaults and meaning.

    The families are kinds (of reward models), losses, algorithms (of policy optimisation), formats and
    transforms (of data), refreshes (of a reward model whose policy has moved), benchmarks, and of the doctor
    detectors (of faults in rollouts) and remedies, with the evidence for each.
    Ensembles, averaged weights and implicit (DPO) rewards are made of models by "holdtrue combine".
    Without an argument the names in all of them are listed.
    """
    if what is None:
        known = {family: kinds.names(package) for family, package in FAMILIES.items()}
        value = [{"family": family, "kinds": names} for family, names in known.items()]
        cells = [(family, ", ".join(names)) for family, names in known.items()]
        return Result(value, table(["family", "kinds"], cells))
    if what == SETTINGS:
        return Result(setting_rows(), _table_of_fields("setting", setting_rows()))
    if what == CHECKS:
        found = check_rows()
        lines = [(row["id"], row["kind"].replace("_", " "), row["summary"]) for row in found]
        return Result(found, table(["id", "check", "what it looks at"], lines))
    if what not in FAMILIES:
        raise SettingsError(unknown("family", what, [*FAMILIES, CHECKS, SETTINGS]))
    rows = kind_rows(FAMILIES[what])
    from rich.console import Group

    parts: list[Any] = []
    for row in rows:
        parts += [f"{row['kind']}: {row['summary'].replace('``', '')}", *facts(row)]
        parts += [_table_of_fields("field", row["fields"]), ""] if row["fields"] else [""]
    return Result(rows, Group(*parts[:-1]))


def kind_rows(package: str) -> list[dict[str, Any]]:
    """A family's kinds: ``kind``, ``summary`` (first paragraph of its docstring), ``fields``.

    A loss also says what it ``needs`` of the data, its ``unit``, what it ``reads`` of a model, whether it is
    ``coupled``, and the ``kinds`` of models it trains; a kind of model what it ``gives``, and its ``losses``.
    A remedy says ``where`` it helps, its ``grade``, ``evidence`` and ``source``, what it ``mends``, and when
    it is ``refused``; a detector what the fault leads to (``leads_to``), its ``fix`` and ``source``.
    An algorithm says the ``inputs`` it reads besides rewards and log-probs.
    """
    return [
        {"kind": name, "summary": paragraph(cls.__doc__)}
        | _relations(cls)
        | {"fields": _rows(cls.model_json_schema())}
        for name, cls in ((name, kinds.load(package, name)) for name in kinds.names(package))
    ]


def _relations(cls: type[kinds.Kind]) -> dict[str, Any]:
    from holdtrue.doctor.detectors import Detector
    from holdtrue.doctor.remedies import Remedy
    from holdtrue.losses import Loss, kinds_of, losses_of
    from holdtrue.policy.algorithms import Algorithm
    from holdtrue.reward.kinds import RewardKind

    if issubclass(cls, Loss):
        read = {"needs": cls.target, "unit": cls.unit, "reads": sorted(cls.reads)}
        return read | {"coupled": cls.coupled, "kinds": kinds_of(cls())}
    if issubclass(cls, RewardKind):
        return {"gives": sorted(cls.gives), "losses": losses_of(cls())}
    if issubclass(cls, Remedy):
        shown = {"where": cls.where, "grade": cls.grade, "evidence": cls.evidence, "source": cls.source}
        return shown | {"mends": sorted(cls.mends), "refused": cls.harms}
    if issubclass(cls, Detector):
        return {"leads_to": cls.why, "fix": cls.fix, "source": cls.source}
    if issubclass(cls, Algorithm):
        return {"inputs": sorted(cls().needs)}
    return {}


def facts(row: dict[str, Any]) -> list[str]:
    """What a row of :func:`kind_rows` says beyond its summary and fields, as sentences."""
    if "needs" in row:
        over = "the whole step at once" if row["coupled"] else f"each {row['unit']} by itself"
        reads = " and ".join(row["reads"])
        needs = "labels" if row["needs"] == "accepted" else row["needs"]
        return [f"Needs {needs}; reads {reads} of {over}; trains {', '.join(row['kinds'])}."]
    if "grade" in row:
        refused = f" Refused: {row['refused']}." if row["refused"] else ""
        said = f"{row['where'].capitalize()}, grade {row['grade']}: {row['evidence']} ({row['source']})."
        return [said, f"For {', '.join(row['mends'])}.{refused}"]
    if "leads_to" in row:
        return [row["leads_to"], *([f"Seen in {row['source']}."] if row["source"] else []), row["fix"]]
    if "inputs" in row:
        return [f"Reads rewards and {', '.join(['logprobs', *row['inputs']])}."]
    return [f"Trained by {', '.join(row['losses'])}."] if "losses" in row else []


def check_rows() -> list[dict[str, str]]:
    """The static checks of doctor check: ``id``, ``kind`` (its name) and ``summary``."""
    from holdtrue.doctor.checks import all_checks

    return [{"id": one.id, "kind": one.name, "summary": one.summary} for one in all_checks()]


def setting_rows(schema: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Every setting: ``name`` such as ``training.max_steps``, ``type``, ``default``, ``meaning``.

    ``schema`` is by default that of a reward model's settings.
    """
    return _rows(schema or settings_schema())


def paragraph(docstring: str | None) -> str:
    """A docstring's first paragraph as one line."""
    return " ".join(inspect.cleandoc(docstring or "").partition("\n\n")[0].split())


def _rows(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "type": spell(field),
            "default": field.get("default"),
            "meaning": paragraph(field.get("description")),
        }
        for name, field in _leaves(schema, schema.get("$defs", {}), "")
    ]


def _leaves(schema: dict[str, Any], sections: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in schema.get("properties", {}).items():
        items = field.get("items", {})
        branches = [field, *field.get("anyOf", ()), *field.get("allOf", ()), items]
        inner = next((branch["$ref"] for branch in branches if "$ref" in branch), None)
        if inner is None:
            yield prefix + name, field
        else:
            mark = "[]" if "$ref" in items else ""
            yield from _leaves(sections[inner.rpartition("/")[2]], sections, f"{prefix}{name}{mark}.")


def spell(schema: dict[str, Any]) -> str:
    """A field's type for people, from its JSON Schema: ``integer > 0 or null``."""
    if any("properties" in option for option in schema.get("anyOf", ())):
        return " | ".join(next(option["enum"] for option in schema["anyOf"] if "enum" in option))
    if "anyOf" in schema:
        return " or ".join(spell(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {spell(schema['items'])}"
    if schema.get("type") == "object":
        inner = schema["additionalProperties"]
        return "mapping" if inner is True else f"mapping to {spell(inner)}"
    bounds = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    limits = [f"{sign} {schema[bound]}" for bound, sign in bounds.items() if bound in schema]
    return " ".join([schema.get("type", "any"), ", ".join(limits)]).strip()


def _table_of_fields(header: str, rows: list[dict[str, Any]]) -> Any:
    cells = [
        (row["name"], row["type"], json.dumps(row["default"]), row["meaning"].replace("``", ""))
        for row in rows
    ]
    return table([header, "type", "default", "meaning"], cells)
