from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdtrue.data.examples import Example, example_of, read_examples
from holdtrue.doctor.checks import all_checks, examine
from holdtrue.doctor.findings import Diagnosis, Finding
from holdtrue.doctor.remedies.drop_repetitive import DropRepetitive
from holdtrue.doctor.subject import Missing, Subject
from holdtrue.doctor.training_settings import by_trl_names

START, END = "<|im_start|>", "<|im_end|>"


@pytest.fixture
def tokenizer(tmp_path: Path, byte_tokenizer: Callable[..., Any]) -> Callable[..., Path]:
    """Saves the byte tokenizer, with changes, and returns the folder."""

    def make(**changes: Any) -> Path:
        byte_tokenizer(**changes).save_pretrained(tmp_path)
        return tmp_path

    return make


def talk(answer: str, question: str = "Is tea hot?", at: str = "data:1", **more: Any) -> Example:
    return Example(
        ({"role": "user", "content": question}, {"role": "assistant", "content": answer}), at, **more
    )


def talks(count: int) -> list[Example]:
    return [talk(f"Tea number {i} is hot.", f"How hot is tea {i}?", f"data:{i}") for i in range(count)]


def run(folder: Path, examples: list[Example], **more: Any) -> Diagnosis:
    return examine(Subject(folder, examples=examples, **more))


def of(diagnosis: Diagnosis, id: str) -> list[Finding]:
    return [one for one in diagnosis.findings if one.id == id]


def worst(diagnosis: Diagnosis, id: str) -> Finding:
    return of(diagnosis, id)[0]


def test_clean_data_has_no_finding_but_ok(tokenizer):
    diagnosis = run(tokenizer(), talks(50))
    assert {one.severity for one in diagnosis.findings if one.id.startswith("X")} == {"ok"}
    assert all(one.evidence for one in diagnosis.findings)


def test_the_census_counts_places_neighbours_and_what_follows_itself(tokenizer):
    examples = [*talks(8), talk(f"a{START}{START}b", at="data:8"), talk("fine", f"{END}x", at="data:9")]
    census = of(run(tokenizer(), examples), "X01")[-1]
    assert census.severity == "ok"
    start, end = census.values["control_tokens"]
    # two turns in each of ten examples, and two in one answer
    assert (start["token"], start["count"], start["written_by_template"], start["in_text"]) == (
        START,
        22,
        20,
        2,
    )
    assert start["follows_itself"] == 1 / 22
    assert start["before"] == {"(start)": 10, END: 10, "a": 1, START: 1}
    assert start["places"] == {"template": 20, "assistant inside": 2}
    assert start["at"] == ["data:8"]
    assert (end["count"], end["places"]) == (21, {"template": 20, "user first": 1})
    assert start["share_of_examples"] == 1.0
    assert start["share_of_tokens"] == 22 / census.values["tokens"]


def test_a_control_token_that_follows_itself_fails_and_names_the_rows(tokenizer):
    diagnosis = run(tokenizer(), [*talks(20), talk(f"yes{START}{START}{START}", at="bad.jsonl:7")])
    found = next(one for one in of(diagnosis, "X01") if one.values.get("repeated"))
    assert found.severity == "fail" and "bad.jsonl:7" in found.evidence
    assert (found.values["id"], found.values["repeated"], found.values["count"]) == (0, 2, 45)


def test_a_control_string_in_a_target_fails_in_a_prompt_warns_and_in_raw_text_is_structure(tokenizer):
    folder = tokenizer()
    in_target = [
        one for one in of(run(folder, [*talks(9), talk(f"so {END} ends it")]), "X01") if one.severity != "ok"
    ]
    assert [(one.severity, one.values["by_role"]) for one in in_target] == [("fail", {"assistant": 1})]
    in_prompt = [
        one
        for one in of(run(folder, [*talks(9), talk("ok", f"what is {END}?")]), "X01")
        if one.severity != "ok"
    ]
    assert [(one.severity, one.values["by_role"]) for one in in_prompt] == [("warn", {"user": 1})]
    raw = Example((), "data:1", text=f"{START}user\nhi{END}{START}assistant\nyes{END}")
    assert [one.severity for one in of(run(folder, [raw]), "X01")] == ["ok"]


def test_marks_of_another_template_in_targets_fail(tokenizer):
    found = worst(run(tokenizer(), [*talks(9), talk("Hot.<|start_header_id|>assistant")]), "X01")
    assert found.severity == "fail" and found.values["string"] == "<|start_header_id|>"


def test_padding_that_is_the_end_leaves_no_end_to_learn(tokenizer):
    examples = talks(200)
    found = worst(run(tokenizer(pad_token=END), examples), "X02")
    assert found.severity == "fail" and "0/200 examples train EOS" in found.evidence
    assert worst(run(tokenizer(), examples), "X02").severity == "ok"  # the fix: padding of its own
    by_mask = {"assistant_only_loss": True}
    assert worst(run(tokenizer(pad_token=END), examples, settings=by_mask), "X02").severity == "ok"


def test_raw_text_without_an_end_fails_unless_the_trainer_appends_it(tokenizer):
    folder = tokenizer()
    bare = [Example((), f"data:{i}", text=f"Tea {i} is hot.") for i in range(10)]
    found = worst(run(folder, bare), "X02")
    assert found.severity == "fail" and "0/10" in found.evidence and END in found.fix
    assert (
        worst(run(folder, [Example((), one.at, text=f"{one.text}{END}\n") for one in bare]), "X02").severity
        == "ok"
    )
    assert worst(run(folder, bare, settings={"dataset_text_field": "text"}), "X02").severity == "ok"


def test_a_template_that_does_not_end_its_turns_fails(tokenizer):
    open_ended = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}"
    assert worst(run(tokenizer(chat_template=open_ended), talks(5)), "X02").values["without_end"] == 5


def test_copies_and_loops_in_targets_warn(tokenizer):
    folder = tokenizer()
    copies = worst(run(folder, [*talks(20), *talks(5)]), "X03")
    assert copies.severity == "warn" and copies.values["same_examples"] == 5
    loops = worst(run(folder, [*talks(20), talk("I am sure of this very fact. " * 12, at="loop:3")]), "X03")
    assert loops.severity == "warn" and loops.values["looped_at"] == ["loop:3"] and "loop:3" in loops.fix


def test_tables_lists_and_refrains_are_no_loops(tokenizer):
    table = "\n".join(f"| tea {i} | {i * 7} degrees | from cup {i + 3} |" for i in range(12))
    songs = "\n\n".join(
        f"{a} tea, {b} tea,\nPour it slowly for me."
        for a, b in [("Hot", "Cold"), ("Green", "Black"), ("My", "Your")]
    )
    assert worst(run(tokenizer(), [talk(table), talk(songs, "Sing."), *talks(20)]), "X03").severity == "ok"


def test_targets_cut_by_max_length_fail_and_data_that_looks_cut_warns(tokenizer):
    folder = tokenizer()
    found = worst(run(folder, [*talks(20), talk("word " * 100)], settings={"max_length": 200}), "X04")
    assert found.severity == "fail" and found.values["cut"] == 1
    fixed = {"max_length": found.values["longest"]}
    assert worst(run(folder, [*talks(20), talk("word " * 100)], settings=fixed), "X04").severity == "ok"
    cut = [talk(f"number {i} goes on and on " + "x" * 100, at=f"cut:{i}") for i in range(5)]
    assert worst(run(folder, [*talks(20), *cut]), "X04").values["unended"] == 5
    whole = [talk(f"number {i} goes on and on " + "x" * 100 + ".") for i in range(5)]
    assert worst(run(folder, [*talks(20), *whole]), "X04").severity == "ok"


def test_loss_on_what_tools_say_fails_until_it_is_masked(tokenizer):
    folder = tokenizer()
    call = {"role": "assistant", "content": "look up"}
    turns = (
        {"role": "user", "content": "?"},
        call,
        {"role": "tool", "content": "90"},
        {"role": "assistant", "content": "90."},
    )
    examples = [*talks(3), Example(turns, "tools:4")]
    assert worst(run(folder, examples), "X05").severity == "warn"
    found = worst(run(folder, examples, settings={"learning_rate": 1e-5}), "X05")
    assert found.severity == "fail" and "tools:4" in found.evidence
    assert worst(run(folder, examples, settings=found.values["fix"]["settings"]), "X05").severity == "ok"
    given = replace(examples[-1], given=3)  # the prompt of a row of prompt and completion
    assert worst(run(folder, [given], settings={"learning_rate": 1e-5}), "X05").severity == "ok"


@pytest.mark.parametrize(
    ("settings", "engine"),
    [
        ({"model": {"path": "m"}, "training": {"learning_rate": 1e-5}}, "holdtrue"),
        ({"actor_rollout_ref": {"actor": {"optim": {"lr": 1e-6}}}}, "verl"),
        ({"trainer": {"total_epochs": 2}, "optim": {"lr": 1e-5}}, "verl"),
        ({"pretrain": "m", "learning_rate": 1e-5}, "openrlhf"),
        ({"num_generations": 8}, "trl"),
    ],
)
def test_programs_that_mask_turns_of_tools_by_themselves_are_not_asked_to(tokenizer, settings, engine):
    tool = {"role": "tool", "content": "90 degrees"}
    rows = [Example((*talk("90.").messages[:1], tool, *talk("90.").messages[1:]), "tools:1")]
    found = worst(run(tokenizer(), rows, settings=by_trl_names(settings)), "X05")
    assert found.severity == "ok" and f"{engine} masks them" in found.evidence


def test_empty_answers_fail_and_turns_of_one_role_in_a_row_warn(tokenizer):
    folder = tokenizer()
    assert worst(run(folder, [*talks(5), talk("  ", at="empty:6")]), "X06").values["at"] == ["empty:6"]
    twice = Example(
        (
            {"role": "user", "content": "a"},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "c"},
        ),
        "d:1",
    )
    assert worst(run(folder, [*talks(5), twice]), "X06").severity == "warn"
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    results = [{"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}]
    calling = Example(
        ({"role": "user", "content": "a"}, call, *results, {"role": "assistant", "content": "c"}), "d:1"
    )
    assert worst(run(folder, [calling]), "X06").severity == "ok"


def test_tags_that_rewards_read_are_checked(tokenizer):
    folder = tokenizer()
    good = [talk(f"<think>so {i}</think><answer>{i}</answer>") for i in range(10)]
    found = worst(run(folder, good), "X07")
    assert found.severity == "ok" and found.values["tags"]["answer"] == 10
    assert worst(run(folder, [*good, talk("<vision><|image_pad|>")]), "X07").severity == "fail"
    thinking = Example((*talk("5").messages[:1], thought("Hm <tool_response>5", "5")), "data:1")
    assert worst(run(folder, [*good, thinking]), "X07").severity == "fail"
    assert worst(run(folder, [*good, talk("<answer>5")]), "X07").values["unclosed"] == 1
    assert worst(run(folder, [*good, talk("<answer>5</answer> and so on")]), "X07").values["text_after"] == 1


def test_lengths_are_percentiles_of_tokens(tokenizer):
    found = worst(run(tokenizer(), [talk("y" * n) for n in range(1, 102)]), "X08")
    assert found.values["target"] == {"p5": 6, "p50": 51, "p95": 96, "max": 101}  # a byte is a token


def thought(words: str, answer: str) -> dict[str, str]:
    return {"role": "assistant", "content": answer, "reasoning_content": words}


LOOP = "The tea is hot, and the tea is hot. " * 60


def test_thoughts_that_loop_are_loops_and_the_remedy_drops_them(tokenizer):
    ask = talks(1)[0].messages[:1]
    rows = [Example((*ask, thought(LOOP if i < 2 else f"Hm {i}.", f"{i}.")), f"d:{i}") for i in range(20)]
    found = worst(run(tokenizer(), rows), "X03")
    assert found.severity == "fail" and found.values["looped_at"] == ["d:0", "d:1"]
    kept, _ = DropRepetitive().apply([{"messages": [*one.messages]} for one in rows])
    assert len(kept) == 18


def test_pairs_whose_chosen_thoughts_loop_warn(tokenizer):
    ask = talks(1)[0].messages[:1]
    rows = [
        Example((*ask, thought(LOOP, "4.")), f"d:{i}", rejected=(thought(LOOP.upper()[:-900], "5."),))
        for i in range(3)
    ]
    rows += [replace(pair("short", "also short"), at=f"e:{i}") for i in range(9)]
    values = worst(run(tokenizer(), rows), "X09").values
    assert (values["looped_chosen"], values["looped_rejected"]) == (3, 3)
    assert values["longer_chosen"] == 3 / 12  # with their thoughts


def pair(chosen: str, rejected: str) -> Example:
    return talk(chosen, rejected=({"role": "assistant", "content": rejected},))


def test_pairs_that_prefer_long_or_repeating_answers_warn(tokenizer):
    folder = tokenizer()
    longer = [pair("a long answer " * (1 + i % 2), "short") for i in range(40)]
    found = worst(run(folder, longer), "X09")
    assert found.severity == "warn" and found.values["longer_chosen"] == 1.0
    even = [pair("long answer", "short") if i % 2 else pair("short", "long answer") for i in range(40)]
    assert worst(run(folder, even), "X09").severity == "ok"
    plain = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    loop = "one two three four five one two three four five one two three four five oh my"
    looping = [pair(loop, plain) if i % 8 else pair(plain, loop) for i in range(40)]
    found = worst(run(folder, looping), "X09")
    assert found.severity == "warn" and found.values["more_repetitive_chosen"] == 35 / 40
    assert "no pairs" in next(one.why for one in run(folder, talks(3)).skipped if one.id == "X09")


def test_attractor_tokens_in_targets_warn(shared):
    folder = shared("data/tokenizers/qwen2.5-instruct")
    found = worst(run(folder, [*talks(5), talk("Hot. addCriterion", at="odd:6")]), "X10")
    assert found.severity == "warn" and "18724" in found.evidence and "odd:6" in found.evidence
    assert worst(run(folder, talks(5)), "X10").severity == "ok"


@pytest.mark.parametrize("family", ["qwen2.5-instruct", "qwen3", "phi-3-mini-instruct"])
def test_real_human_pairs_hold_no_control_tokens_and_all_train_an_end(shared, family):
    examples, report = read_examples([str(shared("data/hh_harmless/test.jsonl.gz"))])
    diagnosis = run(shared(f"data/tokenizers/{family}"), examples)
    assert report.unread == 0
    assert {one.severity for id in ("X01", "X02", "X05", "X07") for one in of(diagnosis, id)} == {"ok"}


def test_a_policy_that_leaks_headers_is_found_by_its_answers(shared):
    path = shared("data/alpaca_eval_policies/GPO-Llama-3-8B-Instruct-GPM-2B.jsonl.gz")
    found = worst(run(shared("data/tokenizers/qwen2.5-instruct"), read_examples([str(path)])[0]), "X01")
    assert (
        found.severity == "fail"
        and found.values["string"] == "<|start_header_id|>"
        and found.values["targets"] == 19
    )


def test_without_data_or_tokenizer_the_checks_are_skipped_with_reasons(tmp_path, tokenizer):
    skipped = {one.id: one.why for one in examine(Subject(tmp_path, examples=talks(3))).skipped}
    assert skipped["X01"] == "no tokenizer in the folder"
    skipped = {one.id: one.why for one in examine(Subject(tokenizer())).skipped}
    assert {skipped[f"X{i:02}"] for i in range(1, 11)} == {"no data is given"}


TEXTS = st.text(max_size=20) | st.sampled_from(
    [END, START + START, "<answer>1</answer>x", " ", "a b c d e " * 12]
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "tool", "system", "odd"]),
            "content": TEXTS | st.none(),
        }
    ),
    min_size=1,
    max_size=4,
)
ROWS = (
    st.fixed_dictionaries({"messages": TURNS})
    | st.fixed_dictionaries({"text": TEXTS})
    | st.fixed_dictionaries({"prompt": TEXTS, "chosen": TEXTS, "rejected": TURNS})
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(ROWS, min_size=1, max_size=5),
    run_settings=st.sampled_from([None, {"max_length": 9}, {"packing": True}]),
)
def test_any_data_gets_findings_or_reasons(tokenizer, rows, run_settings):
    subject = Subject(
        tokenizer(), examples=[example_of(row, "a:1")[1] for row in rows], settings=run_settings
    )
    for one in all_checks():
        if one.id.startswith(("X", "K")):
            with suppress(Missing):
                for found in one.run(subject):
                    assert found.evidence
                    assert found.severity == "ok" or (found.why and found.fix and found.source)
                    json.dumps(found.values)


def test_many_targets_that_loop_fail(tokenizer):
    loop = [talk("I am sure of this very fact. " * 12, at=f"loop:{i}") for i in range(3)]
    assert worst(run(tokenizer(), [*talks(20), *loop]), "X03").severity == "fail"


def test_a_short_answer_is_not_found_inside_a_control_token(tokenizer):
    """``end`` stands in ``<|im_end|>`` too."""
    diagnosis = run(tokenizer(), [*talks(20), talk("end", at="data:20")])
    assert of(diagnosis, "X01")[0].severity == "ok"
    assert of(diagnosis, "X08")[0].values["target"]["max"] > 3
