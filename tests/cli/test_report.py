"""``holdtrue report``: the page, made anew from the run's files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]


def test_the_page_is_written_anew_and_its_path_printed(holdtrue: Run, toy_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(toy_run, tmp_path / "run"))
    (run / "report.html").unlink()
    done = holdtrue("report", run, "--json")
    assert (done.code, done.value) == (0, {"report": str(run / "report.html")})
    assert "</html>" in (run / "report.html").read_text()
    assert holdtrue("report", run).out.strip() == str(run / "report.html")


def test_a_run_that_is_not_finished_has_a_page_too(holdtrue: Run, toy_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(toy_run, tmp_path / "run"))
    for name in ("evaluation.json", "metrics.jsonl"):
        (run / name).unlink()
    assert holdtrue("report", run).code == 0


def test_what_is_no_run_ends_with_3(holdtrue: Run, toy_folder: Path) -> None:
    done = holdtrue("report", toy_folder / "model", "--json")
    assert done.code == 3 and "is not a run directory" in done.error["message"]


def test_no_torch_is_needed_for_it(toy_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(toy_run, tmp_path / "run")
    code = "import sys; sys.modules['torch'] = None; from holdtrue.cli.main import run; sys.exit(run())"
    subprocess.run([sys.executable, "-c", code, "report", str(run)], check=True, capture_output=True)


def test_a_fine_tuned_policy_has_a_page_when_its_run_ends(
    holdtrue: Run, toy_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "sft"
    (tmp_path / "sft.jsonl").write_text(
        '{"prompt": "tell about rain ?", "completion": "so kind"}\n' * 4 + "{\n"
    )
    given = [
        "--model",
        toy_folder / "model",
        "--set",
        "training.max_steps=2",
        "--set",
        "data.eval_fraction=0",
    ]
    done = holdtrue("sft", tmp_path / "sft.jsonl", *given, "--output", run, "--json")
    assert done.code == 0 and done.value["report"] == str(run / "report.html")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "The training loss went from" in page and "sft.jsonl:5" in page


def test_what_holds_several_runs_names_the_page_it_has(holdtrue: Run, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("a sweep's")
    done = holdtrue("report", tmp_path, "--json")
    assert done.code == 3 and f"has written its page: {tmp_path / 'report.html'}" in done.error["message"]


def test_a_task_without_a_page_is_refused_with_those_that_have_one(holdtrue: Run, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("task: guess")
    done = holdtrue("report", tmp_path, "--json")
    assert done.code == 2 and "task is 'guess', known are rl, sft and rounds" in done.error["message"]
    (tmp_path / "settings.yaml").write_text("task: goldworld")
    assert "holdtrue goldworld --output" in holdtrue("report", tmp_path, "--json").error["message"]


def test_a_page_of_an_optimisation_needs_no_tokenizer_and_no_torch(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    parts = (
        "policy: {path: gone}, data: {eval_fraction: 0}, training: {prompts_per_step: 1, group: 2}, guard: {}"
    )
    (run / "settings.yaml").write_text(f"{{task: rl, {parts}}}")
    row = '{"step": 0, "prompt": "p", "answer": "a", "reward": 1.0}'
    (run / "rollouts.jsonl").write_text(f"{row}\n")
    code = "import sys; sys.modules['torch'] = None; from holdtrue.cli.main import run; sys.exit(run())"
    subprocess.run([sys.executable, "-c", code, "report", str(run)], check=True, capture_output=True)
    assert "No step is finished." in (run / "report.html").read_text(encoding="utf-8")
