"""Hand-written glue is compared by markers and line breaks; the tool's own words are free."""

from __future__ import annotations

from holdtrue.doctor.glue import differences

CONTROLS = ("<|im_start|>", "<|im_end|>")
WANTED = "<|im_end|>\n<|im_start|>user\n{result}<|im_end|>\n<|im_start|>assistant\n"


def test_the_template_s_own_text_has_no_differences():
    assert differences(WANTED, WANTED, CONTROLS) == []


def test_an_example_of_the_tool_s_words_takes_the_place_of_result():
    written = WANTED.replace("{result}", "ERROR: bad box\nTry again.")
    assert differences(written, WANTED, CONTROLS) == []


def test_a_missing_end_of_turn_is_named_with_its_line_break():
    written = WANTED.removeprefix("<|im_end|>\n")
    assert differences(written, WANTED, CONTROLS) == ["missing '<|im_end|>\\n'"]


def test_a_doubled_end_of_turn_is_too_much():
    assert differences("<|im_end|>" + WANTED, WANTED, CONTROLS) == ["too much '<|im_end|>'"]


def test_a_line_break_counts():
    written = WANTED.replace("<|im_end|>\n<|im_start|>user", "<|im_end|><|im_start|>user")
    assert differences(written, WANTED, CONTROLS) == ["missing '\\n'"]


def test_markers_in_the_tool_s_words_are_too_much():
    written = WANTED.replace("{result}", "ok<|im_start|>")
    assert differences(written, WANTED, CONTROLS) == ["too much '<|im_start|>'"]
