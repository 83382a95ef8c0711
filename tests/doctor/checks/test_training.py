from __future__ import annotations

from typing import Any

import pytest

from holdtrue.data.examples import Example
from holdtrue.doctor.checks import examine
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.subject import Subject

FOUNDING = {
    "learning_rate": 1e-6,
    "lr_scheduler_type": "constant",
    "beta": 0.0,
    "entropy_coef": 0,
    "loss_type": "bnpo",
    "num_train_epochs": 32,
    "num_generations": 16,
    "max_completion_length": 20480,
}
"""What the page says of the founding case's script."""


@pytest.fixture
def check(tmp_path):
    def run(id: str, settings: dict[str, Any] | None, examples: list[Example] | None = None) -> Finding | str:
        diagnosis = examine(Subject(tmp_path, settings=settings, examples=examples))
        found = [one for one in diagnosis.findings if one.id == id]
        return found[0] if found else next(one.why for one in diagnosis.skipped if one.id == id)

    return run


def prompts(count: int) -> list[Example]:
    return [Example(({"role": "user", "content": f"What is {i}?"},), f"data:{i}") for i in range(count)]


@pytest.mark.parametrize("id", ["K01", "K02", "K03", "K05"])
def test_the_founding_case_warns_and_says_what_to_change(check, id):
    found = check(id, FOUNDING)
    assert found.severity == "warn" and found.fix and found.why and found.source
    assert check(id, FOUNDING | found.values["fix"]["settings"]).severity == "ok"


@pytest.mark.parametrize(
    ("id", "change"),
    [
        ("K01", {"beta": 0.001}),
        ("K01", {"entropy_coef": 0.01}),
        ("K01", {"reward_funcs": ["accuracy", "get_repetition_penalty_reward"]}),
        ("K01", {"early_stopping_patience": 3}),
        ("K02", {"lr_scheduler_type": "cosine"}),
        ("K03", {"num_train_epochs": 3}),
        ("K05", {"loss_type": "dr_grpo"}),
        ("K05", {"mask_truncated_completions": True}),
        ("K05", {"overlong_shaping": True}),
    ],
)
def test_the_fix_is_accepted(check, id, change):
    assert check(id, FOUNDING | change).severity == "ok"


def test_a_large_learning_rate_warns_and_an_adapter_may_have_a_larger_one(check):
    values = FOUNDING | {"lr_scheduler_type": "cosine", "learning_rate": 5e-5}
    assert "5e-05 is above 1e-05" in check("K02", values).evidence
    assert check("K02", values | {"use_peft": True}).severity == "ok"


def test_many_epochs_over_many_prompts_do_not_warn(check):
    assert check("K03", FOUNDING, prompts(9_999)).severity == "warn"
    assert check("K03", FOUNDING, prompts(10_000)).severity == "ok"
    assert check("K03", FOUNDING, prompts(10) * 1_000).values["prompts"] == 10


def test_masked_truncation_under_a_short_cap_warns(check):
    masked = FOUNDING | {"mask_truncated_completions": True}
    found = check("K04", masked | {"max_completion_length": 256})
    assert found.severity == "warn"
    assert check("K04", masked | found.values["fix"]["settings"]).severity == "ok"
    assert check("K04", masked).severity == "ok"
    assert check("K04", FOUNDING | {"max_completion_length": 256}).severity == "ok"


def test_masked_truncation_is_judged_by_the_answers_of_the_data(tmp_path, byte_tokenizer):
    byte_tokenizer().save_pretrained(tmp_path)
    talks = [
        ({"role": "user", "content": "?"}, {"role": "assistant", "content": "y" * n}) for n in range(1, 101)
    ]
    examples = [Example(talk, f"data:{i}") for i, talk in enumerate(talks)]
    for cap, severity in ((80, "warn"), (95, "ok")):  # 21 and 6 of 100 answers have at least as many bytes
        settings = FOUNDING | {"mask_truncated_completions": True, "max_completion_length": cap}
        (found,) = [
            f
            for f in examine(Subject(tmp_path, settings=settings, examples=examples)).findings
            if f.id == "K04"
        ]
        assert found.severity == severity
        assert found.values["cut"] == pytest.approx((101 - cap) / 100)


def test_all_checks_advise_one_cap_and_the_mask_that_one_advises_is_accepted(tmp_path, byte_tokenizer):
    """Answers of 1 to 100 bytes: 95 % need up to 95 tokens, so 190 is advised, whoever asks."""
    byte_tokenizer().save_pretrained(tmp_path)
    turns = [
        ({"role": "user", "content": "?"}, {"role": "assistant", "content": "y" * n}) for n in range(1, 101)
    ]
    examples = [Example(talk, f"data:{i}") for i, talk in enumerate(turns)]

    def found(**settings: Any) -> dict[str, Finding]:
        values = FOUNDING | {"max_completion_length": 60} | settings
        diagnosis = examine(Subject(tmp_path, settings=values, examples=examples))
        return {one.id: one for one in diagnosis.findings if one.id in ("D05", "K04", "K05")}

    open_end, masked = found(), found(mask_truncated_completions=True)
    for one in (open_end["D05"], open_end["K05"], masked["D05"], masked["K04"]):
        assert one.severity == "warn" and one.values["fix"]["settings"]["max_completion_length"] == 190
    after = found(**open_end["K05"].values["fix"]["settings"])
    assert {one.severity for one in after.values()} == {"ok"}


def test_a_mask_is_not_advised_without_room_where_the_cap_is_short(check):
    fix = check("K05", FOUNDING | {"max_completion_length": 256}).values["fix"]["settings"]
    assert fix == {"mask_truncated_completions": True, "max_completion_length": 512}
    assert check("K04", FOUNDING | fix).severity == "ok"


def test_settings_of_other_training_are_skipped(check):
    for id in ("K01", "K02", "K03", "K04", "K05"):
        assert (
            check(id, {"learning_rate": 1e-3, "num_train_epochs": 50})
            == "the settings are not of reinforcement learning"
        )
        assert check(id, None) == "no settings are given"
