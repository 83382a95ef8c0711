"""Each fix names the command or the setting that carries it out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chat_families import chatml_folder, put
from holdtrue.data.examples import Example
from holdtrue.doctor.applying import fix_command, flags, with_commands
from holdtrue.doctor.checks import examine
from holdtrue.doctor.dialect import Dialect, Engine
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.prescription import every_remedy
from holdtrue.doctor.remedies import Remedy
from holdtrue.doctor.subject import Subject
from holdtrue.doctor.training_settings import by_trl_names
from holdtrue.doctor.vocabulary import Vocabulary


def told(subject: Subject, **fix: Any) -> list[str]:
    finding = Finding("X01", "fail", "seen", fix="mend it", values={"fix": fix})
    return with_commands(subject, finding).splitlines()


def test_a_change_of_the_folder_is_the_command_and_what_it_writes(tmp_path: Path):
    folder = tmp_path / "model"
    lines = told(Subject(folder), **{"generation_config.json": {"eos_token_id": [0, 2]}, "mean_rows": [1, 2]})
    assert lines == [
        "mend it",
        f"holdtrue doctor fix {folder} --output model-fixed  "
        "(writes generation_config.json: eos_token_id = [0, 2]; 2 rows of the weights)",
    ]


def test_data_remedies_are_given_with_the_files_of_the_data(tmp_path: Path):
    turns = ({"role": "user", "content": "q"},)
    examples = [Example(turns, at) for at in ("a b.jsonl:1", "a b.jsonl:2", "c.jsonl:1")]
    subject = Subject(tmp_path / "m", adapter=tmp_path / "lora", examples=examples)
    assert fix_command(subject, ["dedupe", "neutralise"]) == (
        f"holdtrue doctor fix {tmp_path}/m --adapter {tmp_path}/lora --data 'a b.jsonl' --data c.jsonl "
        "--remedy dedupe --remedy neutralise --output m-fixed"
    )


def test_a_finding_that_is_well_gets_no_command(tmp_path: Path):
    well = Finding("T01", "ok", "seen", values={"fix": {"generation_config.json": {"eos_token_id": [2]}}})
    assert with_commands(Subject(tmp_path), well) == ""


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("trl", "--a true --b 0.1"),
        ("verl", "a=true b=0.1"),
        ("openrlhf", "--a --b 0.1"),
        ("holdtrue", "--set a=true --set b=0.1"),
    ],
)
def test_settings_are_given_as_each_program_takes_them(engine: Engine, expected: str):
    assert flags(Dialect(engine), {"a": True, "b": 0.1}) == expected


def test_a_switch_of_openrlhf_is_left_out():
    assert flags(Dialect("openrlhf"), {"enable_prefix_caching": False}) == "(without --enable_prefix_caching)"


def test_checks_say_the_command_and_the_setting_of_the_user_s_program(tmp_path: Path):
    folder = chatml_folder(tmp_path / "m", eos_token="<|endoftext|>")
    put(folder, "generation_config.json", {"eos_token_id": 0})
    settings = by_trl_names({"init_kl_coef": 0, "n_samples_per_prompt": 8})
    fixes = {one.id: one.fix for one in examine(Subject(folder, settings=settings)).findings}
    assert f"holdtrue doctor fix {folder} --output m-fixed" in fixes["T01"]
    assert "eos_token_id = [0, 2]" in fixes["T01"]
    assert fixes["K01"].endswith("openrlhf: --init_kl_coef 0.001")


VOCABULARY = Vocabulary(10, {8: "<|im_start|>", 9: "<|im_end|>"}, frozenset({9}), lambda ids: "")


@pytest.mark.parametrize("remedy", every_remedy(), ids=lambda one: one.name())
def test_every_remedy_says_how_it_is_carried_out(remedy: Remedy):
    how = remedy.how(VOCABULARY)
    assert how
    if remedy.where == "data":
        assert f"--remedy {remedy.name()} " in how["command"]
    if "python" in how:
        assert how["python"].startswith(f"holdtrue.doctor.remedies.{remedy.name()}.")
