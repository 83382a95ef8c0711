"""JSON files keep their style where they are changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdtrue.doctor.json_text import edited


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        ('{\n  "a": 1,\n  "b": 2\n}\n', {"a": 3}, '{\n  "a": 3,\n  "b": 2\n}\n'),
        ('{\n    "a": 1\n}', {"b": [1, 2]}, '{\n    "a": 1,\n    "b": [\n        1,\n        2\n    ]\n}'),
        ('{"a": 1, "b": [1]}', {"b": [1, 2]}, '{"a": 1, "b": [1, 2]}'),
        ('{"a":1,"b":2}', {"b": [1, 2], "c": "x"}, '{"a":1,"b":[1,2],"c":"x"}'),
        (
            '{\n  "a": [1, 2],\n  "b": 1e-05\n}',
            {"a": [3]},
            '{\n  "a": [3],\n  "b": 1e-05\n}',
        ),  # one line stays one
        ('{\n  "a": 1,\n\n  "b": 2\n}', {"b": True}, '{\n  "a": 1,\n\n  "b": true\n}'),
        ('{\r\n\t"a": 1\r\n}\r\n', {"a": [2]}, '{\r\n\t"a": [\r\n\t\t2\r\n\t]\r\n}\r\n'),
        ('{"a": "\\u00e9"}', {"b": "é"}, '{"a": "\\u00e9", "b": "\\u00e9"}'),
        ('{"a": "é"}', {"b": "é"}, '{"a": "é", "b": "é"}'),
        ('{"a": 1, "b": 2, "c": 3}', {"b": None}, '{"a": 1, "c": 3}'),
        ('{"a": 1, "b": 2, "c": 3}', {"b": None, "c": None, "d": 4}, '{"a": 1, "d": 4}'),
        ('{"a": 1, "b": 2}', {"a": None}, '{"b": 2}'),
        ('{"a": 1, "a": 2}', {"a": 3}, '{"a": 3, "a": 3}'),
        ("{}\n", {"a": 1, "b": None}, '{\n  "a": 1\n}\n'),
    ],
)
def test_the_rest_of_the_text_stays(text: str, changes: dict[str, Any], expected: str):
    assert edited(text, changes) == expected


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(
    st.dictionaries(st.text(max_size=4), VALUES, max_size=5),
    st.dictionaries(st.text(max_size=4), VALUES, max_size=5),
    st.sampled_from([None, 1, 2, 4, "\t"]),
    st.booleans(),
)
def test_any_object_has_the_values_that_were_asked_for(
    old: dict[str, Any], changes: dict[str, Any], indent: Any, ascii_only: bool
):
    text = json.dumps(old, indent=indent, ensure_ascii=ascii_only)
    gone = {key for key, value in changes.items() if value is None}
    wanted = {key: value for key, value in {**old, **changes}.items() if key not in gone}
    assert json.loads(edited(text, changes)) == wanted
    assert edited(text, {}) == text or not old
