"""Short forms for the messages that tests of data layouts expect, and for what a bad row is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from holdtrue.data import formats
from holdtrue.data.fields import BadRow
from holdtrue.data.formats import Format
from holdtrue.records import Message, Messages


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def says(text: str) -> Messages:
    return (Message("assistant", text),)


def asks(text: str) -> Messages:
    return (Message("user", text),)


def reason(layout: Format, row: Mapping[str, Any]) -> str:
    """Why the layout cannot use the row."""
    with pytest.raises(BadRow) as caught:
        layout.parse(row)
    return str(caught.value)


def changed(name: str, changes: Mapping[str, Any], sample: int = 0) -> str:
    """Why the layout of that name cannot use its sample row with these columns changed."""
    found = formats.named(name)
    row = {**found.sample[sample], **changes}
    assert formats.recognise(row) is found
    return reason(found(), row)
