"""D: how answers are drawn, in the folder's generation_config and in the settings of the training run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from holdtrue.doctor.checks import Results, check
from holdtrue.doctor.checks.targets import cap_to_advise, cut_by
from holdtrue.doctor.checks.vocabulary import masks, ranges
from holdtrue.doctor.dialect import said
from holdtrue.doctor.findings import Finding, Missing
from holdtrue.doctor.rendering import TOOL, Template, Unrendered, plain, thinking, tool_use
from holdtrue.doctor.subject import Overview, Subject

_NEUTRAL = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", *_NEUTRAL)
_MULTIMODAL = ("image", "video", "vision", "audio", "object_ref", "box_", "quad_")


@check("D01")
def greedy_thinking(subject: Subject) -> Results:
    """Thinking at temperature 0 loops; warns when a family that thinks is decoded greedily."""
    sampling = dict(_sampling(subject))
    greedy = _number(sampling.get("temperature")) == 0 or sampling.get("do_sample") is False
    thinks = _thinks(subject)
    if not sampling:
        raise Missing("neither generation_config.json nor the settings name a temperature")
    seen = ", ".join(f"{name} {value}" for name, value in sampling.items())
    if greedy and thinks:
        known = subject.family
        advice = dict(known.sampling) if known and known.sampling else {"temperature": 0.6, "top_p": 0.95}
        yield Finding(
            "D01",
            "warn",
            f"{seen}, and {thinks}",
            "greedy decoding of long thoughts falls into loops",
            "sample with " + ", ".join(f"{name} {value}" for name, value in advice.items()),
            "oobabooga/textgen#7058, QwenLM/Qwen3.8#145",
            {"fix": {"generation_config.json": {**advice, "do_sample": True}}},
        )
    else:
        yield Finding("D01", "ok", seen)


@check("D02")
def rollout_penalties(subject: Subject) -> Results:
    """Penalties change the distribution that is drawn from and not the one that is trained; warns when a run
    draws with any.
    """
    asked = {name: value for name, value in _given(subject.run_settings).items() if name in _NEUTRAL}
    wrong = {name: value for name, value in asked.items() if _number(value) not in (None, _NEUTRAL[name])}
    if wrong:
        own = subject.dialect
        named = ", ".join(f"{own.key(name)} {value}" for name, value in wrong.items())
        changes = own.changes({name: _NEUTRAL[name] for name in wrong})
        yield Finding(
            "D02",
            "warn",
            f"rollouts are drawn with {named}",
            "the trainer's log-probabilities are not those of the draw; penalties are for serving",
            f"{said(changes)} for rollouts",
            "OpenRLHF/OpenRLHF#1165",
            {"penalties": wrong, "fix": {"settings": changes}},
        )
    else:
        named = ", ".join(f"{name} {value}" for name, value in asked.items())
        yield Finding("D02", "ok", f"rollout penalties: {named or 'none named'}")


@check("D03")
def generation_config_overrides(subject: Subject) -> Results:
    """Sampling that generation_config.json sets and the settings do not: engines take it without a word."""
    shipped = {
        name: value
        for name, value in subject.generation_config.items()
        if name in _SAMPLING and value is not None
    }
    given = _given(subject.settings or {})
    neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": (0, -1), "min_p": 0.0, **_NEUTRAL}
    silent = {
        name: value
        for name, value in shipped.items()
        if name not in given and _number(value) not in (None, *_as_tuple(neutral[name]))
    }
    if silent:
        changes = subject.dialect.changes({name: _as_tuple(neutral[name])[0] for name in silent})
        named = ", ".join(f"{name} {value}" for name, value in silent.items())
        yield Finding(
            "D03",
            "warn",
            f"generation_config.json sets {named}; the settings name none of them",
            "vLLM and transformers take them as defaults, so rollouts are not drawn as the settings say",
            f"{said(changes)}, or other values that you mean; or start vLLM with --generation-config vllm",
            "vllm-project/vllm#17103",
            {"silent": silent, "fix": {"settings": changes}},
        )
    else:
        yield Finding("D03", "ok", "generation_config.json sets no sampling that the settings do not name")


@check("D04")
def unbanned_controls(subject: Subject) -> Results:
    """Control tokens that may be drawn in an answer though no answer holds them."""
    template = Template(subject.tokenizer)
    kept = subject.stops | _in_answers(template) | _published_ends(subject)
    banned = _banned(subject)
    open_ids = sorted(id for id in template.special if id not in kept | banned)
    values = {"ids": open_ids, "masks": masks(open_ids)}
    if not open_ids:
        yield Finding("D04", "ok", "every control token that no answer holds is banned")
        return
    shown = template.show(
        [id for id in open_ids if not _is_multimodal(template.controls[id])][:3] or open_ids[:3]
    )
    images = sum(_is_multimodal(template.controls[id]) for id in open_ids)
    yield Finding(
        "D04",
        "warn",
        f"{len(open_ids)} control ids {ranges(open_ids)} can be drawn inside an answer, such as {shown}"
        + (f"; {images} of images and video" if images else ""),
        "a policy that drifts falls into them, and image tokens crash the next forward pass",
        "ban them in rollouts: parameters for vLLM, SGLang and transformers are values.masks of --json, or "
        f"BanControl().parameters('vllm', Vocabulary.of({str(subject.folder)!r})) in Python; start vLLM with "
        "--logprobs-mode processed_logprobs, mask the trainer's logits alike, and never ban the EOS set",
        "Visual-Agent/DeepEyes#131, hiyouga/EasyR1#110",
        values,
    )


@check("D05")
def completion_cap(subject: Subject) -> Results:
    """The longest completion against the reference answers' lengths; warns when it cuts one in twenty."""
    cap, own = _number(subject.run_settings.get("max_completion_length")), subject.dialect
    if cap is None:
        raise Missing("no max_completion_length in the settings")
    share, p95 = cut_by(subject, cap)
    if share is None or p95 is None or not subject.counted(Overview).answered:
        raise Missing("no reference answers in data")
    values = {"cap": cap, "p95": p95, "cut": share}
    name = own.key("max_completion_length")
    seen = f"{name} {cap:g}; answers have p95 {p95} tokens, {share:.0%} of them reach the cap"
    if p95 >= cap:
        changes = own.changes({"max_completion_length": cap_to_advise(subject, int(cap))})
        yield Finding(
            "D05",
            "warn",
            seen,
            "answers are cut before their end: no EOS, no reward, no gradient",
            f"{said(changes)} (above {p95}), and alarm on the share that is cut",
            "huggingface/trl#5697",
            {**values, "fix": {"settings": changes}},
        )
    else:
        yield Finding("D05", "ok", seen, values=values)


@check("D06")
def stale_cache(subject: Subject) -> Results:
    """A prefix cache that outlives the weights it was made with."""
    given = subject.run_settings
    names = [name for name in ("enable_prefix_caching", "vllm_enable_prefix_caching") if name in given]
    if not names:
        raise Missing("the settings do not name enable_prefix_caching")
    key = subject.dialect.key(names[0])
    if given[names[0]]:
        yield Finding(
            "D06",
            "warn",
            f"{key} is on",
            "an engine that keeps its cache over a weight update answers with the old model's states",
            f"call the engine's reset_prefix_cache after every weight update, or {said({key: False})}",
            "vllm-project/vllm#17103, vllm-project/vllm#16234",
            {"fix": {"settings": {key: False}}},
        )
    else:
        yield Finding("D06", "ok", f"{key} is off")


@check("D07")
def logprobs_mode(subject: Subject) -> Results:
    """The engine's log-probabilities: raw ones ignore temperature, top-p and penalties."""
    given = subject.run_settings
    name = next((one for one in ("logprobs_mode", "vllm_logprobs_mode") if one in given), None)
    if name is None:
        raise Missing("the settings name no logprobs_mode")
    temperature, key = _number(given.get("temperature")), subject.dialect.key(name)
    if str(given[name]).startswith("raw") and temperature not in (None, 1.0):
        yield Finding(
            "D07",
            "warn",
            f"{key} is {given[name]} at temperature {temperature:g}",
            "importance ratios compare two distributions, and are not 1 even without a change of weights",
            said({key: "processed_logprobs"}),
            "huggingface/trl#3867",
            {"fix": {"settings": {key: "processed_logprobs"}}},
        )
    else:
        yield Finding(
            "D07", "ok", f"{key} is {given[name]}, temperature {given.get('temperature', 'not named')}"
        )


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of sampling, those in generation_kwargs with them."""
    inner = settings.get("generation_kwargs")
    given = {**settings, **(inner if isinstance(inner, Mapping) else {})}
    return {name: value for name, value in given.items() if value is not None}


def _sampling(subject: Subject) -> Iterator[tuple[str, Any]]:
    """Temperature and do_sample: of generation_config, then of the settings, which win."""
    try:
        shipped: Mapping[str, Any] = subject.generation_config
    except Missing:
        shipped = {}
    for source in (shipped, _given(subject.settings or {})):
        yield from ((name, source[name]) for name in ("temperature", "do_sample") if name in source)


def _thinks(subject: Subject) -> str:
    """Why the model is known to think; "" when nothing says so."""
    if "thinking" in subject.uses:
        return f"it thinks ({subject.uses['thinking']})"
    try:
        source = subject.template.source
    except Missing:
        source = ""
    if "enable_thinking" in source or "<think>" in source:
        return "its template knows <think>"
    known = subject.family
    return f"{known.name} thinks" if known and known.sampling else ""


def _in_answers(template: Template) -> frozenset[int]:
    """Control ids that a template writes inside answers: marks of tool calls and thoughts."""
    found: set[int] = set()
    if not template.tokenizer.chat_template:
        return frozenset()
    for messages in (plain(1), thinking(1), tool_use()[:2]):
        tools = [TOOL] if len(messages) == 2 and "tool_calls" in messages[1] else None
        try:
            prompt = template.text(messages[:-1], tools=tools, prompt=True)
            whole = template.text(messages, tools=tools)
        except Unrendered:
            continue
        if whole.startswith(prompt):
            found |= set(template.controls_in(whole[len(prompt) :]))
    return frozenset(found)


def _published_ends(subject: Subject) -> frozenset[int]:
    """Ids that end answers of the family, also where this folder does not declare them."""
    known, ids = subject.family, subject.vocabulary
    return frozenset(ids[text] for text in (known.ends if known else ()) if text in ids)


def _banned(subject: Subject) -> frozenset[int]:
    """Ids that generation_config or the settings keep from being drawn."""
    try:
        sources = [subject.generation_config, _given(subject.settings or {})]
    except Missing:
        sources = [_given(subject.settings or {})]
    found: set[int] = set()
    for source in sources:
        for one in _listed(source.get("suppress_tokens")):
            found |= {one} if isinstance(one, int) else set()
        for words in _listed(source.get("bad_words_ids")):
            found |= {one for one in _listed(words) if isinstance(one, int) and len(words) == 1}
        bias = source.get("logit_bias")
        for id, value in bias.items() if isinstance(bias, Mapping) else ():
            if str(id).isdigit() and (_number(value) or 0) <= -50:
                found.add(int(id))
    return frozenset(found)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_multimodal(text: str) -> bool:
    return any(part in text for part in _MULTIMODAL)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
