"""C, markers: turn ends, generation prompts, loss masks, hashes, default system prompts, injection."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_families import CHATML, chat_folder, chatml_folder, finding, put, trl_template
from holdtrue.doctor.checks import examine
from holdtrue.doctor.facts import TEMPLATES
from holdtrue.doctor.findings import Diagnosis
from holdtrue.doctor.subject import Missing, Subject

NO_END = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}"


def test_an_answer_without_an_end_fails(tmp_path: Path):
    seen = finding(Subject(chatml_folder(tmp_path, chat_template=NO_END)), "C01")
    assert seen.severity == "fail"
    assert "the last turn ends with none" in seen.evidence


def test_an_answer_that_ends_at_the_next_turn_s_first_token_warns_when_that_stops(tmp_path: Path):
    folder = chatml_folder(tmp_path, chat_template=NO_END)
    put(folder, "generation_config.json", {"eos_token_id": [1, 2]})
    assert finding(Subject(folder), "C01").severity == "warn"


def test_an_end_only_on_the_last_turn_fails_where_there_are_several(tmp_path: Path):
    folder = chat_folder(tmp_path, "Phi-3.5")
    assert finding(Subject(folder), "C01").severity == "warn"
    seen = finding(Subject(folder, asked=frozenset({"multi-turn"})), "C01")
    assert seen.severity == "fail"
    assert seen.values["fix"] == {"generation_config.json": {"eos_token_id": [0, 4]}}
    put(folder, "generation_config.json", seen.values["fix"]["generation_config.json"])
    assert finding(Subject(folder, asked=frozenset({"multi-turn"})), "C01").severity == "ok"


@pytest.mark.parametrize("source", ["{{ nobody.knows.this }}", "{% if %}", "{{ raise_exception('no') }}"])
def test_a_template_that_renders_nothing_fails_once_and_skips_the_rest(tmp_path: Path, source: str):
    diagnosis = examine(Subject(chatml_folder(tmp_path, chat_template=source)))
    assert [one.id for one in diagnosis.findings if one.severity == "fail"] == ["C01"]
    assert {"C02", "C03", "C04", "C10", "C11", "T02"} <= {one.id for one in diagnosis.skipped}


def test_a_prompt_that_training_does_not_show_fails_with_the_place(tmp_path: Path):
    template = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    folder = chatml_folder(tmp_path, chat_template=template)
    assert finding(Subject(folder), "C02").severity == "warn"
    seen = finding(Subject(folder, settings={}), "C02")
    assert seen.severity == "fail"
    # "<|im_start|>user\n" 17, the question 19, "<|im_end|>\n" 11, "<|im_start|>assistant\n" 22
    assert seen.values["offset"] == 17 + 19 + 11 + 22
    assert finding(Subject(chatml_folder(tmp_path / "well")), "C02").severity == "ok"


def test_generation_markers_that_leave_out_the_end_fail(tmp_path: Path):
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'user' %}{{ m.content }}<|im_end|>\n"
        "{% else %}{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    seen = finding(Subject(chatml_folder(tmp_path, chat_template=template)), "C05")
    assert seen.severity == "fail"
    assert "<|im_end|> (2) does not" in seen.evidence
    mended = template.replace("{% endgeneration %}<|im_end|>", "<|im_end|>{% endgeneration %}")
    assert finding(Subject(chatml_folder(tmp_path / "mended", chat_template=mended)), "C05").severity == "ok"


def test_a_loss_on_answers_needs_generation_markers(tmp_path: Path):
    folder = chatml_folder(tmp_path)
    assert finding(Subject(folder), "C05").severity == "ok"
    seen = finding(Subject(folder, settings={"assistant_only_loss": True}), "C05")
    assert seen.severity == "fail"
    assert "no token of any answer is trained" in seen.why


@pytest.mark.parametrize("name", ["qwen2_5_training", "qwen3_training", "llama3_training", "gemma3_training"])
def test_training_templates_have_the_end_in_the_loss(tmp_path: Path, name: str):
    family = {"qwen2_5": "Qwen2.5", "qwen3": "Qwen3", "llama3": "Llama-3", "gemma3": "Gemma3"}
    folder = chat_folder(tmp_path, family[name.removesuffix("_training")], template=name)
    assert "stands between the generation markers" in finding(Subject(folder), "C05").evidence


def test_a_template_is_known_by_its_hash(tmp_path: Path):
    source = trl_template("qwen3")
    sha = hashlib.sha256(source.strip().encode()).hexdigest()
    assert TEMPLATES[sha[:16]] == "qwen3"
    seen = finding(Subject(chat_folder(tmp_path, "Qwen3")), "C09")
    assert seen.values == {"sha256": sha, "known_as": "qwen3"}


def test_an_adapter_of_another_template_fails(tmp_path: Path):
    model, adapter = chatml_folder(tmp_path / "model"), tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "chat_template.jinja").write_text(CHATML)
    assert finding(Subject(model, adapter), "C09").severity == "ok"
    (adapter / "chat_template.jinja").write_text(CHATML.replace("user", "human") + " ")
    assert finding(Subject(model, adapter), "C09").severity == "ok"  # white space around is no difference
    (adapter / "chat_template.jinja").write_text(NO_END)
    assert finding(Subject(model, adapter), "C09").severity == "fail"


def test_a_default_system_prompt_is_quoted(tmp_path: Path):
    seen = finding(Subject(chat_folder(tmp_path, "Qwen2.5-VL")), "C10")
    assert seen.severity == "warn"
    assert seen.values["system"] == ["You are a helpful assistant."]
    assert finding(Subject(chatml_folder(tmp_path / "none")), "C10").severity == "ok"


def test_an_ignored_generation_prompt_is_a_finding_of_its_own(tmp_path: Path):
    template = CHATML.partition("{% if add")[0]
    seen = finding(Subject(chatml_folder(tmp_path, chat_template=template)), "C11")
    assert seen.severity == "fail"
    assert seen.values["header"] == "<|im_start|>assistant"


def test_a_template_whose_answers_follow_at_once_needs_no_generation_prompt(tmp_path: Path):
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    )
    assert finding(Subject(chatml_folder(tmp_path, chat_template=template)), "C11").severity == "ok"


def test_no_template_skips_its_checks(tmp_path: Path):
    with pytest.raises(Missing, match="no chat template"):
        finding(Subject(chatml_folder(tmp_path, chat_template=None)), "C02")


PIECES = st.sampled_from(
    (
        "{% for m in messages %}",
        "{% endfor %}",
        "{{ m.content }}",
        "{{ m['role'] }}",
        "<|im_start|>",
        "<|im_end|>\n",
        "{% if add_generation_prompt %}",
        "{% else %}",
        "{% endif %}",
        "{{ tools | tojson }}",
        "{% generation %}",
        "{% endgeneration %}",
        "{{ messages[9].content }}",
        "{{ raise_exception('a\nb') }}",
        "{{ 1 / 0 }}",
        "{{ ''.__class__ }}",
        "{%",
        "}}",
        "\ud800",
    )
)


@settings(max_examples=60, deadline=None)
@given(source=st.one_of(st.lists(PIECES, max_size=9).map("".join), st.text(max_size=40)))
def test_any_template_gives_a_diagnosis(source: str, byte_tokenizer_once):
    subject = Subject(Path("nowhere"))
    byte_tokenizer_once.chat_template = source
    vars(subject)["tokenizer"] = byte_tokenizer_once  # as loaded, without writing files each time
    diagnosis = examine(subject)
    assert isinstance(diagnosis, Diagnosis)
    for one in diagnosis.findings:
        assert one.severity == "ok" or (one.evidence and one.why and one.fix and one.source)


@pytest.fixture(scope="module")
def byte_tokenizer_once():
    from chat_families import QWEN, byte_level

    return byte_level(QWEN, eos_token="<|im_end|>", pad_token="<|endoftext|>")
