"""A plan says what the run will do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import toy
from holdtrue.errors import DataError
from holdtrue.planning import plan
from holdtrue.rundir import RunDir
from holdtrue.settings import build


def values(folder: Path, **data: Any) -> dict[str, Any]:
    files = {"train": [str(folder / "train.jsonl")], "eval": [str(folder / "eval.jsonl")]}
    return {"data": files | data, "model": {"path": str(folder / "model")}}


def test_steps_tokens_counts_and_model_are_those_of_the_run(toy_folder: Path, toy_run: Path) -> None:
    planned, run = plan(build(values(toy_folder))), RunDir(toy_run)
    info, last = run.info(), run.metrics()[-2]
    assert planned["model"] == info["model"]
    assert planned["data"] == info["data"]
    assert (planned["steps"], planned["tokens"]) == (info["steps"], last["tokens"])
    assert planned["comparisons_per_step"] == 16
    assert planned["lengths"]["max"] <= 128


def test_memory_is_that_of_float32_training(toy_folder: Path) -> None:
    memory = plan(build(values(toy_folder)))["memory_bytes"]
    assert (memory["weights"], memory["gradients"], memory["optimizer"]) == (4 * 5168, 4 * 5168, 8 * 5168)
    assert memory["total"] == sum(value for name, value in memory.items() if name != "total")


def test_adapters_need_gradients_and_optimiser_for_themselves_alone(toy_folder: Path) -> None:
    settings = values(toy_folder)
    settings["model"] |= {"lora": {"r": 2}, "dtype": "bfloat16"}
    planned = plan(build(settings))
    trainable = planned["model"]["trainable"]
    assert trainable < 5168 / 2
    assert planned["memory_bytes"]["optimizer"] == 8 * trainable
    frozen = planned["model"]["parameters"] - trainable
    # frozen weights in two bytes, but for peft's copy of the head from before training, in four
    assert planned["memory_bytes"]["weights"] == 2 * frozen + 4 * trainable + 2 * 16


def test_time_follows_from_the_measured_speed(toy_folder: Path) -> None:
    planned = plan(build(values(toy_folder)))
    assert planned["tokens_per_second"] > 0
    assert planned["seconds"] == pytest.approx(planned["tokens"] / planned["tokens_per_second"], abs=0.1)


def test_the_example_is_the_first_conversation_as_the_model_reads_it(
    toy_folder: Path, tmp_path: Path
) -> None:
    row = {"prompt": "tell about rain ?", "chosen": "the answer is kind", "rejected": "so rude"}
    data = toy.write_pairs(tmp_path / "a.jsonl", 0, rows=[row, *toy.pairs(20)])
    example = plan(build(values(toy_folder, train=[str(data)])))["example"]
    assert " ".join(example["text"].split()) == "user tell about rain ? <|end|> assistant the answer is kind"
    # this template opens no turn of the assistant by itself, so the role counts to the answer
    assert (example["read_token"], example["tokens"], example["answer_tokens"]) == ("<|end|>", 12, [6, 12])


def test_what_is_dropped_and_cut_is_counted_before_anything_is_paid_for(
    toy_folder: Path, tmp_path: Path
) -> None:
    rows = [*toy.pairs(20), {"prompt": "tell " * 200, "chosen": "kind", "rejected": "rude"}]
    data = [str(toy.write_pairs(tmp_path / "a.jsonl", 0, rows=rows))]
    dropping = plan(build(values(toy_folder, train=data)))["data"]["train"]
    assert (dropping["comparisons"], dropping["dropped"]) == (20, {"longer than max_length": 1})
    cutting = plan(build(values(toy_folder, train=data, truncation="left")))["data"]["train"]
    assert (cutting["comparisons"], cutting["cut"]) == (21, {"answers truncated": 2})


def test_a_plan_of_nothing_is_an_error(toy_folder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "tell " * 200, "chosen": "kind", "rejected": "rude"}]
    data = [str(toy.write_pairs(tmp_path / "a.jsonl", 0, rows=rows))]
    with pytest.raises(DataError, match=r"left: 1 longer than max_length; raise data\.max_length or"):
        plan(build(values(toy_folder, train=data)))


def test_a_plan_writes_nothing(toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(toy_folder.rglob("*"))
    plan(build(values(toy_folder)))
    assert sorted(toy_folder.rglob("*")) == before and not list(tmp_path.iterdir())


def test_the_plan_is_of_as_many_steps_as_more_processes_make_of_a_batch_per_device(toy_folder: Path) -> None:
    settings = values(toy_folder)
    settings["training"] = {"per_device_train_batch_size": 5, "processes": 3, "num_train_epochs": 1}
    planned = plan(build(settings))
    assert planned["comparisons_per_step"] == 15
    assert planned["steps"] == 4  # 60 comparisons in steps of at least 15, some prompts twice


def test_validation_data_that_cannot_be_used_are_an_error(toy_folder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "tell", "completion": "kind", "rating": 1}]
    chosen = values(toy_folder)
    chosen["data"]["eval"] = [str(toy.write_pairs(tmp_path / "eval.jsonl", 0, rows=rows))]
    with pytest.raises(DataError, match=r"no usable comparisons in the validation data .*: 1 no comparison"):
        plan(build(chosen))
