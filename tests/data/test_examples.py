from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.data.examples import ExampleFiles, content_of, example_of, read_examples
from holdtrue.doctor.subject import Subject
from holdtrue.doctor.training_settings import by_trl_names
from holdtrue.errors import DataError

ASKED = {"role": "user", "content": "Is tea hot?"}
SAID = {"role": "assistant", "content": "Usually."}
ELSE = {"role": "assistant", "content": "No idea."}


@pytest.mark.parametrize(
    ("row", "layout"),
    [
        ({"messages": [ASKED, SAID]}, "messages"),
        ({"prompt": "Is tea hot?", "completion": "Usually."}, "prompt and completion"),
        ({"prompt": [ASKED], "completion": [SAID]}, "prompt and completion"),
        ({"prompt": "Is tea hot?", "response": "Usually."}, "prompt and completion"),
        ({"prompt": "Is tea hot?", "chosen": "Usually.", "rejected": "No idea."}, "pair"),
        ({"prompt": [ASKED], "chosen": [SAID], "rejected": [ELSE]}, "pair"),
        ({"chosen": [ASKED, SAID], "rejected": [ASKED, ELSE]}, "pair"),
        ({"prompt": [ASKED], "chosen": [ASKED, SAID], "rejected": [ASKED, ELSE]}, "pair"),
        (
            {
                "chosen": "\n\nHuman: Is tea hot?\n\nAssistant: Usually.",
                "rejected": "\n\nHuman: Is tea hot?\n\nAssistant: No idea.",
            },
            "pair",
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Is tea hot?"},
                    {"from": "gpt", "value": "Usually."},
                ]
            },
            "sharegpt",
        ),
        ({"instruction": "Is tea hot?", "input": "", "output": "Usually."}, "alpaca"),
    ],
)
def test_every_layout_gives_the_same_conversation(row, layout):
    named, example = example_of(row, "a:1")
    assert (named, example.messages, example.target) == (layout, (ASKED, SAID), "Usually.")
    assert (example.rejected == (ELSE,)) == (layout == "pair")


def test_a_prompt_alone_has_no_target_and_text_is_its_own():
    assert example_of({"prompt": "Is tea hot?"}, "a:1")[1].target is None
    assert example_of({"text": "Tea is hot."}, "a:1")[1].target == "Tea is hot."


def test_system_and_tools_stand_beside_the_turns():
    tool = {"type": "function", "function": {"name": "heat"}}
    row = {
        "system": "Be brief.",
        "tools": json.dumps([tool]),
        "conversations": [{"from": "observation", "value": "90"}],
    }
    _, example = example_of(row, "a:1")
    assert [turn["role"] for turn in example.messages] == ["system", "tool"]
    assert example.tools == [tool]


def test_turns_keep_their_tool_calls_and_parts_of_text_are_joined():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "heat"}}]}
    parts = {
        "role": "user",
        "content": [{"type": "text", "text": "Is "}, {"type": "image"}, {"type": "text", "text": "tea?"}],
    }
    _, example = example_of({"messages": [parts, call]}, "a:1")
    assert example.messages[1] == call
    assert content_of(example.messages[0]) == "Is tea?"


def test_alpaca_puts_its_input_below_the_instruction():
    _, example = example_of({"instruction": "Say it in German.", "input": "tea", "output": "Tee"}, "a:1")
    assert example.messages[0]["content"] == "Say it in German.\n\ntea"


def test_rows_that_cannot_be_read_are_counted_with_their_places(tmp_path):
    rows = [
        json.dumps({"messages": [ASKED, SAID]}),
        "{broken",
        json.dumps({"a": 1}),
        json.dumps({"messages": 3}),
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    found, report = read_examples([str(tmp_path / "a.jsonl")])
    assert [one.at for one in found] == [f"{tmp_path}/a.jsonl:1"]
    assert report.unread == 3 and report.layouts == {"messages": 1}
    assert report.places["unknown layout"][0].startswith(f"{tmp_path}/a.jsonl:3")


@pytest.mark.parametrize("read", [read_examples, ExampleFiles])
def test_nothing_readable_is_an_error_that_says_why(tmp_path, read):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DataError, match=r"unknown layout \(1 rows, first at .*a.jsonl:1"):
        read([str(tmp_path / "a.jsonl")])
    with pytest.raises(DataError, match="does not exist"):
        read([str(tmp_path / "b.jsonl")])
    (tmp_path / "c.jsonl").write_text("")
    with pytest.raises(DataError, match=r"c\.jsonl: no rows$"):
        read([str(tmp_path / "c.jsonl")])


def test_files_give_their_examples_again_and_again(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"messages": [ASKED, SAID]}) + '\n{"a": 1}\n')
    paths = [str(tmp_path)]
    files, (held, report) = ExampleFiles(paths), read_examples(paths)
    assert len(files) == 2 and list(files) == held == list(files)
    assert files.report == report and report.unread == 2


def test_parquet_gives_what_jsonl_gives(tmp_path):
    pandas = pytest.importorskip("pandas")
    rows = [{"messages": [ASKED, SAID | {"name": "x"}]}, {"messages": [ASKED, ELSE]}]
    pandas.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet, jsonl = (read_examples([str(tmp_path / f"a.{kind}")])[0] for kind in ("parquet", "jsonl"))
    assert [one.messages for one in parquet] == [one.messages for one in jsonl]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.text(max_size=8)
    | st.sampled_from(["assistant", "user", "[]"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "tool_calls"]), inner, max_size=3
        )
    ),
    max_leaves=10,
)
COLUMNS = [
    "messages",
    "prompt",
    "completion",
    "chosen",
    "rejected",
    "text",
    "conversations",
    "instruction",
    "output",
]


@settings(max_examples=400, deadline=None)
@given(
    rows=st.lists(
        st.dictionaries(st.sampled_from([*COLUMNS, "tools", "system"]), VALUES, max_size=4), max_size=4
    )
)
def test_any_rows_are_read_or_counted(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [{"text": "one that is well"}, *rows]))
    found, report = read_examples([str(path)])
    assert len(found) + report.unread == len(rows) + 1
    for one in found:
        assert one.target is None or isinstance(one.target, str)
    assert Subject(path.parent, examples=found).uses is not None


@settings(max_examples=300, deadline=None)
@given(data=st.data(), packed=st.booleans())
def test_a_file_with_any_bytes_changed_is_read_or_an_error_of_ours(tmp_path_factory, data, packed):
    path = tmp_path_factory.mktemp("bytes") / "a.jsonl"
    text = "".join(json.dumps({"messages": [ASKED, SAID], "i": i}) + "\n" for i in range(5)).encode()
    whole = bytearray(gzip.compress(text, mtime=0) if packed else text)
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(whole))
    try:
        found, report = read_examples([str(path)])
        assert found and report.unread >= 0
    except DataError:
        pass


@settings(max_examples=200, deadline=None)
@given(
    values=st.dictionaries(
        st.text(max_size=5) | st.sampled_from(["beta", "algorithm", "loss_type"]), VALUES, max_size=5
    )
)
def test_any_mapping_of_settings_is_read(values):
    assert isinstance(by_trl_names(values), dict)
