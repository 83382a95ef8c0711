"""``holdtrue schema``: the JSON Schema of the settings file, made from the settings' classes."""

from __future__ import annotations

import json
from typing import Any

from holdtrue.cli.frame import Result
from holdtrue.settings import Settings


def settings_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of everything a settings file may hold, with the fields of every loss."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Settings.model_json_schema()


def command() -> Result:
    """Print the JSON Schema of the settings file.

    An editor that knows it completes keys and marks wrong ones. Write it to a file and name that in the
    first line of the settings: "# yaml-language-server: $schema=holdtrue.schema.json".
    """
    value = settings_schema()
    return Result(value, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
