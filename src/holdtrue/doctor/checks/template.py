"""C, of markers: do turns begin and end as training and serving need it? See also ``conversation``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from holdtrue.doctor import facts, rendering
from holdtrue.doctor.checks import Results, check
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.rendering import Template, Unrendered, answer, common_prefix, question
from holdtrue.doctor.subject import Overview, Subject


@check("C01")
def turn_end_rendered(subject: Subject) -> Results:
    """Each answer must end with a token at which generation stops; fails when none follows an answer."""
    template = subject.template
    try:
        end, ends = template.turn_end, _ends_by_turn(template, 3)
    except Unrendered as error:
        yield Finding(
            "C01",
            "fail",
            f"a plain question and answer are not rendered: {error}",
            "nothing can be trained or served with this template",
            "mend chat_template.jinja, or take it from the model's publisher",
            "huggingface/transformers, writing a chat template",
            values={"error": str(error)},
        )
        return
    values = {"last": list(end), "by_turn": ends}
    seen = f"the last turn ends with {template.show(end)}, those before with " + (
        ", ".join(template.show(one[:1]) for one in ends[:-1])
    )
    stops_at_next = all(subject.stops & set(one) for one in ends[:-1])
    if not end:
        yield Finding(
            "C01",
            "warn" if stops_at_next else "fail",
            seen,
            "the answer that is trained has no end in it, so stopping is not learned"
            + ("; engines stop at the next turn's first token" if stops_at_next else ""),
            "in chat_template.jinja write {{ eos_token }} behind the words of assistant turns",
            "THUDM/ChatGLM-6B#502",
            values,
        )
    elif subject.stops & set(end) and not stops_at_next:
        yield Finding(
            "C01",
            "fail" if "multi-turn" in subject.uses or "tools" in subject.uses else "warn",
            f"{seen}; engines stop at {template.show(sorted(subject.stops))}",
            "only the last turn holds a token that stops generation; earlier turns teach to go on",
            f"add {template.show(ends[0][:1])} to eos_token_id of generation_config.json",
            "huggingface/trl#7039",
            {
                **values,
                "fix": {"generation_config.json": {"eos_token_id": sorted(subject.stops | set(ends[0][:1]))}},
            },
        )
    else:
        yield Finding("C01", "ok", seen, values=values)


@check("C02")
def generation_prompt_is_a_prefix(subject: Subject) -> Results:
    """What the model is asked with must begin what it is trained on; fails when it does not and training
    data or settings are given, else warns.
    """
    template = subject.template
    asked = template.plain(1, prompt=True)
    whole = template.plain(1)
    at = common_prefix(asked, whole)
    values = {"offset": at, "prompt": asked, "whole": whole}
    if at < len(asked):
        yield Finding(
            "C02",
            "warn" if subject.examples is None and subject.settings is None else "fail",
            f"at character {at} the prompt goes on with {asked[at:][:60]!r}, "
            f"the trained text with {whole[at:][:60]!r}",
            "the model answers after other words than those it was trained after",
            "change chat_template.jinja so that both agree, or give rows of prompt and completion, whose ids "
            "TRL and holdtrue sft join",
            "hiyouga/LlamaFactory#6987",
            values,
        )
        return
    ids, prompt = template.ids(whole), template.ids(asked)
    if ids[: len(prompt)] != prompt:
        yield Finding(
            "C02",
            "warn",
            f"the prompt's text begins the trained text, its {len(prompt)} tokens do not: the last, "
            f"{template.show(prompt[-1:])}, merges with what follows",
            "the prompt is tokenized differently alone and before an answer",
            "join token ids of prompt and answer instead of texts: give rows of prompt and completion",
            "PrimeIntellect-ai/prime-rl#1334",
            values,
        )
    else:
        yield Finding(
            "C02", "ok", f"the prompt ({len(prompt)} tokens) begins the trained text", values=values
        )


@check("C05")
def stop_in_loss(subject: Subject) -> Results:
    """The end of a turn must be among what is trained; fails when generation markers leave it out, or the
    settings ask for them and the template has none.
    """
    template = subject.template
    marked = "endgeneration" in template.source
    asked = bool((subject.settings or {}).get("assistant_only_loss"))
    if not marked:
        if asked:
            yield Finding(
                "C05",
                "fail",
                "the settings ask for assistant_only_loss, the template has no {% generation %} markers",
                "no token of any answer is trained",
                "in chat_template.jinja put {% generation %} and {% endgeneration %} around answers with "
                "their end, or set assistant_only_loss to false and give rows of prompt and completion",
                "huggingface/trl, chat_templates/README.md",
            )
        else:
            yield Finding("C05", "ok", "no generation markers, and the settings do not ask for them")
        return
    end = template.turn_end
    ids, mask = template.answer_mask(rendering.plain(1))
    trained = [id for id, on in zip(ids, mask, strict=True) if on]
    values = {"trained_ids": trained, "end": list(end)}
    if end and end[0] not in trained:
        yield Finding(
            "C05",
            "fail",
            f"{sum(mask)} of {len(ids)} tokens stand between the markers, {template.show(end[:1])} does not",
            "answers are trained without their end, so stopping is not learned",
            "in chat_template.jinja move {% endgeneration %} behind the end of the turn",
            "huggingface/trl#1623",
            values,
        )
    else:
        yield Finding(
            "C05", "ok", f"{template.show(end[:1])} stands between the generation markers", values=values
        )


@check("C09")
def template_hash(subject: Subject) -> Results:
    """The template by its hash: which published one it is; fails when the adapter's is another."""
    template = subject.template
    name = facts.TEMPLATES.get(template.sha256[:16])
    values: dict[str, Any] = {"sha256": template.sha256, "known_as": name}
    seen = f"sha256 {template.sha256[:16]}, " + (name or "not a published one that is known here")
    theirs = replace(subject, folder=subject.adapter).templates if subject.adapter else {}
    other = {file: text for file, text in theirs.items() if text != template.source.strip()}
    if other:
        yield Finding(
            "C09",
            "fail",
            f"{seen}; the adapter's {', '.join(other)} holds another",
            "the adapter was trained with another template than it is served with",
            f"cp {subject.adapter}/{next(iter(other))} {subject.folder}/ (one template a folder), "
            "or train again",
            "hiyouga/LlamaFactory#6987",
            values,
        )
    else:
        yield Finding("C09", "ok", seen, values=values)


@check("C10")
def default_system(subject: Subject) -> Results:
    """A system prompt that the template puts in when none is given, without a word."""
    template = subject.template
    without = template.plain(1).partition(question(0))[0]
    try:
        with_it = template.text([{"role": "system", "content": rendering.SYSTEM}, *rendering.plain(1)])
    except Unrendered:
        yield Finding("C10", "ok", "the template takes no system turn, and puts none in")
        return
    stated = _lines(with_it.partition(question(0))[0], template)
    silent = [line for line in _lines(without, template) if line not in stated]
    if silent:
        data = subject.counted(Overview) if subject.examples else None
        mixed = data is not None and 0 < data.system < data.examples
        yield Finding(
            "C10",
            "warn",
            f"without a system turn the template writes {' '.join(silent)[:100]!r}"
            + ("; the data has rows with and without one" if mixed else ""),
            "the model is trained with words nobody chose, and without them where a server writes none",
            'begin every row with {"role": "system", "content": ""}, or take the default out of '
            "chat_template.jinja",
            "the chat template of Qwen2.5",
            {"system": silent},
        )
    else:
        yield Finding("C10", "ok", "nothing is put in where there is no system turn")


@check("C11")
def generation_prompt_is_empty(subject: Subject) -> Results:
    """The generation prompt must begin the answer's turn; fails when the template ignores it."""
    template = subject.template
    asked, whole = template.plain(1, prompt=True), template.plain(1)
    bare = template.text(rendering.plain(1)[:1])
    at = common_prefix(bare, whole)
    header = whole[at:].partition(answer(0))[0].strip()
    values = {"prompt": asked[common_prefix(bare, asked) :], "header": header}
    if asked == bare and header and answer(0) in whole[at:]:
        yield Finding(
            "C11",
            "fail",
            f"add_generation_prompt changes nothing; answers are trained after {header!r}",
            "the model is asked without the beginning of its turn and writes on the user's",
            f"end the template with {{% if add_generation_prompt %}}{header}{{% endif %}}",
            "huggingface/transformers, chat templates: add_generation_prompt",
            {**values, "fix": {"chat_template": {"append": header}}},
        )
    else:
        shown = repr(values["prompt"]) if values["prompt"] else "nothing, and answers follow at once"
        yield Finding("C11", "ok", f"the generation prompt adds {shown}", values=values)


def _ends_by_turn(template: Template, turns: int) -> list[list[int]]:
    """Control ids that follow each answer, up to the next question or the end of the text."""
    text, found = template.plain(turns), []
    for turn in range(turns):
        behind = text.partition(answer(turn))[2]
        found.append(template.controls_in(behind.partition(question(turn + 1))[0]))
    return found


def _lines(text: str, template: Template) -> list[str]:
    """Lines of words; control tokens part them too."""
    for control in template.controls.values():
        text = text.replace(control, "\n")
    return [line.strip() for line in text.splitlines() if line.strip()]
