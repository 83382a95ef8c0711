"""Who may import whom. The rooms stand in one order; a room uses those before it, never one after it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "holdtrue"

BOTTOM = {"errors", "records", "kinds", "settings", "rundir", "steps", "intervals", "correlation", "health"}
MAY_USE = {
    **dict.fromkeys(BOTTOM, BOTTOM),
    "data": BOTTOM,
    "doctor": BOTTOM | {"data"},
    "report": BOTTOM,
    "evaluation": BOTTOM,
    "tokens": BOTTOM,
    "reward": BOTTOM | {"tokens"},
    "losses": BOTTOM | {"tokens", "reward"},
    "training": BOTTOM | {"data", "tokens", "reward", "losses"},
    "refresh": BOTTOM | {"data", "tokens", "reward", "losses", "training"},
    "policy": BOTTOM | {"data", "tokens", "reward", "losses", "training", "refresh"},
}
"""Room -> rooms it may use, at any time and also for types alone."""
ON_TOP = {
    "worlds",
    "rounds",
    "serving",
    "labelling",
    "adapters",
    "policy_evaluation",
    "job",
    "planning",
    "experiments",
    "cli",
    "__main__",
}
"""They may use every room below and one another, but no room below uses them."""
LAZY = {"worlds", "job", "cli", "__main__"}
"""They import rooms other than the bottom and themselves only when something is done with them."""
TORCH_FREE = BOTTOM | {
    "data",
    "doctor",
    "report",
    "evaluation",
    "losses",
    "job",
    "experiments",
    "cli",
    "__main__",
}
"""Importing any module of these loads no torch."""
HEAVY = {"torch", "transformers", "peft", "safetensors", "datasets", "pyarrow", "optuna"}
MOST_LINES = 450


class Import(NamedTuple):
    target: str
    """Absolute dotted name."""
    at_top: bool
    """Carried out when the module is imported (not in a function, not for types alone)."""
    line: int


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    return {
        ".".join(("holdtrue", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in sorted(SOURCE.rglob("*.py"))
    }


def imports(path: Path, name: str) -> Iterator[Import]:
    """Every import of a module, wherever it stands."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]

    def visit(node: ast.AST, at_top: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, at_top, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:  # `from holdtrue.losses import bradley_terry` may import a module
                inner = f"{base}.{alias.name}"
                yield Import(inner if inner in modules() else base, at_top, node.lineno)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            at_top = False
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, False)
            for child in node.orelse:
                yield from visit(child, at_top)
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_top)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), True)


def room(name: str) -> str | None:
    """``"losses"`` of ``"holdtrue.losses.bradley_terry"``; None outside the package and at its root."""
    first, _, rest = name.partition(".")
    return rest.partition(".")[0] or None if first == "holdtrue" else None


def violations(allowed: dict[str, set[str]], at_top_only: bool = False) -> set[str]:
    """Imports of a room by one that may not use it."""
    return {
        f"{name} imports {found.target}"
        for name, path in modules().items()
        if (here := room(name)) in allowed
        for found in imports(path, name)
        if room(found.target) not in {None, here, *allowed[here]} and (found.at_top or not at_top_only)
    }


def test_every_room_has_its_place():
    rooms = {room(name) for name in modules()} - {None}
    assert rooms <= set(MAY_USE) | ON_TOP, "a new room is added to the tables of this test"


def test_the_order_of_the_rooms_has_no_cycle():
    above = {name: uses - BOTTOM for name, uses in MAY_USE.items()}
    assert list(TopologicalSorter(above).static_order())


def test_rooms_use_only_those_they_may():
    assert violations(MAY_USE) == set()


def test_what_stands_on_top_imports_rooms_only_when_used():
    assert violations(dict.fromkeys(LAZY, BOTTOM | {"job", "cli"}), at_top_only=True) == set()


def test_modules_do_not_import_one_another_in_a_circle():
    graph = {
        name: {i.target for i in imports(path, name) if i.at_top and i.target in modules()} - {name}
        for name, path in modules().items()
    }
    assert list(TopologicalSorter(graph).static_order())


def test_torch_free_rooms_import_nothing_heavy_at_the_top():
    heavy = [
        f"{name}:{found.line} imports {found.target}"
        for name, path in modules().items()
        if room(name) in TORCH_FREE
        for found in imports(path, name)
        if found.at_top and found.target.partition(".")[0] in HEAVY
    ]
    assert heavy == []


IMPORT_EACH = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    if "torch" in sys.modules:
        sys.exit(f"importing {name} loads torch")
print(len(sys.argv) - 1)
"""


def test_importing_every_module_of_the_torch_free_rooms_loads_no_torch():
    names = [name for name in modules() if room(name) in TORCH_FREE or name == "holdtrue"]
    done = subprocess.run([sys.executable, "-c", IMPORT_EACH, *names], capture_output=True, text=True)
    assert done.stdout.strip() == str(len(names)), done.stderr


@pytest.mark.parametrize("name", modules())
def test_a_module_can_be_read_in_one_sitting(name):
    lines = modules()[name].read_text(encoding="utf-8").count("\n")
    assert lines <= MOST_LINES, f"{name} has {lines} lines; make two rooms of it"


def test_imports_are_seen_wherever_they_stand(tmp_path):
    file = tmp_path / "example.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "from . import near\n"
        "from ..errors import DataError\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "class A:\n    import numpy\n"
        "def f():\n    from holdtrue.losses import bradley_terry\n"
    )
    assert list(imports(file, "holdtrue.data.example")) == [
        ("typing", True, 1),
        ("holdtrue.data.near", True, 2),
        ("holdtrue.errors", True, 3),
        ("torch", False, 5),
        ("numpy", True, 7),
        ("holdtrue.losses.bradley_terry", False, 9),
    ]
