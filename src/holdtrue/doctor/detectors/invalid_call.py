"""A tool call that no tool can take."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from holdtrue.doctor.detectors import Detector, Flag
from holdtrue.doctor.reading import Reading, quote
from holdtrue.doctor.tool_calls import OPEN, declared, placed_calls

Tools = Mapping[str, Mapping[str, Any]]
_LEFT_OPEN = ("additionalProperties", "patternProperties", "oneOf", "anyOf", "allOf", "$ref")
"""What of a schema allows other arguments than its ``properties``."""


class InvalidCall(Detector):
    """A call in ``<tool_call>`` tags that is no JSON object with a name; or, where the row has its ``tools``,
    names none of them, lacks an argument that is required or has one that is not declared. Warns.

    Calls in other formats (XML, code) are left alone, and so are empty tags and thoughts that speak of them.
    Undeclared arguments are right where the schema declares some otherwise than by name
    (``additionalProperties``, ``anyOf`` ...); types of arguments are not looked at.
    """

    why: ClassVar = "The tool refuses it and the policy sees an error; a reward may count it as a call."
    fix: ClassVar = (
        "Look whether the prompt shows the schemas as the template renders them; answer with what was wrong; "
        "count valid calls in the reward, not calls; constrain the sampler to the schema."
    )
    source: ClassVar = "Visual-Agent/DeepEyes#131 (ZOOM IN ARGUMENTS ARE INVALID)"

    def check(self, reading: Reading) -> Iterator[Flag]:
        """The first such call, and how many there are."""
        if OPEN not in reading.text:
            return
        tools = declared(reading.rollout.meta)
        calls = [call for call in placed_calls(reading) if call.text.strip()]
        faults = [(call, found) for call in calls if (found := _fault(call.text, tools)) is not None]
        if faults:
            call, (kind, said) = faults[0]
            yield self.flag(
                "warn",
                f"{len(faults)} of {len(calls)} calls: {said}: {quote(call.text.strip(), 160)}",
                span=(call.start, call.end),
                signature=kind,
                faults=len(faults),
                calls=len(calls),
            )


def _fault(text: str, tools: Tools | None) -> tuple[str, str] | None:
    """What is wrong with a call: the kind of fault, and what was seen."""
    if text.lstrip().startswith("<") or "<arg_key>" in text:
        return None
    try:
        call = json.loads(text)
        arguments = call.get("arguments", call.get("parameters"))
        if isinstance(arguments, str):  # as OpenAI's API has them
            arguments = json.loads(arguments or "{}")
        if arguments is None:
            arguments = {}
    except (ValueError, RecursionError, AttributeError):
        return "call is no JSON", "no JSON object with name and arguments"
    name = call.get("name")
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        return "call without a name or arguments", "no name, or arguments that are no object"
    if tools is None:
        return None
    if name not in tools:
        return "undeclared tool", f"{name!r} is none of {', '.join(tools)}"
    schema = tools[name]
    required = schema.get("required")
    missing = [one for one in required if isinstance(one, str)] if isinstance(required, list) else []
    if missing := [one for one in missing if one not in arguments]:
        return "missing argument", f"{name} lacks {', '.join(missing)}"
    left_open = any(schema.get(one) not in (None, False) for one in _LEFT_OPEN)
    known = None if left_open else schema.get("properties")
    if extra := [one for one in arguments if isinstance(known, Mapping) and one not in known]:
        return "undeclared argument", f"{name} does not declare {', '.join(extra)}"
    return None
