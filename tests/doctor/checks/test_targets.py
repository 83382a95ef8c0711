from __future__ import annotations

from chat_families import chatml_folder
from doctor_rows import END, of, run, talk, talks, worst
from holdtrue.data.examples import Example


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


def test_lengths_are_percentiles_of_tokens(tokenizer):
    found = worst(run(tokenizer(), [talk("y" * n) for n in range(1, 102)]), "X08")
    assert found.values["target"] == {"p5": 6, "p50": 51, "p95": 96, "max": 101}  # a byte is a token


def test_a_short_answer_is_not_found_inside_a_control_token(tokenizer):
    """``end`` stands in ``<|im_end|>`` too."""
    diagnosis = run(tokenizer(), [*talks(20), talk("end", at="data:20")])
    assert of(diagnosis, "X01")[0].severity == "ok"
    assert of(diagnosis, "X08")[0].values["target"]["max"] > 3


def test_raw_texts_are_judged_by_the_templates_end_where_the_declared_one_is_wrong(tmp_path):
    """Half the rows end as the template ends a turn, half with the end that T01 refuses."""
    folder, ends = chatml_folder(tmp_path, eos_token="<|endoftext|>"), ("<|endoftext|>", END)
    rows = [Example((), f"data:{i}", text=f"Tea {i} is hot.{ends[i % 2]}") for i in range(10)]
    diagnosis = run(folder, rows)
    found = worst(diagnosis, "X02")
    assert worst(diagnosis, "T01").severity == "fail"
    assert found.severity == "fail" and "5/10 examples" in found.evidence and "T01" in found.evidence
    assert "data:0" in found.evidence and "data:1" not in found.evidence
    assert found.fix == f"end these raw texts with {END}, in place of another end"
