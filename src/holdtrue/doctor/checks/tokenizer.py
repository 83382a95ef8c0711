"""T01-T03, T06: does the tokenizer agree with the configs and the template on what begins, ends and pads?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from holdtrue.doctor.checks import Results, check
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.rendering import Template, Unrendered, plain
from holdtrue.doctor.subject import Subject

_ALL_ENDS = "tell the trainer all ends, not the tokenizer's alone (remedy all_ends)"


@check("T01")
def eos_set_agreement(subject: Subject) -> Results:
    """Who ends an answer: tokenizer, generation_config, config and template. Fails when the template ends a
    turn with a token that nobody stops at.
    """
    ends, tokenizer = subject.declared_ends, subject.tokenizer
    end = subject.turn_end
    show = Template(tokenizer).show
    sets = {name: sorted(ids) for name, ids in ends.items()}
    declared = "; ".join(f"{name} {show(ids)}" for name, ids in sets.items()) or "no file declares an EOS"
    rendered = "no template" if end is None else f"template ends a turn with {show(end)}"
    evidence = f"{declared}; {rendered}"
    values = {"declared": sets, "template": list(end or ()), "stops": sorted(subject.stops)}
    changes = _agreed(subject, end or ())
    values["fix"] = changes
    said = [f"{key} of {file} to {value!r}" for file, one in changes.items() for key, value in one.items()]
    fix = f"set {' and '.join(said)}" if said else _ALL_ENDS
    if end and subject.stops_elsewhere:
        yield Finding(
            "T01",
            "fail",
            evidence,
            f"the template ends {end[0]} ∉ {_braced(subject.stops)}: nothing stops there, and answers run on "
            "to the length limit",
            f"{fix} (--eos_token in TRL)",
            "huggingface/trl#2059, vllm-project/vllm#4180",
            {**values, "eos_token": tokenizer.convert_ids_to_tokens(end[0])},
        )
        return
    doubts = list(_doubts(subject, ends, end or (), show))
    if doubts:
        yield Finding("T01", "warn", evidence, "; ".join(doubts), fix, "huggingface/trl#7039", values)
    elif not subject.stops:
        why, fix = "nothing ends an answer", "declare an eos_token"
        yield Finding("T01", "warn", evidence, why, fix, "huggingface/trl#734", {**values, "fix": {}})
    else:
        yield Finding("T01", "ok", evidence, values=values)


def _agreed(subject: Subject, end: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Keys by file with which all who declare an end agree: all ends of the engine, and the template's first
    one of the tokenizer, which trainers ask."""
    ends = subject.declared_ends
    wanted = sorted({*end[:1], *subject.stops, *ends.get("config", ())})
    tokenizer = ends.get("tokenizer", frozenset())
    changes: dict[str, dict[str, Any]] = {}
    if wanted and wanted != sorted(ends.get("generation_config", ())):
        changes["generation_config.json"] = {"eos_token_id": wanted}
    if end and end[0] not in tokenizer:
        changes["tokenizer_config.json"] = {"eos_token": subject.tokenizer.convert_ids_to_tokens(end[0])}
    return changes


def _doubts(
    subject: Subject, ends: Mapping[str, frozenset[int]], end: Sequence[int], show: Any
) -> Iterator[str]:
    tokenizer, generation = ends.get("tokenizer", frozenset()), ends.get("generation_config")
    if end and end[0] not in subject.stops:
        yield (
            f"the turn's first end {show(end[:1])} is no declared EOS; only the later {show(end[1:])} stops"
        )
    if generation is not None and not tokenizer <= generation:
        yield f"the tokenizer's {show(sorted(tokenizer))} is not in generation_config"
    if generation is not None and "config" in ends and not ends["config"] <= generation:
        yield f"config.json says {show(sorted(ends['config']))}, generation_config {show(sorted(generation))}"
    spoken = end[:1] or sorted(
        subject.stops
    )  # other declared ends are a safety net that answers rarely reach
    if tokenizer and not tokenizer.issuperset(spoken) and subject.stops - tokenizer:
        yield (
            f"a trainer that knows only the tokenizer's {show(sorted(tokenizer))} counts answers as cut off "
            f"that end with {show(sorted(subject.stops - tokenizer))}"
        )


@check("T02")
def pad_is_eos(subject: Subject) -> Results:
    """Padding that is also an EOS. Fails when, on the given data, the usual collator's labels (ids, the
    padding id masked) hold no end of the answer any more; warns when dummy conversations lose theirs.
    """
    tokenizer, template = subject.tokenizer, subject.template
    pad, end = tokenizer.pad_token_id, set(template.turn_end)
    ends = subject.stops | end
    written = end | {tokenizer.eos_token_id}
    assumed = pad if pad is not None else tokenizer.eos_token_id
    trained, total, what = _trained_ends(subject, template, ends, assumed)
    counted = f"{trained}/{total} {what} train EOS"
    values = {"pad": pad, "ends": sorted(ends), "trained": trained, "examples": total}
    spare = next((t for t in ("<|endoftext|>", "<pad>", "<|pad|>") if _unused(subject, t, written)), None)
    name = spare or "a token that nothing else uses, such as an unused reserved one"
    if spare:
        values["fix"] = {"tokenizer_config.json": {"pad_token": spare}}
    fix = f"set pad_token to {name}, or mask padding by attention_mask instead of by id"
    if pad is None:
        why = f"no pad token: trainers take EOS for it, and with that {counted}"
        yield Finding(
            "T02", "warn", "the tokenizer has no pad token", why, fix, "unslothai/unsloth#416", values
        )
    elif pad not in written:
        yield Finding("T02", "ok", f"pad {template.show([pad])} ends no turn; {counted}", values=values)
    elif trained < total and end:
        yield Finding(
            "T02",
            "fail" if subject.examples else "warn",
            f"{counted}; pad is {template.show([pad])}, which also ends answers",
            "labels with the padding id masked never show the model where to stop, so it never does",
            fix,
            "unslothai/unsloth#416, huggingface/smol-course#159",
            values,
        )
    else:
        left = sorted(end - {pad})
        why = (
            f"it ends answers too: masked as padding it is never a target; {template.show(left)} still is"
            if end
            else "it ends answers too, and is never a target when padding is masked by id"
        )
        seen, source = f"pad is {template.show([pad])}; {counted}", "mlabonne/llm-course#33"
        yield Finding("T02", "warn", seen, why, fix, source, values)


def _trained_ends(
    subject: Subject, template: Template, ends: Iterable[int], pad: int | None
) -> tuple[int, int, str]:
    """Of how many conversations the last answer keeps an end among its labels; of how many; what they are."""
    ends = set(ends)
    answered = [one for one in subject.sample if one.messages[-1].get("role") == "assistant"]
    talks: list[tuple[Sequence[Mapping[str, Any]], Sequence[Any] | None]]
    talks = [(one.messages, one.tools) for one in answered] or [(plain(turns), None) for turns in (1, 2, 3)]
    trained = total = 0
    for messages, tools in talks:
        try:
            whole = template.ids(template.text(messages, tools=tools))
            prompt = template.ids(template.text(messages[:-1], tools=tools, prompt=True))
        except Unrendered:  # C04 counts them
            continue
        start = next((i for i, (a, b) in enumerate(zip(whole, prompt, strict=False)) if a != b), len(prompt))
        total += 1
        trained += any(id in ends and id != pad for id in whole[start:])
    return trained, total, "examples" if answered else "dummy conversations"


@check("T03")
def bos_double(subject: Subject) -> Results:
    """A rendered conversation, tokenized as any text: fails when it begins with two BOS, and warns where the
    family ships so. Also BOS that the tokenizer adds and the template leaves out.
    """
    template, bos = subject.template, subject.tokenizer.bos_token_id
    if bos is None:
        yield Finding("T03", "ok", "the tokenizer has no BOS")
        return
    text = template.plain(1)
    again, once = template.ids(text, add_special_tokens=True), template.ids(text)
    added = template.ids("x", add_special_tokens=True)[:1] == [bos]
    values = {"bos": bos, "first_ids": again[:3]}
    seen = f"a rendered conversation, tokenized, begins with {template.show(again[:3])}"
    if again[:2] == [bos, bos]:
        yield Finding(
            "T03",
            "warn" if subject.family and subject.family.ships_two_bos else "fail",
            f"{seen}: ids {again[:3]}",
            "the template writes BOS and the tokenizer adds another; the model has never seen two",
            "tokenize rendered text with add_special_tokens=False, or set add_bos_token to false",
            "deepseek-ai/DeepSeek-R1#151, vllm-project/vllm#55288",
            {**values, "fix": {"tokenizer_config.json": {"add_bos_token": False}}},
        )
    elif added and once[:1] != [bos]:
        known = subject.family
        needs = known is not None and known.needs_bos
        yield Finding(
            "T03",
            "fail" if needs else "warn",
            f"the tokenizer adds BOS, the template does not: a chat begins with {template.show(once[:3])}",
            f"{known.name if known and needs else 'the model'} reads chats without the BOS it learned with, "
            "as rendered text is tokenized without special tokens",
            "begin the template with {{ bos_token }}",
            "vllm-project/vllm#27515",
            {
                **values,
                "fix": {
                    "chat_template": {"prepend": "{{ bos_token }}"},
                    "tokenizer_config.json": {"add_bos_token": False},
                },
            },
        )
    else:
        yield Finding("T03", "ok", seen, values=values)


@check("T06")
def padding_side(subject: Subject) -> Results:
    """Generation in batches needs padding on the left; fails when the settings ask for right padding."""
    side, asked = subject.tokenizer.padding_side, (subject.settings or {}).get("padding_side")
    values = {"tokenizer": side, "settings": asked if isinstance(asked, str) else None}
    if "right" in (side, asked):
        yield Finding(
            "T06",
            "fail" if asked == "right" else "warn",
            f"padding_side is right in {'the settings' if asked == 'right' else 'the tokenizer'}",
            "generation goes on from padding; vLLM and SGLang do not pad, transformers does",
            'set padding_side to "left" for generation',
            "EvolvingLMMs-Lab/lmms-eval#830",
            {**values, "fix": {"tokenizer_config.json": {"padding_side": "left"}}},
        )
    else:
        yield Finding("T06", "ok", f"padding_side is {side}", values=values)


def _unused(subject: Subject, token: str, ends: Iterable[int]) -> bool:
    id = subject.vocabulary.get(token)
    return id is not None and id not in set(ends)


def _braced(ids: Iterable[int]) -> str:
    return "{" + ", ".join(map(str, sorted(ids))) + "}"
