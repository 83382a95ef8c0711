"""Every detector on a sick answer and on a healthy one that looks like it; spans by hand."""

from __future__ import annotations

import json
import random
import re
import time
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdtrue import kinds
from holdtrue.doctor.detectors import FAMILY, Detector, Flag
from holdtrue.doctor.detectors.ctrl_token_in_body import QUOTES
from holdtrue.doctor.reading import CONTROL, Reading
from holdtrue.doctor.rollouts import every_detector
from holdtrue.doctor.vocabulary import Vocabulary
from holdtrue.records import Message, Rollout

PROSE = (
    "The lake lies between two hills, and in spring the meadows around it are yellow. People come from the "
    "town to swim, to row and to sit under the old willow, which a storm split years ago. Nobody cut it."
)
WORDS = ["harbour", "garden", "winter", "letter", "orchard", "mirror", "station", "compass", "island", "lamp"]
TABLE = "| year | title | pages |\n|---|---|---|\n" + "".join(
    f"| {1950 + i} | {word} of the {word[::-1]} | {(i * 7919) % 800} |\n" for i, word in enumerate(WORDS * 3)
)
CODE = "".join(
    f"    def {name}(self, value):\n        self.{name}_seen += {i}\n        return self._{name}[value]\n\n"
    for i, name in enumerate(WORDS)
)
REFRAIN = "Oh, the river, the river runs on,\nand carries us home before dawn.\n"
LINES = ["the lamps are lit", "the boats are late", "the bells have rung", "the hay is in"]
SONG = "\n".join(f"Verse {i}: {line}\n{REFRAIN}" for i, line in enumerate(LINES))


def found(detector: str, text: str = "", prompt: Any = "Tell me of the lake.", **columns: Any) -> list[Flag]:
    vocabulary = columns.pop("vocabulary", None)
    one = kinds.load(FAMILY, detector)()
    assert isinstance(one, Detector)
    return list(one.check(Reading(Rollout(prompt, text, **columns), vocabulary)))


def only(detector: str, text: str = "", **columns: Any) -> Flag:
    flags = found(detector, text, **columns)
    assert len(flags) == 1
    assert flags[0].detector == detector
    return flags[0]


def vocabulary() -> Vocabulary:
    """Id i is the letter i of the alphabet; 26 is <|im_start|>, 27 the end."""
    control = {26: "<|im_start|>", 27: "<|im_end|>"}
    decode = lambda ids: "".join(control.get(i, chr(97 + i % 26)) for i in ids if i < 28)  # noqa: E731
    return Vocabulary(28, control, frozenset({27}), decode)


@pytest.mark.parametrize("text", [PROSE, TABLE, CODE, SONG, PROSE * 2, '{"a": [1, 2, 3]}', "`x`"])
def test_healthy_answers_are_left_alone(text):
    reading = Reading(Rollout("Write about the lake.", text, finish="stop"))
    flags = [flag for detector in every_detector() if not detector.needs for flag in detector.check(reading)]
    assert flags == []


# 200 characters are enough for a word; a block of 230 characters needs only three copies.
@pytest.mark.parametrize(
    ("piece", "copies"), [("na ", 70), ("the willow again, ", 12), (PROSE[:150] + "\n", 3), ("x", 200)]
)
def test_a_cycle_at_the_end_is_found_where_it_begins(piece, copies):
    text = PROSE + "\n\n" + piece * copies
    flag = only("tail_cycle", text)
    assert flag.severity == "fail"
    assert abs((flag.start or 0) - len(PROSE) - 2) <= 2
    assert len(text) - (flag.end or 0) <= 2
    assert flag.values["period"] == len(piece)


def test_a_cycle_that_goes_on_in_prose_is_none():
    assert found("tail_cycle", "na na na na " * 20 + PROSE) == []


def test_a_few_characters_may_stand_behind_a_cycle_and_end_tokens_do_not_count():
    assert only("tail_cycle", PROSE + " again and again" * 20 + "!!").severity == "fail"
    assert only("tail_cycle", PROSE + " again and again" * 20 + "<|im_end|>\n").severity == "fail"


def test_a_cycle_of_long_runs_in_a_dense_script_is_found():
    flag = only("tail_cycle", "那么：" + ("啊" * 10 + "好。") * 14)  # 12 characters, 10 of them a run
    assert (flag.start, flag.end, flag.values["period"]) == (3, 3 + 14 * 12, 12)


@given(
    st.text("xyz ", max_size=300),
    st.text("ab0好", min_size=1, max_size=60),
    st.integers(0, 40),
    st.text("!?", max_size=16),
)
def test_no_cycle_is_lost_to_what_spares_healthy_texts(head, piece, more, behind):
    cycle = piece * (4 + 150 // len(piece)) + piece[: more % len(piece)]
    flag = only("tail_cycle", head + cycle + behind)
    assert flag.start is not None and flag.end is not None
    assert flag.start <= len(head) and flag.end >= len(head) + len(cycle)
    assert len(piece) % flag.values["period"] == 0


@pytest.mark.parametrize("ids", [[], [1], [1, 2, 3, 4, 5]])
def test_a_few_ids_are_no_cycle(ids):
    assert found("tail_cycle", completion_ids=ids) == []


def test_a_cycle_of_ids_is_found_without_text():
    flag = only("tail_cycle", completion_ids=[*range(50), *[7, 8, 9] * 30])
    assert (flag.tokens, flag.start, flag.values["period"]) == ((50, 140), None, 3)


def test_a_counter_does_not_hide_a_loop():
    steps = "\n".join(
        f"Step {i}: check that the valve is open and go on to the next valve." for i in range(60)
    )
    flag = only("near_loop", PROSE + "\n" + steps)
    assert flag.severity == "fail"
    assert abs((flag.start or 0) - len(PROSE)) <= 64
    assert found("tail_cycle", PROSE + "\n" + steps) == []


@pytest.mark.parametrize("before", [0, 1_390, 1_600, 4_400, 20_000])
def test_a_near_loop_begins_where_it_begins_however_late(before):
    draw = random.Random(before)
    calm = "".join(draw.choice("abcdefghij klmnop") for _ in range(before))
    steps = "".join(
        f"Step {i}: look at valve {i * i} and go on to the next of the valves.\n" for i in range(60)
    )
    flag = only("near_loop", calm + steps)
    # of the 80 % of 200 grams that must come back, up to 20 % stand before the loop
    assert before - 40 <= (flag.start or 0) <= before + 64


def test_code_that_stands_there_twice_is_no_loop():
    assert found("near_loop", CODE * 2 + PROSE) == []
    assert only("near_loop", CODE * 4 + PROSE).severity == "fail"


def test_dashes_of_a_wide_table_are_no_loop():
    rows = f"|{'-' * 400}|{'-' * 400}|\n| a | b |\n" * 2
    assert found("near_loop", rows + PROSE) == []


def test_control_tokens_are_decided_on_ids_and_their_characters_found():
    flag = only("ctrl_token_in_body", completion_ids=[0, 1, 26, 2, 26, 3, 27], vocabulary=vocabulary())
    # "ab" stands before; <|im_start|> c <|im_start|> has 12 + 1 + 12 characters
    assert (flag.tokens, flag.start, flag.end) == ((2, 5), 2, 27)
    assert flag.values["counts"] == {"26": 2}
    assert "26 <|im_start|> x 2 among 6 tokens" in flag.evidence


def test_a_quoted_control_token_is_no_control_token_where_ids_are_known():
    text = "write <|im_start|> first"
    assert found("ctrl_token_in_body", text, completion_ids=[1, 2, 3, 27], vocabulary=vocabulary()) == []
    assert only("ctrl_token_in_body", text).severity == "fail"


def test_tokens_that_tools_wrote_are_not_the_policys():
    rollout = {"completion_ids": [0, 26, 1, 27], "loss_mask": [1, 0, 1, 1], "vocabulary": vocabulary()}
    assert found("ctrl_token_in_body", **rollout) == []


@pytest.mark.parametrize(
    ("text", "severity"),
    [
        ("fine.<|im_end|>", None),
        ("fine.</s>\n", None),
        ("fine.</s> Next question?</s> Next answer.", "fail"),
        ("fine. [/INST] more", "fail"),
        ("<｜begin▁of▁sentence｜> hello", "fail"),
        ("The mark `<|im_start|>` opens a turn.", "warn"),
        ("Use <s>this</s> that.", None),
        ("Use a <think>thought</think> and a <tool_call>{}</tool_call>.", None),
    ],
)
def test_control_tokens_in_text(text, severity):
    flags = found("ctrl_token_in_body", text)
    assert [flag.severity for flag in flags] == ([severity] if severity else [])


def test_a_control_token_that_the_prompt_names_only_warns():
    flags = found(
        "ctrl_token_in_body", "It is <|im_start|> of ChatML.", prompt="What does <|im_start|> mean?"
    )
    assert [flag.severity for flag in flags] == ["warn"]


def test_a_tools_turn_inside_one_text_is_legal_and_a_users_is_not():
    tool = (
        'Look.<tool_call>{"name": "zoom"}</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>ok'
        "</tool_response><|im_end|>\n<|im_start|>assistant\n<answer>a cat</answer><|im_end|>"
    )
    assert found("ctrl_token_in_body", tool) == []
    assert found("reward_blind_suffix", tool) == []
    user = "Yes.<|im_end|>\n<|im_start|>user\nAnd then?<|im_end|>\n<|im_start|>assistant\nNo."
    assert only("ctrl_token_in_body", user).start == 4


def test_ids_beyond_the_tokenizer_are_phantoms():
    flag = only("phantom_token", completion_ids=[0, 1, 30, 2], vocabulary=vocabulary())
    assert (flag.tokens, flag.values["ids"]) == ((2, 3), [30])
    assert found("phantom_token", completion_ids=[0, 1, 27], vocabulary=vocabulary()) == []


def test_attractors_are_found_but_not_in_code():
    assert only("attractor_token", "the dog\n addCriterion\n runs").severity == "warn"
    assert found("attractor_token", "protected void addCriterion(String condition) { }") == []


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        (PROSE + "\n\n### Human: And in winter?", len(PROSE) + 2),
        (PROSE + "### Assistant: It freezes.", len(PROSE)),
        (PROSE + "\n\nUser: And in winter?\n\nAssistant: It freezes.", len(PROSE) + 2),
        ("Human: Hello\n\nAssistant: Hello\n\nHuman: Bye", None),
        ("Here is a dialogue.\n\nAnna: Hello\n\nUser: Hello", None),
        ("### Response times\n\nThey vary: a lot.", None),
    ],
)
def test_the_users_next_turn(text, begins):
    flags = found("role_continuation", text)
    assert [flag.start for flag in flags] == ([] if begins is None else [begins])


def test_dialogues_that_are_asked_for_are_fine():
    prompt = "Continue:\nUser: Hi\nBot: Hello"
    assert found("role_continuation", PROSE + "\n\nUser: And in winter?", prompt=prompt) == []


def test_text_after_the_last_tag_is_a_suffix_no_reward_sees():
    text = "<answer>4</answer> and so on"
    flag = only("reward_blind_suffix", text)
    assert (flag.severity, flag.start, flag.end) == ("warn", 19, len(text))
    assert only("reward_blind_suffix", "<answer>4</answer><|im_start|>\n addCriterion").severity == "fail"
    assert found("reward_blind_suffix", "so <answer>4</answer>\n<|im_end|>") == []


def test_an_end_inside_a_thought():
    assert only("eos_in_think", "<think>let me see", finish="stop").severity == "fail"
    assert only("eos_in_think", "<think>let me see", finish="length").severity == "warn"
    assert only("eos_in_think", "let me see", prompt="2 + 2? <think>").start == 0
    assert found("eos_in_think", "<think>let me see</think> 4") == []


@pytest.mark.parametrize(("calls", "severity"), [(1, None), (2, "warn"), (3, "fail"), (5, "fail")])
def test_the_same_call_again(calls, severity):
    text = ""
    for turn in range(calls):
        box = '"b": [1, 2], "a": 3' if turn % 2 else '"a": 3,  "b": [1, 2]'
        text += f"<tool_call>{{{box}}}</tool_call>\nERROR: arguments are invalid\n"
    flags = found("tool_error_loop", text)
    assert [flag.severity for flag in flags] == ([severity] if severity else [])


def asked(form: str, answers: list[str]) -> Any:
    """One call, answered again and again: one text, ChatML in one text, or turns."""
    call = '<tool_call>{"name": "job"}</tool_call>'
    if form == "turns":
        pairs = [(Message("assistant", f"Is it done? {call}"), Message("tool", one)) for one in answers]
        return tuple(turn for pair in pairs for turn in pair)
    before, after = {
        "text": ("\n", "\n"),
        "chatml": (
            "<|im_end|>\n<|im_start|>user\n<tool_response>\n",
            "\n</tool_response><|im_end|>\n<|im_start|>assistant\nIs it done? No error so far?",
        ),
    }[form]
    return "".join(f"{call}{before}{one}{after}" for one in answers)


@pytest.mark.parametrize("form", ["text", "chatml", "turns"])
@pytest.mark.parametrize(
    "answers",
    [
        ["still running"] * 6,
        [f"{part} % done" for part in range(0, 100, 20)],
        ['{"status": "ok", "error": null, "failed": 0}'] * 6,
        ["0 errors, no failures"] * 6,
    ],
)
def test_asking_whether_a_job_has_ended_is_no_loop(form, answers):
    assert found("tool_error_loop", asked(form, answers)) == []


@pytest.mark.parametrize("form", ["text", "chatml", "turns"])
def test_a_call_that_fails_alike_is_a_loop_wherever_the_tool_answers(form):
    answers = ["ERROR 17: no such job", "ERROR 18: no such job", "ERROR 19: no such job", "done"]
    flag = only("tool_error_loop", asked(form, answers))
    assert (flag.severity, flag.values["calls"]) == ("fail", 4)
    assert ("ERROR 19: no such job" in flag.evidence) == (form != "text")  # which does not tell who says it
    assert found("tool_error_loop", asked(form, ["done", *answers[:2]]))[0].values["calls"] == 2


@pytest.mark.parametrize("form", ["chatml", "turns"])
def test_other_errors_each_time_are_no_loop(form):
    flag = only("tool_error_loop", asked(form, ["ERROR: a", "ERROR: b", "ERROR: b", "ERROR: c"]))
    assert (flag.severity, flag.values["calls"]) == ("fail", 3)  # b and b, before the last call
    assert only("tool_error_loop", asked(form, ["ERROR: a", "ERROR: b", "ERROR: c"])).severity == "warn"


def test_a_call_that_nothing_answers_is_a_loop():
    flag = only("tool_error_loop", '<tool_call>{"name": "job"}</tool_call>\n' * 3)
    assert flag.severity == "fail" and "answered by nothing" in flag.evidence


def test_calls_with_other_arguments_are_no_loop():
    text = "".join(f'<tool_call>{{"box": {i}}}</tool_call>' for i in range(5))
    assert found("tool_error_loop", text) == []


def test_broken_characters():
    assert only("mojibake", "a ��� b").start == 2
    assert only("mojibake", "caf\u00c3\u00a9, th\u00c3\u00a9, d\u00c3\u00a9j").severity == "fail"
    assert found("mojibake", "naïve café, Łódź, 東京, 🙂, cut off �") == []
    assert found("mojibake", "���", prompt="What is ��� ?") == []


@pytest.mark.parametrize("text", ["", " \n", "<|im_end|>", "<think>hm</think>\n"])
def test_nothing_said(text):
    assert only("empty_answer", text).severity == "fail"


def test_something_said_is_not_empty():
    assert found("empty_answer", "<think>hm</think> 4") == []
    assert found("empty_answer", completion_ids=[3, 4]) == []


def test_log_probabilities_that_are_no_numbers():
    assert only("nan_logits", "abc", completion_ids=[1, 2, 3], logprobs=[-1.0, None, -2.0]).tokens == (1, 2)
    assert only("nan_logits", completion_ids=[5] + [0] * 40).tokens == (1, 41)
    assert only("nan_logits", "Well" + "!" * 40).severity == "warn"
    assert found("nan_logits", "Well!!!", completion_ids=[1, 0, 0, 2], logprobs=[-1.0] * 4) == []


def test_only_the_policys_turns_are_its_own():
    turns = (
        Message("assistant", "Look."),
        Message("tool", "��� <|im_start|>"),
        Message("assistant", "A cat."),
    )
    assert [
        flag for name in ("mojibake", "ctrl_token_in_body") for flag in found(name, prompt="?", text=turns)
    ] == []


def test_turns_of_a_conversation_are_read_as_one_text():
    turns = (
        Message("assistant", "Look."),
        Message("tool", "ok"),
        Message("assistant", "A cat. " + "meow " * 40),
    )
    flag = only("tail_cycle", prompt="?", text=turns)
    assert Rollout("?", turns).text[flag.start or 0 :].strip().startswith("meow")


@pytest.mark.parametrize("name", kinds.names(FAMILY))
def test_every_detector_says_why_and_what_to_do(name):
    detector = kinds.load(FAMILY, name)
    assert issubclass(detector, Detector)
    assert detector.why and detector.fix and detector.__doc__


def test_a_tools_words_are_not_the_policys():
    paging = "page of results with twenty rows and a footer\n" * 60
    turns = (
        Message("assistant", "Look."),
        Message("tool", paging + "<think>"),
        Message("assistant", "A cat."),
    )
    assert [
        flag for one in every_detector() if not one.needs for flag in one.check(Reading(Rollout("?", turns)))
    ] == []


def test_a_loop_in_an_earlier_turn_is_found_there():
    turns = (Message("assistant", "Well" + " na" * 90), Message("tool", "ok"), Message("assistant", "A cat."))
    flag = only("tail_cycle", text=turns)
    assert (flag.start or 0) <= 4 and flag.end == 4 + 270


def test_an_end_token_may_close_a_turn_of_several_where_ids_are_known():
    columns = {"completion_ids": [0, 1, 27, 5, 26, 5, 2, 27], "loss_mask": [1, 1, 1, 0, 0, 0, 1, 1]}
    assert found("ctrl_token_in_body", vocabulary=vocabulary(), **columns) == []
    columns["loss_mask"] = [1] * 8
    assert only("ctrl_token_in_body", vocabulary=vocabulary(), **columns).severity == "fail"


def test_characters_are_left_out_where_the_text_hides_special_tokens():
    flag = only("ctrl_token_in_body", "abc", completion_ids=[0, 26, 1, 2, 27], vocabulary=vocabulary())
    assert (flag.start, flag.tokens) == (None, (1, 2))


@pytest.mark.parametrize(
    "text",
    [
        "A turn in ChatML:\n```\n<|im_start|>user\nHi<|im_end|>\n```\nThat is all.",
        "OCaml has an operator: f <|x|> y is a product.",
        "<|channel|>analysis<|message|>Two and two.<|end|>",
        "Call: <｜tool▁calls▁begin｜>f<｜tool▁calls▁end｜>",
    ],
)
def test_control_tokens_that_are_talked_about_or_meant_do_not_fail(text):
    assert [flag.severity for flag in found("ctrl_token_in_body", text)] in ([], ["warn"])


@pytest.mark.parametrize("text", ["Answer: 4" + "\n" * 400, "{" + " " * 500, "好的，我们再看一遍。" * 12])
def test_white_space_without_end_and_loops_of_dense_scripts(text):
    assert only("tail_cycle", text).severity == "fail"


@pytest.mark.parametrize(
    "more",
    [
        "assistant\n\nParis lies on the Seine.",
        "\n\n**User:** And then?",
        "\n\n用户：还有吗？\n\n助手：没有。",
    ],
)
def test_roles_in_other_dress(more):
    assert len(PROSE) <= (only("role_continuation", PROSE + more).start or 0) <= len(PROSE) + 2


def is_free(text: str, place: re.Match[str]) -> bool:
    """Of one control token by itself: no quotes, backticks or block of code around it."""
    line = text[text.rfind("\n", 0, place.start()) + 1 :].partition("\n")[0]
    before, _, after = line.partition(place.group())
    block = text.count("```", 0, place.start()) % 2 == 1 and "```" in text[place.end() :] and "token" in text
    quoted = text[: place.start()].endswith(QUOTES) and text[place.end() :].startswith(QUOTES)
    return not (quoted or block or (before.count("`") % 2 == 1 and "`" in after))


@given(
    st.lists(st.sampled_from(["`", "```", "\n", '"', "x", "token ", "<|im_start|>", "[INST]"]), max_size=30)
)
def test_whether_a_control_token_is_talked_about_is_told_as_for_it_alone(pieces):
    text = "".join(pieces)
    end = Reading(Rollout("?", text)).end
    free = [place for place in CONTROL.finditer(text, 0, end) if is_free(text, place)]
    flags = [flag for flag in found("ctrl_token_in_body", text) if flag.severity == "fail"]
    assert [(flag.start, flag.end) for flag in flags] == ([(free[0].start(), free[-1].end())] if free else [])


def test_a_reading_that_is_no_longer_held_is_gone_at_once():
    reading = Reading(Rollout("?", PROSE * 8))
    for detector in every_detector():
        if not detector.needs:
            list(detector.check(reading))
    gone = weakref.ref(reading)
    del reading
    assert gone() is None


def test_detectors_take_linear_time():
    start = time.process_time()
    failing = (Message("assistant", calling('{"name": "zoom"}')), Message("tool", "error"))
    for text in (
        failing * 8_000,
        "<|im_end|>\n<|im_start|>user\n<tool_response>\n" * 4_000,
        "<tool_call>" * 20_000,
        " " * 40_000 + "x>",
        "<|im_end|> " * 40_000,
        "`" + "<|im_start|>" * 40_000,
        "".join(f"<|mark_{i}|>" for i in range(40_000)),
        "</s>." * 40_000,
        "<answer>" + "</answer>" * 40_000,
        "<tool_call>{}</tool_call>" * 20_000,
        "<think><tool_call>x</tool_call></think>" * 10_000,
        "<tool_call>" + " " * 100_000,
        *("你好" + "“" * 60_000, "你好" + "「答え" * 40_000, "你好" + "$$" * 40_000, "你好" + "\\[" * 40_000),
    ):
        for detector in every_detector():
            if not detector.needs:
                list(detector.check(Reading(Rollout("?", text))))
    assert time.process_time() - start < 10


def test_a_prompt_that_is_given_rendered_names_no_control_tokens():
    prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    text = "Hello.<|im_end|>\n<|im_start|>user\nok thanks"
    assert [flag.severity for flag in found("ctrl_token_in_body", text, prompt=prompt)] == ["fail"]


CHINESE = "说明目标在中间部分的右侧，将边界更新为下一个位置。"


def test_an_answer_that_goes_over_to_another_script_is_said():
    flag = only("script_switch", f"{PROSE} {CHINESE} {PROSE}")
    # 25 characters less a comma and a full stop; PROSE has 156 letters, twice
    assert (flag.severity, flag.values["script"]) == ("warn", "Han")
    assert flag.start == len(PROSE) + 1 and flag.end == len(PROSE) + len(CHINESE)
    assert flag.evidence.startswith("23 letters of Han (7%)")
    assert only("script_switch", f"{PROSE} Это предложение по-русски.").values["script"] == "Cyrillic"


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("湖在哪里？", CHINESE),
        ("", CHINESE),
        ("1 + 1 = ?", CHINESE),
        ("湖在哪里？", f"{CHINESE} The lake is called Willow Lake, wie man sagt."),
        ("Translate it to the tongue of Beijing.", CHINESE),
        (
            "How do I say good morning in Japan?",
            f"{PROSE} おはようございます、ありがとう、元気です。",
        ),
        ("翻译成俄语：湖", "Озеро лежит между двумя холмами."),
        ("What is tea called?", f"{PROSE} It is “{CHINESE}”, ({CHINESE}) or `{CHINESE}`."),
        ("What is tea called?", f"{PROSE} ```\nprint('{CHINESE}')\n```"),
        ("What is tea called?", f"{PROSE} It is called 茶, or чай."),
        ("What is π?", "So α + β ≥ γ, ∑ δ² = ε — and 𝒙 ∈ ℝ. 🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉🎉"),
        ("How are you?", "١٢٣٤٥٦٧٨٩٠١٢٣٤"),  # of the ranges, but no letters
        ("Tell me a story.", "・" * 40),
        ("What is it?", f"{PROSE} $$\nχρόνος και χώρος\n$$ or \\[\n f[χρόνος] + \\chi\nκαι χώρος \\]"),
        (
            "What does the pendulum do?",
            "With θ, ρ and λν = γ: Rμν − ½ R gμν + Λ gμν = κ Tμν, θ = θ₀ cos(ωt + φ), σ, τ, ψ, π.",
        ),
        ("Write a short story in Malayalam.", "ഒരിക്കൽ ഒരു രാജാവ് ഉണ്ടായിരുന്നു അദ്ദേഹം വളരെ നല്ലവനായിരുന്നു"),
        ("Tell me a story in Sinhala.", "එක් කලක රජෙක් සිටියේය ඔහු ඉතා හොඳ කෙනෙක්"),
        ("¿Cómo se dice buenos días en ruso?", "Se dice доброе утро, o también здравствуйте."),
        ("Écris bonjour en chinois.", f"{PROSE} {CHINESE}"),
        ("用俄文介绍你自己", "Привет, меня зовут помощник, чем могу помочь?"),
        ("請用韓語自我介紹", "안녕하세요 저는 여러분을 도와드리는 조수입니다"),
        ("Odpowiedz po rosyjsku: jak się nazywasz?", "Привет, меня зовут помощник, чем могу помочь?"),
        ("Shrug.", "¯\\_(ツ)_/¯ " * 3 + "║═══║ ｆｕｌｌ ｗｉｄｔｈ"),
    ],
)
def test_words_that_are_asked_for_or_mentioned_are_no_switch(prompt, text):
    assert found("script_switch", text, prompt=prompt) == []


def test_words_of_greek_are_a_switch_as_symbols_are_none():
    # accented words alone: λίμνη 5, βρίσκεται 9, ανάμεσα 7
    flag = only("script_switch", "The answer is: η λίμνη βρίσκεται ανάμεσα στους λόφους.")
    assert flag.evidence.startswith("27 letters of Greek")  # and λόφους 6; η and στους have no accent


def test_marks_and_digits_are_no_letters_and_no_share_exceeds_the_whole():
    # ก and ี่ by turns: 20 letters, 40 marks
    assert only("script_switch", "กี่" * 20).evidence.startswith("20 letters of Thai (100%)")


def test_a_request_in_another_language_excuses_an_answer_but_not_a_switch_within_one():
    asked = "Opowiedz krótką historię o jeziorze."
    assert only("script_switch", f"{PROSE} {CHINESE} {PROSE}", prompt=asked).values["share"] < 0.5
    assert found("script_switch", CHINESE, prompt=asked) == []


def test_the_script_of_the_reference_is_asked_for():
    assert found("script_switch", CHINESE, meta={"reference": "湖"}) == []
    assert only("script_switch", CHINESE, meta={"reference": "lake"}).start == 0


def test_what_a_tool_says_is_no_switch_of_the_policy():
    turns = (Message("assistant", "Let me look."), Message("tool", CHINESE), Message("assistant", PROSE))
    assert found("script_switch", turns) == []


ZOOM = {
    "name": "zoom",
    "parameters": {"properties": {"box": {"type": "array"}, "by": {}}, "required": ["box"]},
}


def calling(call: str) -> str:
    return f"Let me look. <tool_call>{call}</tool_call>"


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        ('{"name": "zoom", "arguments": {"box": [1, 2]}', "call is no JSON"),
        ("zoom in there", "call is no JSON"),
        ('["zoom"]', "call is no JSON"),
        ('{"name": "zoom", "arguments": "{box"}', "call is no JSON"),
        ('{"arguments": {"box": []}}', "call without a name or arguments"),
        ('{"name": "zoom", "arguments": [1]}', "call without a name or arguments"),
        ('{"name": "zom", "arguments": {"box": []}}', "undeclared tool"),
        ('{"name": "zoom", "arguments": {"by": 2}}', "missing argument"),
        ('{"name": "zoom", "arguments": {"box": [], "size": 2}}', "undeclared argument"),
    ],
)
@pytest.mark.parametrize(
    "columns",
    [
        {"tools": [ZOOM]},
        {"tools": json.dumps([{"type": "function", "function": ZOOM}])},
        {"request": {"body": {"tools": [{"name": "zoom", "input_schema": ZOOM["parameters"]}]}}},
    ],
)
def test_a_call_that_no_tool_can_take(call, kind, columns):
    text = calling(call)
    flag = only("invalid_call", text, meta=columns)
    assert (flag.severity, flag.signature) == ("warn", kind)
    assert text[flag.start : flag.end] == call


@pytest.mark.parametrize(
    "call",
    [
        '{"name": "zoom", "arguments": {"box": [1], "by": 2}}',
        '{"name": "zoom", "arguments": "{\\"box\\": [1]}"}',
        "\n<function=zoom>\n<parameter=box>[1]</parameter>\n</function>\n",  # Qwen3-Coder
        "zoom\n<arg_key>box</arg_key>\n<arg_value>[1]</arg_value>",  # GLM-4.5
    ],
)
def test_a_call_that_is_right_or_of_another_format_is_left_alone(call):
    assert found("invalid_call", calling(call), meta={"tools": [ZOOM]}) == []


def test_what_a_schema_leaves_open_may_be_given():
    free = {"name": "zoom", "parameters": {**ZOOM["parameters"], "additionalProperties": True}}
    call = calling('{"name": "zoom", "arguments": {"box": [], "size": 2}}')
    assert found("invalid_call", call, meta={"tools": [free]}) == []
    assert found("invalid_call", call, meta={"tools": [{"name": "zoom"}]}) == []


@pytest.mark.parametrize("open_by", ["patternProperties", "oneOf", "anyOf", "allOf", "$ref"])
def test_arguments_that_a_schema_declares_otherwise_are_not_called_undeclared(open_by):
    free = {"name": "zoom", "parameters": {**ZOOM["parameters"], open_by: [{"properties": {"size": {}}}]}}
    call = calling('{"name": "zoom", "arguments": {"box": [], "size": 2}}')
    assert found("invalid_call", call, meta={"tools": [free]}) == []


@pytest.mark.parametrize("required", [True, "box", [["box"]], {"box": 1}, 3])
def test_a_schema_whose_required_is_no_list_of_names_requires_nothing(required):
    tool = {"name": "zoom", "parameters": {**ZOOM["parameters"], "required": required}}
    call = calling('{"name": "zoom", "arguments": {"by": 2}}')
    assert found("invalid_call", call, meta={"tools": [tool]}) == []


@pytest.mark.parametrize("arguments", ["null", '"null"', '""', "{}"])
def test_a_tool_without_arguments_may_be_called_with_none(arguments):
    call = calling(f'{{"name": "now", "arguments": {arguments}}}')
    assert found("invalid_call", call, meta={"tools": [{"name": "now"}]}) == []


@pytest.mark.parametrize(
    "thought",
    [
        "<think>I should return the function within <tool_call></tool_call> tags.</think>",
        "<think>I will use a <tool_call> now.</think>",
        "The format is <tool_call>...</tool_call>.</think>",  # opened by the prompt
        "I will use a <tool_call>, then.",
        "They go into <tool_call></tool_call>, as told.",
    ],
)
def test_words_about_calls_are_no_calls(thought):
    good, bad = '{"name": "zoom", "arguments": {}}', "zoom in there"
    assert found("invalid_call", f"{thought}\n{calling(good)}") == []
    flag = only("invalid_call", f"{thought}\n{calling(bad)}\n<think>One more?</think>")
    assert flag.evidence.startswith("1 of 1 calls")
    left_open = f"{calling(good)} <think>With <tool_call>...</tool_call>"
    assert found("invalid_call", left_open) == []


def test_a_call_in_a_thought_is_one_and_tags_in_its_arguments_do_not_split_it():
    assert only("invalid_call", f"<think>{calling('{zoom}')}</think>").signature == "call is no JSON"
    text = calling('{"name": "say", "arguments": {"text": "Use <tool_call> tags."}}')
    assert found("invalid_call", text) == []
    unclosed = f"<tool_call>{{zoom}} {calling('{}')}"
    assert only("invalid_call", unclosed).start == len("<tool_call>")


def test_without_schemas_a_call_must_only_be_one():
    assert found("invalid_call", calling('{"name": "zom", "arguments": {}}')) == []
    flag = only("invalid_call", calling('{"name": "zom"}') + calling("{zoom}"))
    assert flag.evidence.startswith("1 of 2 calls")
