"""What is known of a family is found by its control tokens, then by model_type."""

from __future__ import annotations

import pytest

from holdtrue.doctor.facts import FAMILIES, family


@pytest.mark.parametrize(
    ("model_type", "controls", "name"),
    [
        ("qwen2", ("<|object_ref_start|>",), "Qwen2.5"),
        ("qwen3", ("<|object_ref_start|>",), "Qwen3"),
        ("qwen2_5_vl", (), "Qwen2.5-VL"),
        (None, ("<|eot_id|>",), "Llama-3"),
        ("qwen2", ("<|object_ref_start|>", "<｜end▁of▁sentence｜>"), "DeepSeek"),  # R1 distilled into Qwen
        ("nobody's", ("<a>",), None),
        (None, (), None),
    ],
)
def test_families_by_tokens_and_type(model_type: str | None, controls: tuple[str, ...], name: str | None):
    found = family(model_type, dict(enumerate(controls)))
    assert (found.name if found else None) == name


def test_no_model_type_is_of_two_families():
    types = [one for known in FAMILIES for one in known.model_types]
    assert len(types) == len(set(types))
    assert all(known.sources for known in FAMILIES)
