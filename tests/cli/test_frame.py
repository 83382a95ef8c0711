"""The frame of the command line: lazy verbs, results, errors and their exit codes."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import pytest

from holdtrue import __version__
from holdtrue.cli import frame, main, running
from holdtrue.errors import (
    DataError,
    HoldtrueError,
    Interrupted,
    ModelError,
    QualityError,
    ResourceError,
    SettingsError,
)

HEAVY = {"torch", "transformers", "pydantic", "numpy", "peft", "yaml"}


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Makes a function the verb ``probe``."""

    def install(command: Callable[..., Any]) -> None:
        module = types.ModuleType("holdtrue.cli.probe")
        module.command = command  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "holdtrue.cli.probe", module)
        monkeypatch.setitem(main.VERBS, "probe", "A verb of this test.")

    return install


def raising(error: BaseException) -> Callable[[], frame.Result]:
    def command() -> frame.Result:
        raise error

    return command


def execute(*arguments: str, **keywords: Any) -> subprocess.CompletedProcess[str]:
    line = [
        sys.executable,
        "-c",
        "import sys; from holdtrue.cli.main import run; sys.exit(run())",
        *arguments,
    ]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, **keywords)


def test_help_names_every_verb_and_imports_none_of_them_nor_anything_heavy() -> None:
    program = (
        "import sys; from holdtrue.cli.main import run; code = run(['--help']);"
        "print('MODULES', *sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    text, _, modules = done.stdout.partition("MODULES")
    assert done.returncode == 0
    assert all(re.search(rf"^  {verb} +{re.escape(help)}$", text, re.M) for verb, help in main.VERBS.items())
    assert not HEAVY & set(modules.split())
    assert not {f"holdtrue.cli.{verb}" for verb in main.VERBS} & set(modules.split())


def test_help_takes_less_than_0_3_s_of_processor_time_in_the_median_of_five() -> None:
    def processor_seconds() -> float:
        before = os.times()
        execute("--help")
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert sorted(processor_seconds() for _ in range(5))[2] < 0.3


def test_schema_and_lists_need_no_torch() -> None:
    program = (
        "import sys; from holdtrue.cli.main import run;"
        "codes = [run([*line.split(), '--json']) for line in "
        "('schema', 'list', 'list losses', 'list formats', 'list transforms', 'list settings')];"
        "sys.exit(any(codes) or bool({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rl {0}/p.jsonl --model {0} --output {0}/o --set trainin.group=4", "did you mean 'training'"),
        ("rl {0}/p.jsonl --model {0} --reward {0} --output {0}/o", "p.jsonl does not exist"),
        ("rl {0}/s.yaml --model {0} --reward nowhere --output {0}/o", "nowhere does not exist"),
        ("rounds {0}/s.yaml --output {0}/o", "unknown setting 'data'"),
    ],
)
def test_a_slip_in_settings_and_paths_is_said_before_anything_slow_is_imported(
    tmp_path: Any, line: str, said: str
) -> None:
    (tmp_path / "there.jsonl").write_text("")
    (tmp_path / "s.yaml").write_text(f"data: {{prompts: [{tmp_path}/there.jsonl]}}")
    program = (
        "import sys; from holdtrue.cli.main import run; code = run(sys.argv[1:]);"
        "sys.exit(code if 'transformers' not in sys.modules else 99)"
    )
    command = [sys.executable, "-c", program, *line.format(tmp_path).split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode in (2, 3) and said in done.stderr, done.stderr


def test_the_installed_command_is_this_one() -> None:
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="holdtrue")
    assert script.load() is main.run


def test_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out == f"holdtrue {__version__}\n"


def test_no_verb_prints_the_help_to_stderr_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("Usage: holdtrue")


def test_an_unknown_verb_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["trian"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown command 'trian'; did you mean 'train'? (see: holdtrue --help)\n"
    )


@pytest.mark.parametrize(("own", "expected"), [(None, "10000"), ("5", "5")])
def test_threads_do_not_spin_long_for_one_another_unless_told_to(own: str | None, expected: str) -> None:
    code = (
        "import os, sys; from holdtrue.cli.main import run; run(['--version']); "
        "assert 'torch' not in sys.modules; print(os.environ['GOMP_SPINCOUNT'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment |= {} if own is None else {"GOMP_SPINCOUNT": own}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert found.stdout.split()[-1] == expected


@pytest.mark.parametrize("arguments", [["schema", "--jsn"], ["--verson"], ["schema", "extra"]])
def test_wrong_usage_is_exit_2_with_the_help_to_read(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and "--help)" in err


def test_every_verb_takes_json_and_debug_without_knowing_of_them(
    probe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    probe(lambda: frame.Result({"a": 1}, "a is 1"))
    assert main.run(["probe"]) == 0
    assert capsys.readouterr().out == "a is 1\n"
    assert main.run(["probe", "--json", "--debug"]) == 0
    assert capsys.readouterr().out == '{"a": 1}\n'
    assert main.run(["probe", "--help"]) == 0
    assert {"--json", "--debug", "--help"} <= set(capsys.readouterr().out.split())


def test_json_keeps_what_libraries_print_off_stdout(probe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> frame.Result:
        print("noise of a library")
        frame.console().print("noise of ours")
        return frame.Result([1.5, None, "é\ud800"], "text")

    probe(command)
    assert main.run(["probe", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == [1.5, None, "é\ud800"] and out.count("\n") == 1
    assert err == "noise of a library\nnoise of ours\n"


def test_a_value_with_nan_is_a_bug_and_not_printed(probe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    probe(lambda: frame.Result({"accuracy": float("nan")}, ""))
    assert main.run(["probe", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "ValueError"


def test_a_failed_gate_prints_its_value_and_is_exit_4(probe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    probe(lambda: frame.Result({"accuracy": 0.5}, "", exit_code=QualityError.exit_code))
    assert main.run(["probe", "--json"]) == 4
    assert json.loads(capsys.readouterr().out) == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError("s"), 2),
        (DataError("d"), 3),
        (ModelError("m"), 3),
        (QualityError("q"), 4),
        (Interrupted("i"), 5),
        (ResourceError("r"), 6),
    ],
)
def test_our_errors_end_with_their_code_and_their_message_alone(
    probe: Any, capsys: pytest.CaptureFixture[str], error: HoldtrueError, code: int
) -> None:
    probe(raising(error))
    assert main.run(["probe"]) == code
    assert capsys.readouterr() == ("", f"error: {error}\n")
    assert main.run(["probe", "--json"]) == code
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "error": {"type": type(error).__name__, "message": str(error), "exit_code": code}
    }
    assert err == f"error: {error}\n"


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 5, "interrupted"),
        (MemoryError(), 6, "out of memory: an allocation failed"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] can't allocate memory\nmore"), 6, "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/out"), 6, "disk full: /out"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 6, "disk full"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 3, "Permission denied: /x"),
        (OSError("no file is named"), 1, "this is a bug in holdtrue: OSError: no file is named"),
        (KeyError("loss"), 1, "this is a bug in holdtrue: KeyError: 'loss'"),
    ],
)
def test_foreign_errors_end_with_the_code_of_what_they_mean(
    probe: Any, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, says: str
) -> None:
    probe(raising(error))
    assert main.run(["probe"]) == code
    err = capsys.readouterr().err
    assert err.startswith(f"error: {says}") and err.count("\n") == 1


def test_the_accelerators_out_of_memory_is_a_lack_of_resources(
    probe: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = pytest.importorskip("torch")
    probe(raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")))
    assert main.run(["probe"]) == 6
    assert "lower training.max_tokens_per_pass" in capsys.readouterr().err


def test_a_traceback_is_shown_only_when_asked_for(
    probe: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    probe(raising(DataError("no rows")))
    monkeypatch.delenv("HOLDTRUE_DEBUG", raising=False)
    main.run(["probe"])
    assert "Traceback" not in capsys.readouterr().err
    main.run(["probe", "--debug"])
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("HOLDTRUE_DEBUG", "1")
    main.run(["probe"])
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("HOLDTRUE_DEBUG", "0")
    main.run(["probe"])
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_says_where_in_holdtrue_it_was_met(probe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    probe(lambda: frame.columns_from([None]))  # type: ignore[list-item]
    assert main.run(["probe"]) == 1
    assert re.search(r"at \S+/holdtrue/cli/frame\.py:\d+ \(--debug", capsys.readouterr().err)


@pytest.mark.parametrize("arguments", ["schema", "list --json", "list settings", "--help"])
def test_a_closed_pipe_is_quiet_and_ends_as_sigpipe_would(arguments: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    line = [sys.executable, "-c", "from holdtrue.cli.main import run; raise SystemExit(run())"]
    done = subprocess.run(
        [*line, *arguments.split()],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_terminal_without_the_letters_is_no_reason_to_fail() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    human = execute("list", "losses", env=environment)
    assert human.returncode == 0 and "\\u03b5: labels become" in human.stdout
    assert json.loads(execute("list", "losses", "--json", env=environment).stdout)


class Terminal(io.StringIO):
    """A stdout that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_no_color_is_respected_and_piped_output_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.text import Text

    def printed(stream: io.StringIO) -> str:
        monkeypatch.setattr(sys, "stdout", stream)
        frame.console().print(Text("bad", style="red"))
        return stream.getvalue()

    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert printed(Terminal()) == "\x1b[31mbad\x1b[0m\n"
    assert printed(io.StringIO()) == "bad\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert printed(Terminal()) == "bad\n"


def test_a_piped_table_keeps_each_row_on_a_line_and_reads_no_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    frame.console().print(frame.table(["name", "count"], [("[red]" + "x" * 200, 5), ("b", 12)]))
    frame.console().print("[red]plain[/red] :smile:")
    header, _, first, second, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "count"]
    assert first.split() == ["[red]" + "x" * 200, "5"]
    assert line == "[red]plain[/red] :smile:"
    assert second.endswith("   12")  # numbers are set to the right


def test_flags_after_two_dashes_are_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOLDTRUE_DEBUG", raising=False)
    assert frame.asks_for("--json", ["check", "a", "--json"])
    assert not frame.asks_for("--json", ["check", "--", "--json"])
    assert not frame.asks_for("--json", ["check", "--json", "--help"])


def test_columns_are_pairs_of_names() -> None:
    assert frame.columns_from(["margin=strength", "label="]) == {"margin": "strength", "label": ""}
    assert frame.columns_from(None) == {}
    for wrong in (["margin"], ["=strength"], ["margin=a", "margin=b"]):
        with pytest.raises(SettingsError, match="--column"):
            frame.columns_from(wrong)


def test_the_file_is_overridden_by_flags_and_these_by_set(tmp_path: Any) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: {path: from_file}\ndata: {train: [a], format: hh, columns: {label: win}}\nseed: 1\n"
    )
    plain = frame.settings_from([str(file)])
    assert (plain.model.path, plain.data.train, plain.data.format, plain.seed) == (
        "from_file",
        ["a"],
        "hh",
        1,
    )
    flags = frame.settings_from(
        ["b.jsonl", str(file), "c.jsonl"], model="flag", format="preference", columns=["margin=strength"]
    )
    assert flags.model.path == "flag" and flags.data.format == "preference" and flags.seed == 1
    assert flags.data.train == ["b.jsonl", "c.jsonl"]
    assert flags.data.columns == {"label": "win", "margin": "strength"}
    last = frame.settings_from(
        [str(file), "b"], model="flag", overrides=["model.path=set", "data.train=[s]", "seed=3", "seed=4"]
    )
    assert (last.model.path, last.data.train, last.seed) == ("set", ["s"], 4)


def test_a_verbs_own_flags_stand_between_file_and_set(tmp_path: Any) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: {eval: [a]}\ntraining: {processes: 2, max_steps: 5}\n")
    flags = {"data.eval": ["it's, b"], "training.processes": None, "training.max_steps": 6}
    made = frame.settings_from([str(file)], flags=flags, overrides=["training.max_steps=7"])
    assert (made.data.eval, made.training.processes, made.training.max_steps) == (["it's, b"], 2, 7)


def test_a_model_that_is_no_folder_is_said_to_be_looked_for_on_the_hub_before_that_takes_its_time(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert frame.model_path("nosuch") == "nosuch"
    assert capsys.readouterr().err == "there is no folder nosuch here, so it is looked for on the hub\n"
    assert frame.model_path(str(tmp_path)) == str(tmp_path) and frame.model_path(None) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("value", "shown"), [(-0.00001, "0.0000"), (-0.1, "-0.1000"), (None, "not finite")])
def test_a_number_that_rounds_to_nothing_has_no_sign(value: float | None, shown: str) -> None:
    assert running.number(value) == shown


def test_no_settings_file_is_needed() -> None:
    made = frame.settings_from(["pairs.jsonl"], model="m")
    assert made.data.train == ["pairs.jsonl"] and made.model.path == "m" and made.seed == 42


def test_settings_that_cannot_be_used_are_told_from_files_that_are_not_there(
    probe: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(files: list[str], overrides: frame.Overrides = None) -> frame.Result:
        return frame.Result(frame.settings_from(files, overrides=overrides).dump(), "")

    probe(command)
    assert main.run(["probe", str(tmp_path / "none.yaml")]) == 3
    assert "none.yaml does not exist" in capsys.readouterr().err
    assert main.run(["probe", "a.yaml", "b.YML"]) == 2
    assert "only one settings file can be given, got a.yaml and b.YML" in capsys.readouterr().err
    assert main.run(["probe", "a", "--set", "training.max_stesp=1"]) == 2
    assert "did you mean 'training.max_steps'?" in capsys.readouterr().err
    assert main.run(["probe", "a", "--set", "training.max_steps=7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["training"]["max_steps"] == 7


def test_ctrl_c_in_a_running_command_is_exit_5() -> None:
    program = (
        "import os, signal, sys, time, types\n"
        "from holdtrue.cli import main\n"
        "def command():\n"
        "    print('ready', file=sys.stderr, flush=True)\n"
        "    time.sleep(30)\n"
        "sys.modules['holdtrue.cli.probe'] = types.SimpleNamespace(command=command)\n"
        "main.VERBS['probe'] = ''\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.exit(main.run(['probe']))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        time.sleep(0.05)
        process.send_signal(2)
        assert process.wait(timeout=10) == 5
        assert process.stderr.read() == "error: interrupted\n"
