"""W06: models whose next token is known by hand, and tiny ones that learn to end, or do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from chat_families import chat_folder
from doctor_folders import write_json
from doctor_rows import of, only, run, talk, talks
from holdtrue.data.examples import Example
from holdtrue.doctor.checks import examine
from holdtrue.doctor.checks.logit_lens import _calls
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.subject import Subject

START, END = 0, 1
VOCABULARY = 259
CALLING = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}"
    "{% if message.tool_calls %}<tool_call>{{ message.tool_calls[0].function | tojson }}</tool_call>"
    "{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def saying(base_model: Callable[..., Path]) -> Callable[..., Path]:
    """Saves a model that says the same whatever it reads: each id by its weight, which is 1 if none is given.

    All embeddings are ones and the layers add nothing, so the normed state is ones, and the logits are the
    sums of the head's rows.
    """

    def make(weights: dict[int, float], folder: Path | None = None, **tokenizer: Any) -> Path:
        folder = folder or base_model(**tokenizer)
        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            model.model.embed_tokens.weight.fill_(1.0)
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
            model.lm_head.weight.zero_()
            for id, weight in weights.items():
                model.lm_head.weight[id] = torch.tensor(weight).log() / 32
        model.save_pretrained(folder)
        return folder

    return make


def lens(folder: Path, **more: Any) -> Finding:
    return only(Subject(folder, forward=True, **more), "W06")


def test_it_is_made_only_where_it_is_asked_for(saying):
    skipped = {one.id: one.why for one in examine(Subject(saying({}))).skipped}
    assert skipped["W06"] == "no --forward given, which loads and runs the model"


def test_the_rank_and_probability_of_the_end_are_those_of_the_model(saying):
    found = lens(saying({END: 59.0, 65: 100.0, START: 10.0}))
    assert found.severity == "ok"
    assert [one["rank"] for one in found.values["prompts"]] == [2, 2, 2, 2]
    total = 59 + 100 + 10 + (VOCABULARY - 3)
    assert found.values["p_end"] == pytest.approx(59 / total, rel=1e-4)
    first = found.values["controls"][0]
    assert (first["token"], first["median_rank"]) == ("<|im_start|>", 3)
    assert first["p"] == pytest.approx(10 / total, rel=1e-4)
    assert len(found.values["prompts"][0]["next"]) == 20
    assert [one["id"] for one in found.values["prompts"][0]["next"][:3]] == [65, END, START]
    assert "rank 2, 2, 2, 2 (built in)" in found.evidence and "The capital of France is" not in found.evidence
    json.dumps(found.values)


@pytest.mark.parametrize(("before", "severity"), [(49, "ok"), (50, "fail")])
def test_a_median_rank_of_50_is_fine_and_of_51_fails(saying, before, severity):
    found = lens(saying({END: 2.0} | dict.fromkeys(range(10, 10 + before), 3.0)))
    assert (found.values["median_rank"], found.severity) == (before + 1, severity)


def test_ties_are_no_merit(saying):
    assert lens(saying({})).values["median_rank"] == VOCABULARY


def test_every_declared_end_counts_and_the_likeliest_gives_the_rank(saying):
    folder = saying({65: 9.0, 66: 8.0})
    assert lens(folder).severity == "fail"
    write_json(folder / "generation_config.json", {"eos_token_id": [65, 66]})
    found = lens(folder)
    assert (found.severity, found.values["ends"], found.values["median_rank"]) == ("ok", [END, 65, 66], 1)
    assert found.values["p_end"] == pytest.approx((9 + 8 + 1) / (9 + 8 + VOCABULARY - 2), rel=1e-4)


def test_a_control_token_in_the_place_of_the_end_warns(saying):
    found = lens(saying({START: 9.0, END: 5.0}))
    assert found.severity == "warn"
    assert found.why == "the model goes on with <|im_start|> (0) where it should end"


def test_an_end_that_the_model_has_learned_and_nobody_declares_is_named(saying, byte_tokenizer):
    folder = saying({END: 99.0, **dict.fromkeys(range(10, 70), 3.0)})
    byte_tokenizer(eos_token="<|pad|>", additional_special_tokens=["<|im_end|>"]).save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        write_json(folder / name, json.loads((folder / name).read_text()) | {"eos_token_id": 2})
    found = lens(folder)
    assert found.severity == "fail" and found.values["ends"] == [2]
    assert found.fix == "add <|im_end|> (1) to eos_token_id of generation_config.json (T01)"


def test_the_fix_names_only_findings_that_are_wrong_in_the_same_report(saying):
    fine = lens(saying({}), examples=talks(3))
    assert fine.fix == "train with the end in the loss, or start from the chat model"
    sick = lens(saying({}), examples=[talk("Tea is <|im_start|><|im_start|> hot.")])
    assert sick.fix.startswith("mend first X01 (control tokens inside of targets: drop_control); then train")


def test_a_random_model_fails_and_a_base_model_is_said_to_be_one(base_model, byte_tokenizer):
    folder = base_model()
    assert lens(folder).severity == "fail"
    base = base_model("plain", tokenizer=byte_tokenizer(chat_template=None))
    found = lens(base)
    assert found.severity == "warn" and found.why.startswith("a base model (no chat template)")
    assert lens(base, settings={"num_generations": 8}).severity == "fail"


def test_nan_logits_fail(saying):
    found = lens(saying({END: float("nan")}))
    assert found.severity == "fail" and found.evidence.startswith(
        "the logits are NaN or infinite after 4 of 4"
    )


@pytest.mark.parametrize(("end_in_loss", "severity"), [(True, "ok"), (False, "fail")])
def test_a_model_is_well_when_the_end_was_in_its_loss_and_fails_when_not(base_model, end_in_loss, severity):
    folder = base_model(initializer_range=0.05)
    train(folder, end_in_loss)
    found = lens(folder, examples=talks(20))
    assert found.severity == severity
    ranks = [one["rank"] for one in found.values["prompts"]]
    assert len(ranks) == 4 + 8 and (set(ranks) == {1}) == end_in_loss


def train(folder: Path, end_in_loss: bool) -> None:
    """Fine-tune a folder for two seconds on talks whose answers end with a full stop or '!'."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = [
        talk(f"{word} {i}{mark}") for word in ("Tea", "Air is", "I say") for i in range(9) for mark in ".!"
    ]
    texts = [tokenizer.apply_chat_template(list(row.messages), tokenize=False) for row in rows]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    if not end_in_loss:
        labels = labels.masked_fill(labels == END, -100)
    for _ in range(60):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


def test_an_end_is_looked_for_behind_the_words_and_not_behind_the_end(saying):
    rows = [talk("Yes."), Example((), "data:2", text="One<|im_end|>\n"), Example((), "data:3", text="Two\n")]
    rows += [Example((), "data:4", text="Three<|im_end|>\n\n \n\n")]
    tails = [one["tail"] for one in lens(saying({END: 9.0}), examples=rows).values["prompts"]]
    assert tails[0] == " France is Paris."[-16:] and tails[3].endswith("sky looks blue.")
    assert tails[4].endswith("<|im_start|>assistant\nYes.")
    assert tails[5:] == ["One", "Two\n", "Three"]


def test_tool_calls_are_judged_where_the_template_has_them_and_fail_where_they_are_used(
    saying, byte_tokenizer
):
    folder = saying({65: 9.0}, tokenizer=byte_tokenizer(chat_template=CALLING))
    _, call = [one for one in examine(Subject(folder, forward=True)).findings if one.id == "W06"]
    assert call.severity == "warn" and "behind tool calls: rank 259 (built in)" in call.evidence
    assert call.values["prompts"][0]["tail"].endswith("</tool_call>")
    assert call.evidence.count("0.0") >= 19  # the 20 likeliest
    used = [talk('<tool_call>{"name": "f"}</tool_call>', at="data:1"), *talks(3)]
    found = of(run(folder, used, forward=True, asked=frozenset(["tools"])), "W06")
    assert [(one.severity, len(one.values["prompts"])) for one in found] == [("fail", 7), ("fail", 2)]


@pytest.mark.parametrize(("positions", "characters"), [(4096, 3000), (512, 600)])
def test_rows_that_are_too_long_for_us_or_for_the_model_are_counted(base_model, positions, characters):
    folder = base_model(model_type="gpt2", n_positions=positions)
    found = lens(folder, examples=[talk("a" * characters), *talks(2)])
    assert found.values["left_out"] == 1 and len(found.values["prompts"]) == 4 + 2
    most = min(positions, 2048)
    assert f"texts left out, not rendered, above {most:,} tokens or with ids beyond" in found.evidence


def test_a_model_with_less_room_than_any_answer_takes_is_said_to_have_too_little(base_model):
    # tokens are bytes and marks: a mark, "user\n", 21 of the question, two marks, "assistant\n", 5 of "Hola!"
    folder = base_model(max_position_embeddings=16)
    skipped = {one.id: one.why for one in examine(Subject(folder, forward=True)).skipped}
    assert skipped["W06"] == "the shortest finished answer takes 44 tokens, and 16 can be read"


def test_rows_with_ids_beyond_the_embedding_are_left_out_and_counted(saying, byte_tokenizer):
    folder = saying({65: 9.0})
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<odd>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    found = lens(folder, examples=[talk("hi <odd> there"), *talks(3)])
    assert (found.values["left_out"], len(found.values["prompts"]), found.severity) == (1, 4 + 3, "fail")
    assert "ids beyond the embedding: 1" in found.evidence


def test_answers_are_judged_also_where_no_tool_call_can_be_read(saying, byte_tokenizer):
    tokenizer = byte_tokenizer(chat_template=CALLING.replace("<tool_call>", "<call>"))
    tokenizer.add_tokens(["<call>"], special_tokens=True)
    diagnosis = examine(Subject(saying({65: 9.0}, tokenizer=tokenizer), forward=True))
    assert [one.severity for one in of(diagnosis, "W06")] == ["fail"]
    why = {one.id: one.why for one in diagnosis.skipped}["W06"]
    assert why == "all tool calls hold ids beyond the 259 rows of the embedding"


@pytest.mark.parametrize(
    ("family", "end"),
    [
        ("Qwen2.5", '"arguments": {"city": "Paris"}}\n</tool_call>'),
        ("Llama-3.1", '"parameters": {"city": "Paris"}}'),
        ("DeepSeek-V3", "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),  # which wants JSON
        ("GLM-4 MoE", "<arg_value>Paris</arg_value>\n</tool_call>"),  # which writes no end
    ],
)
def test_a_tool_call_is_read_up_to_its_closing_in_every_familys_template(tmp_path, family, end):
    write_json(tmp_path / "config.json", {})
    subject = Subject(chat_folder(tmp_path, family))
    ((at, ids),) = _calls(subject).texts
    assert at == "built in call" and subject.tokenizer.decode(ids).endswith(end)
