"""Remedies for training: their mathematics by hand, and the names engines know."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from holdtrue import kinds
from holdtrue.doctor.prescription import every_remedy
from holdtrue.doctor.remedies import Context, TrainingRemedy
from holdtrue.doctor.remedies.distil_reference import DistilReference
from holdtrue.doctor.remedies.early_stop import EarlyStop
from holdtrue.doctor.remedies.end_labels import EndLabels
from holdtrue.doctor.remedies.importance_sampling import ImportanceSampling
from holdtrue.doctor.remedies.junk_advantage import JunkAdvantage
from holdtrue.doctor.remedies.ngram_penalty import NgramPenalty
from holdtrue.doctor.remedies.overlong import Overlong
from holdtrue.doctor.remedies.schedule import Schedule
from holdtrue.doctor.remedies.unlikelihood import Unlikelihood
from holdtrue.errors import DataError, SettingsError
from holdtrue.settings import Settings

TRAINING = [one for one in every_remedy() if isinstance(one, TrainingRemedy)]


# overlong: limit 100, cache 20


def test_the_penalty_grows_over_the_cache_and_stops_at_the_limit():
    # 80 is free; 90 is half of the cache; 100 and beyond pay all
    assert Overlong(limit=100, cache=20).penalty([10, 80, 90, 100, 150]).tolist() == [0, 0, -0.5, -1, -1]
    assert Overlong(limit=100, cache=20, factor=0.4).penalty(95).tolist() == pytest.approx(-0.3)


def test_the_penalty_is_that_of_trl():
    rewards = pytest.importorskip("trl.rewards")
    theirs = rewards.get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)
    lengths = [0, 79, 80, 81, 99, 100, 101]
    assert Overlong(limit=100, cache=20).penalty(lengths) == pytest.approx(
        theirs([[1] * length for length in lengths])
    )


def test_the_cache_is_a_part_of_the_limit():
    with pytest.raises(ValidationError, match="seen 200 of 100"):
        Overlong(limit=100, cache=200)


# junk_advantage


def test_junk_never_has_a_positive_advantage():
    advantages = np.array([[1.0, 1.0, 1.0], [-2.0, -2.0, -0.1]])
    junk = np.array([[False, True, True], [True, False, True]])
    assert JunkAdvantage().mask(advantages, junk).tolist() == [[1, -0.5, -0.5], [-2, -2, -0.5]]
    assert JunkAdvantage(least=0).mask(advantages, junk).tolist() == [[1, 0, 0], [-2, -2, -0.1]]


def test_every_token_needs_to_be_judged():
    with pytest.raises(DataError, match=r"\(2,\) and junk of \(3,\)"):
        JunkAdvantage().mask(np.zeros(2), np.zeros(3, dtype=bool))


# ngram_penalty


def test_grams_said_twice_before_are_counted_at_the_end():
    # 1 2 1 2 1 2 1 2: seven 2-grams 12 21 12 21 12 21 12; of the last 4 (21 12 21 12 = 2nd 3rd 3rd 4th copy)
    # three stand twice or more before
    assert NgramPenalty(n=2, window=4).repetition([1, 2] * 4) == 0.75
    assert NgramPenalty(n=2, window=4, free=0.5).penalty([1, 2] * 4) == pytest.approx(-0.5)
    assert NgramPenalty(n=2, window=4, free=0.75).penalty([1, 2] * 4) == 0


def test_a_repetition_that_was_left_costs_nothing_and_short_answers_neither():
    assert NgramPenalty().penalty([7] * 200 + list(range(10, 150))) == 0
    assert NgramPenalty().penalty([7] * 20) == NgramPenalty().penalty([]) == 0
    assert NgramPenalty().penalty(list(range(10, 150)) + [7] * 200) == -1


# importance_sampling


def test_weights_are_ratios_up_to_the_cap():
    weights = ImportanceSampling(cap=2).weights(np.log([0.5, 0.2, 0.9]), np.log([0.5, 0.4, 0.1]))
    assert weights == pytest.approx([1.0, 0.5, 2.0])
    assert ImportanceSampling(cap=2).weights([0.0], [-1e9]).tolist() == pytest.approx([2.0])


# unlikelihood


def test_tokens_said_before_are_made_unlikely():
    torch = pytest.importorskip("torch")
    # p = 1/3 each; before the 2nd token C = {0}, before the 3rd {0, 1} without 0 itself = {1}
    term = Unlikelihood().term(torch.zeros(3, 3), torch.tensor([0, 1, 0]))
    assert term.tolist() == pytest.approx([0.0, -math.log(2 / 3), -math.log(2 / 3)])
    assert Unlikelihood(alpha=2).term(torch.zeros(2, 4), torch.tensor([0, 1])).tolist() == pytest.approx(
        [0.0, -2 * math.log(3 / 4)]
    )


def test_a_token_said_twice_counts_once_and_beyond_the_window_not_at_all():
    torch = pytest.importorskip("torch")
    once = -math.log(2 / 3)
    targets = torch.tensor([0, 0, 1, 1])
    term = Unlikelihood().term(torch.zeros(4, 3), targets)
    assert term.tolist() == pytest.approx([0, 0, once, once])  # {} {} {0} {0}
    term = Unlikelihood(window=1).term(torch.zeros(4, 3), targets)
    assert term.tolist() == pytest.approx([0, 0, once, 0])  # the last looks back to a 1 alone


def test_the_term_pushes_past_tokens_down_and_stays_finite():
    torch = pytest.importorskip("torch")
    logits = torch.tensor([[0.0, 0.0], [100.0, 0.0]], requires_grad=True)
    term = Unlikelihood().term(logits, torch.tensor([0, 1])).sum()
    assert torch.isfinite(term)
    mild = torch.zeros(2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(Unlikelihood().term(mild, torch.tensor([0, 1])).sum(), mild)
    assert gradient[1, 0] > 0 > gradient[1, 1]


# early_stop


def test_training_ends_when_a_metric_is_high_twice_in_a_row():
    stop = EarlyStop(limits={"degenerate": 0.02})
    assert stop.stops_at([{"degenerate": rate} for rate in (0.0, 0.03, 0.0, 0.03, 0.04, 0.0)]) == 4
    assert stop.stops_at([{"degenerate": rate} for rate in (0.03, 0.0, 0.03, 0.02)]) is None


def test_a_metric_nobody_measures_is_an_error():
    with pytest.raises(DataError, match="evaluation 0 has no metric 'truncated'; seen: degenerate"):
        EarlyStop().stops_at([{"degenerate": 0.0}])


# settings

NAMED: dict[str, TrainingRemedy] = {
    "end_labels": EndLabels(eos_token="<|im_end|>", pad_token="<|endoftext|>"),
    "distil_reference": DistilReference(reference="model"),
}
"""Those that need a name of the user."""


@pytest.mark.parametrize("remedy", TRAINING, ids=lambda one: one.name())
def test_trl_knows_every_setting_it_is_given(remedy: TrainingRemedy):
    remedy = NAMED.get(remedy.name(), remedy)
    if "trl" not in remedy.engines():
        with pytest.raises(SettingsError, match="unknown engine with a setting for it 'trl'"):
            remedy.settings("trl")
        return
    trl = pytest.importorskip("trl")
    gkd = pytest.importorskip("trl.experimental.gkd")
    peft = pytest.importorskip("peft")
    known = {
        field.name
        for config in (trl.GRPOConfig, trl.SFTConfig, gkd.GKDConfig, peft.LoraConfig)
        for field in dataclasses.fields(config)
    }
    assert set(remedy.settings("trl")) <= known | {"reward_funcs", "callbacks"}  # arguments of the trainer


def test_holdtrue_knows_its_own_settings():
    known = Settings.model_fields["training"].annotation.model_fields  # type: ignore[union-attr]
    for shape in ("cosine", "step"):
        given = Schedule(shape=shape).settings("holdtrue")  # type: ignore[arg-type]
        assert {name.removeprefix("training.") for name in given} <= set(known)


@pytest.mark.parametrize("remedy", TRAINING, ids=lambda one: one.name())
def test_where_holdtrue_has_no_setting_the_kind_is_one(remedy: TrainingRemedy):
    remedy = NAMED.get(remedy.name(), remedy)
    given = remedy.settings("holdtrue")
    if "kind" in given:
        assert kinds.choose("holdtrue.doctor.remedies", given, None) == remedy


def test_a_step_schedule_is_holdtrues_own():
    with pytest.raises(SettingsError, match="schedule: unknown engine with a setting for it 'trl'"):
        Schedule(shape="step").settings("trl")


def test_end_and_padding_are_two_tokens():
    with pytest.raises(ValidationError, match="padding and end are both"):
        EndLabels(eos_token="</s>", pad_token="</s>")
    with pytest.raises(SettingsError, match="needs eos_token and pad_token"):
        EndLabels().settings("trl")


def test_a_teacher_must_be_named():
    with pytest.raises(SettingsError, match="distil_reference needs reference"):
        DistilReference().settings("trl")


# refusals


@pytest.mark.parametrize(
    ("name", "context", "said"),
    [
        ("kl", {"reference": 0.08}, "8 % of the reference's own answers are degenerate: KL preserves"),
        ("distil_reference", {"reference": 0.012}, "1 % of the reference's own answers"),
        ("masks", {"truncated": 0.97}, "97 % of the answers are cut"),
        ("overlong", {"truncated": 0.9, "looping": 0.1}, "raise the limit"),
        ("longer_limit", {"looping": 0.8}, "80 % of the cut answers loop"),
        ("entropy", {"findings": {"phantom_token"}}, "phantom_token: the bonus lifts every unlikely id"),
        ("junk_advantage", {"findings": {"GAP_TREND"}}, "mend the engine first"),
        ("importance_sampling", {"findings": {"D02"}}, "penalties"),
        ("dropout", {"stage": "rl"}, "other log-probabilities each time"),
        ("unlikelihood", {"stage": "rl"}, "no part of the policy gradient"),
        ("veto", {"stage": "sft"}, "no reward"),
        ("veto", {"findings": frozenset({"tail_cycle", "REWARD_BLIND"})}, "the loops are plain text"),
    ],
)
def test_a_remedy_is_refused_where_it_does_harm(name: str, context: dict[str, Any], said: str):
    context["findings"] = frozenset(context.get("findings", ()))
    remedy = kinds.load("holdtrue.doctor.remedies", name)()
    assert isinstance(remedy, TrainingRemedy)
    assert said in (remedy.refuses(Context(**context)) or "")


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("kl", {"reference": 0.002}),
        ("kl", {}),
        ("masks", {"truncated": 0.2}),
        ("overlong", {"truncated": 0.9, "looping": 0.9}),
        ("longer_limit", {"truncated": 0.9, "looping": 0.0}),
        ("entropy", {}),
        ("dropout", {"stage": "sft"}),
        ("unlikelihood", {"stage": "sft"}),
    ],
)
def test_and_not_elsewhere(name: str, context: dict[str, Any]):
    remedy = kinds.load("holdtrue.doctor.remedies", name)()
    assert isinstance(remedy, TrainingRemedy)
    assert remedy.refuses(Context(**context)) is None


@pytest.mark.parametrize("remedy", TRAINING, ids=lambda one: one.name())
def test_nothing_is_trained_while_a_model_is_served(remedy: TrainingRemedy):
    assert remedy.refuses(Context(stage="serving"))
