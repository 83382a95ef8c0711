"""K: settings of reinforcement learning under which nothing holds a drifting policy. All only warn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdtrue.data.examples import Example
from holdtrue.doctor.checks import Results, check
from holdtrue.doctor.checks.targets import SHORT, cap_to_advise, cut_by
from holdtrue.doctor.dialect import ACTOR, said
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.subject import Missing, Subject
from holdtrue.doctor.tallies import Distinct, of_examples
from holdtrue.doctor.training_settings import EARLY_STOP, is_of_rl

DEEPEYES = "Visual-Agent/DeepEyes#131"
FULL, LORA = 1e-5, 1e-4
"""Largest usual learning rate of RL for all weights, and for an adapter (ours: ten times that)."""
CONSTANT = ("constant", "constant_with_warmup")
TOKEN_MEAN = ("bnpo", "dapo")
"""TRL's losses whose mean is over tokens: a long sample counts by its length. ``dapo`` is TRL's default."""
EPOCHS, PROMPTS = 5, 10_000
"""Ours: more passes than this over fewer prompts than this is many (the founding case had 32)."""
CUT = 0.1
"""Share of cut answers that section 5 of the detectors warns at."""
_OR_A_REWARD = {
    "trl": ", or add TRL's overlong or repetition reward to reward_funcs",
    "verl": f", or {said({ACTOR + 'loss_agg_mode': 'seq-mean-token-mean'})}",
    "openrlhf": ", or subtract a repetition penalty in the reward function",
    "holdtrue": ", or subtract a repetition penalty in the reward",
}


@check("K01")
def nothing_holds_the_policy(subject: Subject) -> Results:
    """No KL, no entropy term, no penalty of repetition or length, no early stop: warns."""
    settings, own = _of_rl(subject), subject.dialect
    held = _held_by(settings)
    seen = {"beta": _float(settings, "beta", 0.0), "entropy_coef": _float(settings, "entropy_coef", 0.0)}
    if held:
        yield Finding(
            "K01", "ok", f"the policy is held by {', '.join(held)}", values=seen | {"held_by": held}
        )
        return
    changes = own.changes({"beta": 0.001})
    yield Finding(
        "K01",
        "warn",
        f"KL weight {seen['beta']:g}, {own.key('entropy_coef')} {seen['entropy_coef']:g}, no penalty "
        "and no early stop",
        "what the reward does not see is learned as happily as what it pays for, and nothing pulls it back",
        "make the reward see junk after the answer (wrap it in holdtrue.doctor.veto.veto), "
        f"{said(changes)}, or add a repetition penalty to the rewards; KL alone does not cure a start "
        "checkpoint that already has the habit",
        DEEPEYES,
        seen | {"held_by": [], "fix": {"settings": changes}},
    )


@check("K02")
def learning_rate(subject: Subject) -> Results:
    """A learning rate above 1e-5 for all weights (1e-4 for an adapter), or one that never falls: warns."""
    settings, own = _of_rl(subject), subject.dialect
    rate, schedule = settings.get("learning_rate"), settings.get("lr_scheduler_type")
    if rate is None and schedule is None:
        raise Missing("the settings give no learning rate")
    adapter = subject.adapter is not None or bool(settings.get("lora_r") or settings.get("use_peft"))
    most = LORA if adapter else FULL
    values = {"learning_rate": rate, "lr_scheduler_type": schedule, "adapter": adapter, "most": most}
    faults: list[str] = []
    changes: dict[str, Any] = {}
    if isinstance(rate, int | float) and rate > most:
        faults.append(
            f"{own.key('learning_rate')} {rate:g} is above {most:g} "
            f"for {'an adapter' if adapter else 'all weights'}"
        )
        changes["learning_rate"] = float(f"{most / 10:g}")
    if schedule in CONSTANT:
        faults.append(f"{own.key('lr_scheduler_type')} is {schedule}")
        changes["lr_scheduler_type"] = "cosine"
    changes = own.changes(changes)
    if not faults:
        yield Finding(
            "K02", "ok", f"learning_rate {rate}, lr_scheduler_type {schedule or 'by default'}", values=values
        )
        return
    yield Finding(
        "K02",
        "warn",
        "; ".join(faults),
        "late in a run large steps keep drifting where the reward is flat",
        said(changes),
        DEEPEYES,
        values | {"fix": {"settings": changes}},
    )


@of_examples
class Prompts:
    """How many different prompts there are, for a run of reinforcement learning."""

    def __init__(self, subject: Subject) -> None:
        _of_rl(subject)
        self.different = Distinct()

    def see(self, one: Example) -> None:
        self.different.add(_prompt(one.messages))


@check("K03")
def many_epochs(subject: Subject) -> Results:
    """More than 5 passes over fewer than 10,000 prompts: warns."""
    settings = _of_rl(subject)
    epochs = settings.get("num_train_epochs")
    if not isinstance(epochs, int | float) or _float(settings, "max_steps", -1) > 0:
        raise Missing("the settings give no number of epochs")
    prompts = len(subject.counted(Prompts).different) if subject.examples else None
    values = {"num_train_epochs": epochs, "prompts": prompts}
    seen = f"{epochs:g} epochs over {prompts if prompts is not None else 'an unknown number of'} prompts"
    if epochs <= EPOCHS or (prompts is not None and prompts >= PROMPTS):
        yield Finding("K03", "ok", seen, values=values)
        return
    changes = subject.dialect.changes({"num_train_epochs": EPOCHS})
    yield Finding(
        "K03",
        "warn",
        seen,
        "the prompts are known by heart, their rewards stop differing, and what is left is drift",
        f"{said(changes)} at most, and take the step with the best text, not the last one",
        "Visual-Agent/DeepEyes#46",
        values | {"fix": {"settings": changes}},
    )


@check("K04")
def masked_truncation(subject: Subject) -> Results:
    """Cut answers are left out of the loss, and the cap cuts more than 10 % of them: warns."""
    settings = _of_rl(subject)
    cap = settings.get("max_completion_length")
    if not isinstance(cap, int) or isinstance(cap, bool):
        raise Missing("the settings give no max_completion_length")
    masked = bool(settings.get("mask_truncated_completions"))
    share, p95 = cut_by(subject, cap)
    values = {"max_completion_length": cap, "mask_truncated_completions": masked, "cut": share, "p95": p95}
    seen = f"{subject.dialect.key('max_completion_length')} {cap}, cut answers "
    seen += "are masked" if masked else "count"
    if share is not None:
        seen += f"; {share:.0%} of the data's answers reach it (95 % are up to {p95} tokens)"
    if not masked or (share is not None and share <= CUT) or (share is None and cap > SHORT):
        yield Finding("K04", "ok", seen, values=values)
        return
    changes = subject.dialect.changes({"max_completion_length": cap_to_advise(subject, cap)})
    yield Finding(
        "K04",
        "warn",
        seen,
        "an answer that is cut gives no gradient: where most are, nothing is learned at all",
        f"{said(changes)} and watch the share of cut answers",
        "huggingface/trl#5697; greyhaven-ai/autocontext PR 1067",
        values | {"fix": {"settings": changes}},
    )


@check("K05")
def token_mean(subject: Subject) -> Results:
    """The loss is a mean over tokens, and nothing limits long junk: warns."""
    settings, own = _of_rl(subject), subject.dialect
    loss = settings.get("loss_type", "dapo")
    limits = [
        *_held_by(settings),
        *(["masked truncation"] if settings.get("mask_truncated_completions") else []),
    ]
    values = {"loss_type": loss, "limits": limits}
    default = "" if "loss_type" in (own.written or settings) else " (the default)"
    seen = f"{own.key('loss_type')} {own.value('loss_type', loss)}{default}"
    if loss not in TOKEN_MEAN or limits:
        yield Finding(
            "K05", "ok", seen + (f", limited by {', '.join(limits)}" if limits else ""), values=values
        )
        return
    cap = settings.get("max_completion_length")
    wanted: dict[str, Any] = {"mask_truncated_completions": True}
    room = cap_to_advise(subject, cap) if isinstance(cap, int) and not isinstance(cap, bool) else None
    if room != cap:  # to mask cut answers helps nobody where most are
        wanted["max_completion_length"] = room
    changes = own.changes(wanted, room)
    yield Finding(
        "K05",
        "warn",
        f"{seen} is a mean over tokens; no KL, no length or repetition term, cut answers count",
        "a sample counts by its length: 5,000 tokens of junk move the policy as much as ten whole answers",
        f"{said(changes)}" + _OR_A_REWARD[own.engine],
        DEEPEYES,
        values | {"fix": {"settings": changes}},
    )


def _of_rl(subject: Subject) -> Mapping[str, Any]:
    if not is_of_rl(subject.run_settings):
        raise Missing("the settings are not of reinforcement learning")
    return subject.run_settings


def _held_by(settings: Mapping[str, Any]) -> list[str]:
    held = [
        f"{name} {value:g}" for name in ("beta", "entropy_coef") if (value := _float(settings, name, 0.0)) > 0
    ]
    if settings.get("use_adaptive_entropy"):
        held.append("use_adaptive_entropy")
    if settings.get("overlong_shaping"):
        held.append("overlong_shaping")
    rewards = [str(one) for one in settings.get("reward_funcs") or [] if one]
    held += [
        one for one in rewards if any(word in one.lower() for word in ("repetition", "overlong", "length"))
    ]
    return held + [name for name in EARLY_STOP if settings.get(name)]


def _prompt(messages: Any) -> str:
    turns = messages[:-1] if messages and messages[-1].get("role") == "assistant" else messages
    return repr(turns)


def _float(settings: Mapping[str, Any], name: str, default: float) -> float:
    value = settings.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default
