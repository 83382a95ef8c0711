"""What the checks of data have in common."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doctor_rows import END, START, of, run, talks
from holdtrue.data.examples import example_of, read_examples
from holdtrue.doctor.checks import all_checks, examine
from holdtrue.doctor.subject import Missing, Subject


def test_clean_data_has_no_finding_but_ok(tokenizer):
    diagnosis = run(tokenizer(), talks(50))
    assert {one.severity for one in diagnosis.findings if one.id.startswith("X")} == {"ok"}
    assert all(one.evidence for one in diagnosis.findings)


@pytest.mark.parametrize("family", ["qwen2.5-instruct", "qwen3", "phi-3-mini-instruct"])
def test_real_human_pairs_hold_no_control_tokens_and_all_train_an_end(shared, family):
    examples, report = read_examples([str(shared("data/hh_harmless/test.jsonl.gz"))])
    diagnosis = run(shared(f"data/tokenizers/{family}"), examples)
    assert report.unread == 0
    assert {one.severity for id in ("X01", "X02", "X05", "X07") for one in of(diagnosis, id)} == {"ok"}


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


@settings(max_examples=150, deadline=None)
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
