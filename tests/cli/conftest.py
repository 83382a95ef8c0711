"""Running a command line in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from holdtrue.cli.main import run


class Outcome(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """The one JSON value on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.value["error"]
        assert found["exit_code"] == self.code
        assert "Traceback" not in self.err and "bug in holdtrue" not in self.err
        return found


@pytest.fixture
def holdtrue(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def execute(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return execute
