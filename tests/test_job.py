"""The main job: what it leaves behind when it works, and when it does not."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

import toy
from holdtrue import job
from holdtrue.errors import DataError, Interrupted, ModelError, SettingsError
from holdtrue.rundir import RunDir, read_json
from holdtrue.settings import Settings, build

Values = Callable[..., dict[str, Any]]


@pytest.fixture
def values(toy_folder: Path) -> Values:
    def made(**training: Any) -> dict[str, Any]:
        return {
            "data": {"train": [str(toy_folder / "train.jsonl")], "eval": [str(toy_folder / "eval.jsonl")]},
            "model": {"path": str(toy_folder / "model")},
            "training": training,
        }

    return made


def settings_with(base: dict[str, Any], **changes: Any) -> Settings:
    """Settings with ``section__key=value`` changed."""
    for key, value in changes.items():
        section, _, name = key.partition("__")
        base[section][name] = value
    return build(base)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"data__train": ["no.jsonl"]}, DataError, r"data file no\.jsonl does not exist"),
        ({"data__eval": ["no.jsonl"]}, DataError, r"data file no\.jsonl does not exist"),
        ({"model__path": "/no/model"}, ModelError, "model /no/model does not exist"),
        ({"model__path": "./model"}, ModelError, r"model \./model does not exist"),
        ({"model__path": "a/b/c"}, ModelError, "model a/b/c does not exist"),
        ({"model__path": "models/c"}, ModelError, "model models/c does not exist"),
        ({"model__chat_template_path": "no.jinja"}, ModelError, r"chat template no\.jinja does not exist"),
        ({"model__path": None}, SettingsError, "training needs a model"),
        ({"data__train": []}, SettingsError, "training needs data"),
    ],
)
def test_a_path_that_does_not_exist_leaves_no_run_behind(
    values: Values,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    error: type[Exception],
    match: str,
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=match):
        job.start(settings_with(values(), **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_names_on_a_hub_are_left_to_be_looked_up(values: Values, tmp_path: Path) -> None:
    settings = settings_with(values(), data__train=["hub:owner/pairs"], model__path="owner/model")
    assert job.start(settings, tmp_path / "run").settings()["model"]["path"] == "owner/model"


def test_the_run_exists_with_its_settings_before_torch_is_loaded(toy_folder: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'safetensors', 'peft'): sys.modules[name] = None\n"
        "from holdtrue.cli.main import run\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    arguments = ["train", toy_folder / "train.jsonl", "--model", toy_folder / "model"]
    arguments += ["--output", tmp_path / "run", "--set", "training.max_steps=7"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "torch" in done.stderr
    run = RunDir.open(tmp_path / "run")
    assert build(run.settings()).training.max_steps == 7
    assert run.info()["command"][1:3] == ["train", str(toy_folder / "train.jsonl")]


def test_a_finished_run_holds_what_it_promises(toy_run: Path, toy_folder: Path) -> None:
    run = RunDir(toy_run)
    info = run.info()
    assert info["status"] == "finished" and info["processes"] == 1
    assert info["steps"] == run.metrics()[-1]["step"] == 8
    assert info["started"] <= info["finished"]
    model = info["model"]
    assert (model["architecture"], model["layout"]) == ("LlamaForSequenceClassification", "tree")
    assert model["parameters"] == model["trainable"] == 5168
    assert model["learning_rate"] == 0.04 / 16
    train = info["data"]["train"]
    assert (train["rows"], train["kept"], train["comparisons"]) == (60, 60, 60)
    digest = hashlib.sha256((toy_folder / "train.jsonl").read_bytes()).hexdigest()
    assert train["files"][0]["sha256"] == digest
    kept = read_json(run.evaluation_file)
    assert kept["model_hash"] == info["model_hash"]
    assert kept["results"][0]["count"] == 20
    assert run.report_file.stat().st_size > 10_000
    card = read_json(run.model / "reward_card.json")
    assert card["weights_sha256"] == info["model_hash"]
    assert list(card["data"].values()) == [digest]
    assert not list(run.path.rglob("*.pkl")) + list(run.path.rglob("*.bin")) + list(run.path.rglob("*.pt"))


def test_the_saved_model_is_one_of_plain_transformers_with_the_scores_of_the_run(toy_run: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    run = RunDir(toy_run)
    model = AutoModelForSequenceClassification.from_pretrained(run.model)
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    mistake = read_json(run.evaluation_file)["results"][0]["mistakes"][0]
    for side in ("chosen", "rejected"):
        chat = [
            {"role": "user", "content": mistake["prompt"]},
            {"role": "assistant", "content": mistake[side]},
        ]
        ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)["input_ids"]
        with torch.no_grad():
            reward = model(input_ids=ids).logits[0, 0].item()
        assert reward == pytest.approx(mistake[f"reward_{side}"], rel=1e-4, abs=1e-5)


def test_without_validation_data_a_tenth_of_the_prompts_is_held_out(values: Values, tmp_path: Path) -> None:
    data = toy.write_pairs(tmp_path / "train.jsonl", 300, seed=5)
    settings = settings_with(values(max_steps=1), data__train=[str(data)], data__eval=[])
    run = job.start(settings, tmp_path / "run")
    job.train(run)
    counts = run.info()["data"]
    total = counts["train"]["comparisons"] + counts["eval"]["comparisons"]
    assert total == 300 and 5 <= counts["eval"]["comparisons"] <= 80


def test_with_nothing_held_out_the_training_pairs_are_measured_and_named_so(
    values: Values, tmp_path: Path
) -> None:
    settings = settings_with(values(max_steps=1), data__eval=[], data__eval_fraction=0)
    result = job.train(job.start(settings, tmp_path / "run"))
    assert "training pairs" in result["data"] and result["count"] == 60


def test_rows_left_out_are_counted_and_listed_with_their_reasons(values: Values, tmp_path: Path) -> None:
    good = toy.pairs(20)
    long = {"prompt": "tell " * 200, "chosen": "kind", "rejected": "rude"}
    rows = [*good, long, {"prompt": "rain", "chosen": "bees", "rejected": "bees"}, {"prompt": "rain"}]
    data = toy.write_pairs(tmp_path / "train.jsonl", 0, rows=rows)
    with open(data, "a") as file:
        file.write("garbage\n")
    run = job.start(settings_with(values(max_steps=1), data__train=[str(data)]), tmp_path / "run")
    told: list[str] = []
    job.train(run, tell=lambda event, values: told.append(event))
    counts = run.info()["data"]["train"]
    assert (counts["rows"], counts["comparisons"]) == (24, 20)
    assert counts["dropped"] == {"longer than max_length": 1}
    assert sum(counts["rejected"].values()) == 3
    dropped = [json.loads(line) for line in run.dropped_file.read_text().splitlines()]
    assert [(row["line"], row["split"], row["reason"]) for row in dropped] == [
        (21, "train", "longer than max_length")
    ]
    assert [json.loads(line)["line"] for line in run.rejected_file.read_text().splitlines()] == [22, 23, 24]
    assert told[0] == "prepared" and told[-1] == "finished" and "metrics" in told


def test_data_in_which_nothing_fits_is_an_error_that_says_why(values: Values, tmp_path: Path) -> None:
    rows = [{"prompt": "tell " * 200, "chosen": "kind", "rejected": "rude"}]
    data = toy.write_pairs(tmp_path / "train.jsonl", 0, rows=rows)
    run = job.start(settings_with(values(), data__train=[str(data)]), tmp_path / "run")
    with pytest.raises(DataError, match="no usable comparisons left: 1 longer than max_length"):
        job.train(run)
    assert (run.info()["status"], run.info()["exit_code"]) == ("failed", 3)


def test_a_stop_while_the_embedded_world_is_made_names_the_command_that_goes_on(tmp_path: Path) -> None:
    run = job.start(build({}), tmp_path / "run")
    with pytest.raises(Interrupted, match=f"stopped after step 0 of 300 .*: holdtrue resume {run.path}$"):
        job.train(run, stop=lambda: True)
    assert run.info()["status"] == "interrupted" and not (run.path / "world").exists()


def test_an_interruption_by_the_keyboard_is_written_down(values: Values, tmp_path: Path) -> None:
    run = job.start(build(values()), tmp_path / "run")

    def press(event: str, values: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.train(run, tell=press)
    assert (run.info()["status"], run.info()["exit_code"]) == ("interrupted", 5)


def test_an_allocation_that_fails_is_a_lack_of_resources(values: Values, tmp_path: Path) -> None:
    from holdtrue.errors import ResourceError

    run = job.start(build(values()), tmp_path / "run")

    def exhausted(event: str, values: dict[str, Any]) -> None:
        raise MemoryError

    with pytest.raises(ResourceError, match="out of memory; lower"):
        job.train(run, tell=exhausted)
    assert (run.info()["status"], run.info()["exit_code"]) == ("failed", 6)


def test_a_run_started_with_relative_paths_knows_them_from_anywhere(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy_folder)
    settings = build({"data": {"train": ["train.jsonl"]}, "model": {"path": "model"}})
    values = job.start(settings, tmp_path / "run").settings()
    assert values["data"]["train"] == [str(toy_folder / "train.jsonl")]
    assert values["model"]["path"] == str(toy_folder / "model")


def test_a_sharded_run_saves_its_best_step_and_not_the_last(values: Values, tmp_path: Path) -> None:
    rate = {"training__learning_rate": 1.0, "training__max_steps": 4}  # too high: it gets worse
    whole = job.start(settings_with(values(), **rate), tmp_path / "whole")
    sharded = job.start(settings_with(values(), **rate, training__parallel="fsdp"), tmp_path / "sharded")
    losses = [job.train(run)["loss"] for run in (whole, sharded)]
    assert whole.info()["best_step"] == sharded.info()["best_step"] < 4
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
