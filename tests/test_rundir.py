"""The run directory and its files."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdtrue import __version__
from holdtrue.errors import DataError, ResourceError, SettingsError
from holdtrue.rundir import (
    RunDir,
    append_jsonl,
    disk_errors,
    find_model,
    read_json,
    read_jsonl,
    standing,
    write_bytes,
    write_json,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def test_a_new_run_holds_its_settings(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "a" / "run", {"seed": 1, "data": {"train": ["é.jsonl"]}})
    assert run.settings() == {"seed": 1, "data": {"train": ["é.jsonl"]}}
    assert "é.jsonl" in run.settings_file.read_text(encoding="utf-8")
    assert run.checkpoints.is_dir()
    assert RunDir.open(run.path).path == run.path
    assert run.metrics() == []


def test_a_new_run_says_what_began_it(tmp_path: Path) -> None:
    info = RunDir.create(tmp_path / "run", {}).info()
    assert info["holdtrue"] == __version__ and info["python"] == platform.python_version()
    assert info["command"] == sys.argv and info["status"] == "running"
    assert datetime.fromisoformat(info["started"]) <= datetime.now(UTC)


def test_an_empty_directory_can_become_a_run(tmp_path: Path) -> None:
    assert RunDir.create(tmp_path, {}).settings_file.exists()


def test_a_run_is_never_written_over(tmp_path: Path) -> None:
    RunDir.create(tmp_path / "run", {"seed": 1})
    with pytest.raises(SettingsError, match="choose another --output; continue it with: holdtrue resume"):
        RunDir.create(tmp_path / "run", {"seed": 2})
    assert RunDir.open(tmp_path / "run").settings() == {"seed": 1}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(SettingsError, match=r"choose another --output$"):
        RunDir.create(tmp_path / "other", {})
    (tmp_path / "file").write_text("x")
    with pytest.raises(SettingsError, match="already exists"):
        RunDir.create(tmp_path / "file", {})


def test_a_run_that_cannot_be_made_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"cannot write .*file/run: Not a directory"):
        RunDir.create(tmp_path / "file" / "run", {})


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "\ud800"])
def test_settings_that_were_spoilt_are_a_matter_of_data(tmp_path: Path, text: str) -> None:
    run = RunDir.create(tmp_path / "run", {})
    run.settings_file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError, match=r"settings\.yaml does not hold settings"):
        run.settings()


def test_a_directory_without_settings_is_not_a_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match=r"is not a run directory \(no settings\.yaml in it\)"):
            RunDir.open(path)


def test_info_is_added_to(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", {})
    before = run.info()
    run.update_info(status="running", steps=1)
    run.update_info(status="finished")
    assert run.info() == before | {"status": "finished", "steps": 1}


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        (errno.ENOSPC, ResourceError, "disk full while writing /out; what was there before is kept"),
        (errno.EDQUOT, ResourceError, "disk full"),
        (errno.EACCES, DataError, "cannot write /out: Permission denied"),
    ],
)
def test_disk_errors_become_ours(code: int, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says), disk_errors("/out"):
        raise OSError(code, os.strerror(code))


def test_other_errors_pass_through_disk_errors() -> None:
    with pytest.raises(KeyError), disk_errors("/out"):
        raise KeyError("x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_lack_of_resources() -> None:
    with pytest.raises(ResourceError), disk_errors("/dev/full"):
        append_jsonl(Path("/dev/full"), [{"a": 1}])


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    write_json(file, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(file, {"a": float("nan")})
    with pytest.raises(TypeError):
        write_bytes(file, 3)  # type: ignore[arg-type]
    assert read_json(file) == {"a": 1}
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_killed_writer_leaves_the_old_file_or_the_whole_new_one(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    program = (
        "import sys; from pathlib import Path; from holdtrue.rundir import write_json\n"
        "n = 0\n"
        "while True:\n"
        "    write_json(Path(sys.argv[1]), [n] * 20_000)\n"
        "    n += 1\n"
        "    n == 1 and print('ready', flush=True)"
    )
    for delay in (0.0, 0.01, 0.023, 0.04):
        with subprocess.Popen([sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            try:
                process.wait(timeout=delay)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        value = read_json(file)
        assert len(value) == 20_000 and len(set(value)) == 1


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"a": 1} x'])
def test_a_file_that_is_not_json_is_a_matter_of_data(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "run.json"
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"run\.json is not valid JSON"):
        read_json(file)
    with pytest.raises(DataError, match="does not exist"):
        read_json(tmp_path / "none.json")


@given(json_values)
def test_every_json_value_is_written_and_read_back_lone_surrogates_too(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json") == json.loads(json.dumps(value))


@given(st.lists(st.dictionaries(st.text(st.characters(exclude_categories=())), json_values, max_size=3)))
def test_rows_are_appended_and_read_back(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    file = tmp_path / "rows.jsonl"
    file.unlink(missing_ok=True)
    append_jsonl(file, rows[:1])
    append_jsonl(file, rows[1:])
    assert list(read_jsonl(file)) == json.loads(json.dumps(rows))


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_last_line_cut_short_is_left_out_and_not_glued_to_the_next_row(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "metrics.jsonl"
    append_jsonl(file, [{"step": 1}, {"step": 2}])  # a line is 11 bytes and its newline
    os.truncate(file, file.stat().st_size - cut)
    assert list(read_jsonl(file)) == [{"step": 1}]
    append_jsonl(file, [{"step": 3}])
    assert list(read_jsonl(file)) == [{"step": 1}, {"step": 3}]


def test_a_file_of_nothing_but_a_cut_line_starts_anew(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"st')
    append_jsonl(file, [{"step": 1}])
    assert list(read_jsonl(file)) == [{"step": 1}]


def test_a_spoilt_line_in_the_middle_is_named(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1}\n{"st\xff\n{"step": 3}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2 is not valid JSON"):
        list(read_jsonl(file))


def test_a_row_that_is_not_finite_is_refused_and_not_half_written(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_jsonl(file, [{"loss": 1.0}, {"loss": float("inf")}])
    assert list(read_jsonl(file)) == [{"loss": 1.0}]


def test_a_model_is_found_in_a_run_and_in_a_folder(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", {})
    with pytest.raises(DataError, match="has no finished model yet; continue it with: holdtrue resume"):
        find_model(run.path)
    run.model.mkdir()
    (run.model / "config.json").write_text("{}")
    assert find_model(run.path) == run.model == find_model(str(run.model))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert find_model(tmp_path / "adapter") == tmp_path / "adapter"


def test_a_run_of_many_runs_says_which_of_them_has_a_model(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "rounds", {"task": "rounds"})
    with pytest.raises(DataError, match="has no finished model yet; continue it with: holdtrue resume"):
        find_model(run.path)
    rows = [{"event": "round", "policy": f"{n}/rl/model", "model": f"{n}/refresh/model"} for n in (1, 2)]
    append_jsonl(run.metrics_file, rows)
    with pytest.raises(DataError, match="run of rounds; its policy is 2/rl/model, its model 2/refresh/model"):
        find_model(run.path)
    world = RunDir.create(tmp_path / "world", {"task": "goldworld"})
    with pytest.raises(
        DataError, match=r"is a gold world; name a run in it, such as .*/seed-00/trunk/reward"
    ):
        find_model(world.path)


def test_a_place_without_a_model_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none does not exist"):
        find_model(tmp_path / "none")
    with pytest.raises(DataError, match=r"is neither a run directory .* nor a model folder"):
        find_model(tmp_path)


def test_a_file_of_a_run_that_holds_another_value_is_named(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", {})
    run.info_file.write_text("[]")
    with pytest.raises(DataError, match=r"run\.json holds a list, expected an object"):
        run.info()


def test_the_rows_that_stand_are_those_that_no_rollback_took_back() -> None:
    rows: list[dict[str, Any]] = [{"event": "train", "step": step} for step in range(1, 10)]
    rows[5:5] = [{"event": "rollback", "step": 5, "to": 3}]
    rows[9:9] = [{"event": "rollback", "step": 8, "to": 5}]
    assert [row["step"] for row in standing(rows)] == [1, 2, 3, 9]


def test_a_row_that_is_no_object_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"step": 1}\n[1]\n')
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2 holds a list, expected an object"):
        list(read_jsonl(file))
