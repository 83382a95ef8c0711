"""A template is code of unknown origin: it is bounded in time and size, and what it raises is one line."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from holdtrue.doctor.rendering import LONGEST, Template, Unrendered, answer, plain, question, time_limit


def test_the_end_of_a_turn_is_the_control_token_behind_the_last_answer(byte_tokenizer: Callable[..., Any]):
    template = Template(byte_tokenizer())
    assert template.turn_end == (1,)
    assert template.show(template.turn_end) == "<|im_end|> (1)"
    assert template.generation_prompt == "<|im_start|>assistant\n"
    assert template.headers == ("<|im_start|>user", "<|im_start|>assistant")


def test_a_template_without_an_end_has_none(byte_tokenizer: Callable[..., Any]):
    template = Template(byte_tokenizer(chat_template="{% for m in messages %}{{ m.content }} {% endfor %}"))
    assert template.turn_end == ()


def test_a_loop_without_end_is_ended_and_not_waited_for_twice(byte_tokenizer: Callable[..., Any]):
    source = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    template = Template(byte_tokenizer(chat_template=source))
    start = time.monotonic()
    for _ in range(5):
        with pytest.raises(Unrendered, match="does not end within 2 s"):
            template.plain(1)
    assert time.monotonic() - start < 8


def test_what_a_template_raises_is_one_line(byte_tokenizer: Callable[..., Any]):
    template = Template(byte_tokenizer(chat_template="{{ raise_exception('first\nsecond') }}"))
    with pytest.raises(Unrendered, match=r"^TemplateError: first$"):
        template.plain(1)


def test_a_text_that_is_too_long_is_refused(byte_tokenizer: Callable[..., Any]):
    template = Template(byte_tokenizer(chat_template=f"{{{{ 'x' * {LONGEST + 1} }}}}"))
    with pytest.raises(Unrendered, match="the template gives 1,000,001 characters"):
        template.plain(1)


def test_a_template_that_drops_answers_has_no_turns(byte_tokenizer: Callable[..., Any]):
    template = Template(byte_tokenizer(chat_template="hello"))
    with pytest.raises(Unrendered, match="words of an assistant turn are not in"):
        _ = template.turn_end


def test_the_time_limit_leaves_a_tracer_as_it_was():
    before = sys.gettrace()
    with time_limit(1):
        pass
    assert sys.gettrace() is before


def test_dummy_conversations_alternate():
    assert [(m["role"], m["content"]) for m in plain(2)] == [
        ("user", question(0)),
        ("assistant", answer(0)),
        ("user", question(1)),
        ("assistant", answer(1)),
    ]
