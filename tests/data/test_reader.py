import gzip
import hashlib
import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdtrue.data.reader import Reader
from holdtrue.errors import DataError, SettingsError
from holdtrue.records import Message

SHARED = Path(os.environ.get("HOLDTRUE_SHARED", Path(__file__).parents[3] / "shared"))


def row(number: int, **more: object) -> dict[str, object]:
    return {"prompt": f"p{number}", "chosen": f"good {number}", "rejected": f"bad {number}", **more}


def line(number: int, **more: object) -> bytes:
    return json.dumps(row(number, **more)).encode()


def read(path: Path, data: bytes, **options: object) -> tuple[list[str], Reader]:
    """Chosen answers of the groups in a file with these bytes, and the reader."""
    path.write_bytes(data)
    reader = Reader([str(path)], rejected=path.with_name("rejected.jsonl"), **options)  # type: ignore[arg-type]
    return [group.answers[0].text for group in reader], reader


def rejections(folder: Path) -> list[dict[str, object]]:
    return [json.loads(text) for text in (folder / "rejected.jsonl").read_text().splitlines()]


def test_a_group_knows_its_prompt_answers_comparison_source_and_row(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    first, second = line(1), line(2, margin=0.25, topic="tea", nested={"a": [1]})
    path.write_bytes(first + b"\n" + second + b"\n")
    group = list(Reader([str(path)]))[1]
    assert group.prompt == (Message("user", "p2"),)
    assert [answer.content for answer in group.answers] == [
        (Message("assistant", "good 2"),),
        (Message("assistant", "bad 2"),),
    ]
    (comparison,) = group.comparisons
    assert (comparison.first, comparison.second, comparison.label, comparison.weight) == (0, 1, 1.0, 1.0)
    assert comparison.margin == 0.25
    assert group.meta == {"topic": "tea", "nested": {"a": [1]}}
    assert group.source is not None
    assert (group.source.file, group.source.line, group.source.offset) == (str(path), 2, len(first) + 1)
    assert group.row == json.loads(second)


def test_a_truncated_last_line_is_quarantined_and_the_rest_is_kept(tmp_path: Path) -> None:
    kept, reader = read(tmp_path / "a.jsonl", line(1) + b"\n" + line(2)[:-9])
    assert kept == ["good 1"]
    assert reader.report.rejected == {"truncated last line": 1}
    (rejection,) = rejections(tmp_path)
    assert (rejection["line"], rejection["offset"]) == (2, len(line(1)) + 1)
    assert rejection["text"] == line(2)[:-9].decode()


def test_a_last_line_without_newline_is_read(tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", line(1) + b"\n" + line(2))[0] == ["good 1", "good 2"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"hello", "not JSON"),
        (b"[1, 2]", "not an object"),
        (b"null", "not an object"),
        (b'{"prompt": "\xff"}', "invalid UTF-8"),
        (b'{"prompt": "\xed\xa0\x80"}', "invalid UTF-8"),
        (b"\0\0\0", "NUL byte"),
        (b'{"prompt": "a\0", "chosen": "b", "rejected": "c"}', "NUL byte"),
        (b'{"prompt": "a", "prompt": "b", "chosen": "c", "rejected": "d"}', "duplicate key"),
        (b'{"prompt": [{"role": "user", "role": "x", "content": ""}]}', "duplicate key"),
        (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", "nested too deeply"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
        (b'{"margin": NaN}', "number not finite"),
        (b'{"margin": -Infinity}', "number not finite"),
        (b'{"margin": 1e400}', "number too large"),
        (b'{"id": ' + b"7" * 5000 + b"}", "number too large"),
        (b'{"question": "?", "answer": "!"}', "layout not recognised"),
        (b'{"prompt": "a", "chosen": "b"}', "layout not recognised"),
        (b"{}", "layout not recognised"),
        (line(2) + line(3), "not JSON"),
        (line(2)[:-1] + b",}", "not JSON"),
    ],
)
def test_a_bad_line_is_reported_with_its_place_and_takes_no_other_with_it(
    tmp_path: Path, bad: bytes, reason: str
) -> None:
    kept, reader = read(tmp_path / "a.jsonl", b"\n".join([line(1), b"", bad, line(4), b""]))
    assert kept == ["good 1", "good 4"]
    assert reader.report.rejected == {reason: 1}
    assert (reader.report.rows, reader.report.kept) == (3, 2)
    (rejection,) = rejections(tmp_path)
    assert (rejection["line"], rejection["offset"], rejection["reason"]) == (3, len(line(1)) + 2, reason)
    assert len(str(rejection["text"])) <= 200


def test_strict_stops_with_file_line_byte_and_reason(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl, line 2 \(byte 58\): not JSON: Expecting value"):
        read(tmp_path / "a.jsonl", line(1) + b"\nhello\n" + line(3), on_bad_row="strict")
    assert len(line(1) + b"\n") == 58


def test_bom_crlf_blank_lines_and_unicode_separators_change_nothing(tmp_path: Path) -> None:
    odd = json.dumps(row(2, chosen="a\u2028b\u0085c"), ensure_ascii=False).encode()
    data = b"\r\n".join([b"\xef\xbb\xbf" + line(1), b"", odd, b"  ", line(3), b""])
    kept, reader = read(tmp_path / "a.jsonl", data)
    assert kept == ["good 1", "a\u2028b\u0085c", "good 3"]
    assert (reader.report.rows, reader.report.rejected) == (3, {})


def test_lone_surrogates_are_replaced_and_counted_and_pairs_are_kept(tmp_path: Path) -> None:
    data = rb'{"prompt": "p", "chosen": "a\ud83d\ude00\ud800b", "rejected": "c\uDC00", "\ud801": 1}'
    kept, reader = read(tmp_path / "a.jsonl", data)
    assert kept == ["a😀\ufffdb"]
    assert reader.report.repaired == {"lone surrogates replaced": 1}
    (group,) = reader
    assert group.meta == {"\ufffd": 1}
    assert json.dumps(group.row, ensure_ascii=False).encode()


def test_answers_of_12000_characters_and_rows_beside_many_brackets_are_kept(tmp_path: Path) -> None:
    long = "word " * 2400 + "{[" * 100
    kept, _ = read(tmp_path / "a.jsonl", line(1, chosen=long) + b"\n" + line(2))
    assert kept == [long, "good 2"]


def test_an_empty_file_has_no_rows_and_require_rows_says_so(tmp_path: Path) -> None:
    for data in (b"", b"\xef\xbb\xbf", b"\n\n"):
        kept, reader = read(tmp_path / "a.jsonl", data)
        assert (kept, reader.report.rows) == ([], 0)
        with pytest.raises(DataError, match=r"no rows in .*a\.jsonl"):
            reader.report.require_rows()


def test_require_rows_names_the_most_frequent_reason_and_its_first_place(tmp_path: Path) -> None:
    _, reader = read(tmp_path / "a.jsonl", b'{"q": 1}\nhello\n{"q": 2}\n')
    with pytest.raises(
        DataError, match=r"2 of 3 rejected because: layout not recognised \(first at .*:1, columns seen: q;"
    ):
        reader.report.require_rows()


def test_a_missing_file_and_an_empty_directory_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl does not exist"):
        Reader([str(tmp_path / "nowhere.jsonl")])
    with pytest.raises(DataError, match="holds no data file"):
        Reader([str(tmp_path)])
    assert DataError.exit_code == 3


def test_a_directory_gives_its_data_files_in_sorted_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.jsonl").write_bytes(line(2))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(line(1)))
    (tmp_path / "sub" / "c.json").write_bytes(b"[" + line(3) + b"]")
    (tmp_path / ".hidden.jsonl").write_bytes(line(4))
    (tmp_path / "README.md").write_text("not data")
    reader = Reader([str(tmp_path)])
    assert [group.answers[0].text for group in reader] == ["good 1", "good 2", "good 3"]
    assert [Path(file["path"]).name for file in reader.report.files] == ["a.jsonl.gz", "b.jsonl", "c.json"]


def test_gzip_is_recognised_by_its_bytes_and_offsets_are_those_of_the_text(tmp_path: Path) -> None:
    data = gzip.compress(line(1) + b"\nx\n") + gzip.compress(line(3))
    kept, _ = read(tmp_path / "no_suffix.jsonl", data)
    assert kept == ["good 1", "good 3"]
    (rejection,) = rejections(tmp_path)
    assert (rejection["line"], rejection["offset"]) == (2, len(line(1)) + 1)


def test_a_truncated_gzip_gives_every_line_before_the_cut(tmp_path: Path) -> None:
    noise = [hashlib.sha256(bytes([i])).hexdigest() for i in range(100)]  # does not compress away
    text = b"\n".join(line(i, noise=noise[i]) for i in range(100))
    packed = gzip.compress(text)
    kept, reader = read(tmp_path / "a.jsonl.gz", packed[: len(packed) // 2])
    assert 30 < len(kept) < 70
    assert kept == [f"good {i}" for i in range(len(kept))]
    assert reader.report.rejected == {"truncated last line": 1, "truncated gzip": 1}
    assert reader.report.rows == len(kept) + 2


def test_a_damaged_gzip_gives_every_line_before_the_damage(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(line(1) + b"\n" + line(2)))
    packed[-6] ^= 1  # in the checksum, after all of the data
    kept, reader = read(tmp_path / "a.jsonl.gz", bytes(packed))
    assert kept == ["good 1", "good 2"]
    assert reader.report.rejected == {"broken gzip": 1}
    with pytest.raises(DataError, match="broken gzip"):
        read(tmp_path / "a.jsonl.gz", bytes(packed), on_bad_row="strict")


@pytest.mark.parametrize("indent", [None, 2])
def test_a_file_that_is_one_json_array_is_read_row_by_row(tmp_path: Path, indent: int | None) -> None:
    text = json.dumps([row(1), 7, row(2, n=1.5)], indent=indent)
    kept, reader = read(tmp_path / "a.json", text.encode())
    assert kept == ["good 1", "good 2"]
    assert reader.report.rejected == {"not an object": 1}
    (rejection,) = rejections(tmp_path)
    offset = rejection["offset"]
    assert isinstance(offset, int) and text.encode()[offset : offset + 1] == b"7"
    assert rejection["line"] == text[:offset].count("\n") + 1


def test_a_broken_array_is_read_as_lines(tmp_path: Path) -> None:
    kept, reader = read(tmp_path / "a.json", b"[\n" + line(1) + b"\n" + line(2) + b",\n")
    assert kept == ["good 1"]
    assert reader.report.rejected == {"not JSON": 2}
    assert "nor is the file one whole JSON array" in reader.report.examples["not JSON"][0]["detail"]


def test_a_line_too_long_to_hold_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdtrue.data.files.MAX_HELD", 300_000)
    data = line(1) + b"\n" + b'{"a": "' + b"x" * 1_000_000 + b'"}\n' + line(3)
    kept, reader = read(tmp_path / "a.jsonl", data)
    assert kept == ["good 1", "good 3"]
    assert reader.report.rejected == {"line too long": 1}
    (rejection,) = rejections(tmp_path)
    assert (rejection["line"], rejection["offset"]) == (2, len(line(1)) + 1)
    assert next(g.source.offset for g in reader if g.source and g.source.line == 3) == data.rindex(line(3))


def test_every_row_is_read_by_its_own_layout(tmp_path: Path) -> None:
    rows = [
        row(1),
        {"chosen": "\n\nHuman: q\n\nAssistant: yes", "rejected": "\n\nHuman: q\n\nAssistant: no"},
        {"prompt": "q", "completions": ["yes", "no", "well"]},
        {"prompt": "q", "completion": "yes"},
        row(2),
    ]
    _, reader = read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert [len(group.answers) for group in reader] == [2, 2, 3, 1, 2]
    assert reader.report.files[0]["format"] == "preference, hh, completions, completion"


def test_a_named_format_that_does_not_fit_says_what_was_seen_and_needed(tmp_path: Path) -> None:
    _, reader = read(tmp_path / "a.jsonl", line(1), format="completions")
    with pytest.raises(
        DataError,
        match=r"not a completions row .*seen: prompt, chosen, rejected; completions needs prompt,",
    ):
        reader.report.require_rows()


def test_an_unknown_format_or_column_is_a_settings_error_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(line(1))
    with pytest.raises(SettingsError, match=r"did you mean 'preference'"):
        Reader([str(tmp_path)], format="preferences")
    with pytest.raises(SettingsError, match=r"unknown column 'margins'; did you mean 'margin'"):
        Reader([str(tmp_path)], columns={"margins": "strength"})


def test_columns_rename_and_a_missing_renamed_column_is_reported(tmp_path: Path) -> None:
    columns = {"margin": "strength", "prompt": "question"}
    first = {"question": "q", "chosen": "a", "rejected": "b", "strength": 2, "prompt": "shadowed"}
    path = tmp_path / "a.jsonl"
    _, reader = read(
        path, json.dumps(first).encode() + b"\n" + b'{"question": "q", "chosen": "a", "rejected": "b"}',
        columns=columns,
    )  # fmt: skip
    (group,) = reader
    assert group.prompt == (Message("user", "q"),)
    assert group.comparisons[0].margin == 2.0
    assert group.meta == {"prompt": "shadowed"}
    assert reader.report.rejected == {"missing column": 1}
    assert (
        "'strength', which margin is to be read from" in reader.report.examples["missing column"][0]["detail"]
    )


def test_a_column_of_another_meaning_can_be_read_from_nowhere(tmp_path: Path) -> None:
    data = line(1, label="safety")
    assert read(tmp_path / "a.jsonl", data)[1].report.rejected == {"label is not a probability": 1}
    kept, reader = read(tmp_path / "a.jsonl", data, columns={"label": ""})
    assert kept == ["good 1"]
    assert next(iter(reader)).meta == {"label": "safety"}


def test_the_report_names_files_with_hash_and_counts(tmp_path: Path) -> None:
    data = line(1) + b"\nhello\n"
    _, reader = read(tmp_path / "a.jsonl", data)
    assert reader.report.as_json() == {
        "rows": 2,
        "kept": 1,
        "rejected": {"not JSON": 1},
        "repaired": {},
        "files": [
            {
                "path": str(tmp_path / "a.jsonl"),
                "sha256": hashlib.sha256(data).hexdigest(),
                "rows": 2,
                "kept": 1,
                "format": "preference",
            }
        ],
    }


def test_reading_holds_one_row_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(line(i) for i in range(20_000)))
    reader = Reader([str(path)])
    rows = iter(reader)
    next(rows)
    assert reader.report.rows == 1


def test_parquet_rows_are_numbered_and_missing_numbers_are_null(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    columns = {
        "prompt": ["p1", "p2", "p3"],
        "chosen": ["good 1", "good 2", None],
        "rejected": ["bad 1", "bad 2", "bad 3"],
        "margin": [0.5, float("nan"), 1.0],
        "when": [b"\xff", b"b", b"c"],
    }
    pq.write_table(pa.table(columns), path, row_group_size=2)
    reader = Reader([str(path)])
    groups = list(reader)
    assert [group.comparisons[0].margin for group in groups] == [0.5, None]
    assert [group.source.line for group in groups if group.source] == [1, 2]
    assert reader.report.rejected == {"missing field": 1}
    assert reader.report.repaired == {"NaN read as null": 1}
    assert reader.report.files[0]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [group.meta["when"] for group in groups] == ["\ufffd", "b"]


def test_a_broken_parquet_file_is_reported_and_the_next_file_is_read(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "b.jsonl").write_bytes(line(1))
    reader = Reader([str(tmp_path)])
    assert len(list(reader)) == 1
    assert reader.report.rejected == {"broken Parquet": 1}


def test_without_the_hub_extra_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    for path in (str(tmp_path), "hub:owner/name"):
        with pytest.raises(DataError, match=r"pip install 'holdtrue\[hub\]'"):
            list(Reader([path]))


def test_a_hub_data_set_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "train.jsonl").write_bytes(line(1) + b"\n" + line(2))
    monkeypatch.chdir(tmp_path)  # datasets takes owner/name for the folder of that name
    reader = Reader(["hub:owner/name:train"])
    assert [group.answers[0].text for group in reader] == ["good 1", "good 2"]
    assert reader.report.files[0]["sha256"] is None
    with pytest.raises(DataError, match="hub data set owner/nothing cannot be loaded"):
        list(Reader(["hub:owner/nothing"]))


GOOD = st.integers(0, 10**6).map(line)
JUNK = st.one_of(
    st.binary(max_size=60),
    GOOD.flatmap(lambda data: st.integers(0, len(data) - 1).map(lambda n: data[:n])),
    st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=8).map(
        lambda value: json.dumps(value).encode()
    ),
).map(lambda data: data.replace(b"\n", b""))


@settings(max_examples=150, deadline=None)
@given(
    lines=st.lists(st.tuples(st.booleans(), GOOD, JUNK), max_size=8),
    end=st.sampled_from([b"\n", b"\r\n"]),
    packed=st.booleans(),
)
def test_good_lines_survive_between_any_junk(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[tuple[bool, bytes, bytes]],
    end: bytes,
    packed: bool,
) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.jsonl"
    data = b"first" + end + b"".join((good if is_good else junk) + end for is_good, good, junk in lines)
    path.write_bytes(gzip.compress(data) if packed else data)
    reader = Reader([str(path)])
    groups = list(reader)
    assert [group.row for group in groups] == [json.loads(good) for is_good, good, _ in lines if is_good]
    assert reader.report.rows == reader.report.kept + reader.report.rejected.total()
    for group in groups:
        assert group.source is not None and group.source.offset is not None
        text = data[group.source.offset :].partition(end)[0]
        assert json.loads(text) == group.row
        assert data[: group.source.offset].count(b"\n") == group.source.line - 1


def shared(name: str) -> str:
    path = SHARED / "data" / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return str(path)


def test_hh_harmless_gives_the_same_groups_in_both_of_its_forms() -> None:
    plain, native = (
        Reader([shared("hh_harmless/train.jsonl.gz")]),
        Reader([shared("hh_harmless/train.raw.jsonl.gz")]),
    )
    explicit = list(plain)
    assert (plain.report.rows, plain.report.kept) == (1525, 1525)
    assert len({group.prompt_key for group in explicit}) == 1524
    texts = {(group.prompt, *(answer.content for answer in group.answers)) for group in native}
    assert (native.report.rows, native.report.kept) == (1528, 1528)
    assert texts >= {(group.prompt, *(answer.content for answer in group.answers)) for group in explicit}


def test_columns_of_hh_helpful_give_the_margin() -> None:
    reader = Reader([shared("hh_helpful_ai_pairs/test.jsonl.gz")], columns={"margin": "strength"})
    margins = [group.comparisons[0].margin for group in reader]
    assert (len(margins), reader.report.rejected.total()) == (1659, 0)
    assert all(margin is not None and 0 <= margin <= 1 for margin in margins)
