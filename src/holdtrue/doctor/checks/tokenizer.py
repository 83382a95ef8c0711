"""T: does the tokenizer agree with itself, with the configs and with the rows of the model?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from holdtrue.doctor.checks import Results, check
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.rendering import Template, Unrendered, plain, thinking, tool_use
from holdtrue.doctor.subject import Missing, Subject
from holdtrue.errors import DataError

MOST_ROWS = 1 << 24
"""No vocabulary comes near it; a larger vocab_size is a mistake."""

PROBES = (
    "The quick brown fox, 12345 times: it's 3.14!",
    "def f(x):\n    return {'a': [x, 0x1F]}  # indented\n\tand a tab",
    "Größe, naïve café, 你好，世界。 Привет мир 🙂",
)
"""Texts on which two tokenizers that differ show it: digits, contractions, code, scripts."""

_PIPED = re.compile(r"<[|｜][^<>|｜\s]{1,40}[|｜]>")
_TAG = re.compile(r"</?[a-z_]{2,20}>")


@check("T01")
def eos_set_agreement(subject: Subject) -> Results:
    """Who ends an answer: tokenizer, generation_config, config and template. Fails when the template ends a
    turn with a token that nobody stops at.
    """
    ends, tokenizer = subject.declared_ends, subject.tokenizer
    end = _turn_end(subject)
    show = Template(tokenizer).show
    sets = {name: sorted(ids) for name, ids in ends.items()}
    declared = "; ".join(f"{name} {show(ids)}" for name, ids in sets.items()) or "no file declares an EOS"
    rendered = "no template" if end is None else f"template ends a turn with {show(end)}"
    evidence = f"{declared}; {rendered}"
    values = {"declared": sets, "template": list(end or ()), "stops": sorted(subject.stops)}
    wanted = sorted(subject.stops | set((end or ())[:1]))
    fix = f"set eos_token_id of generation_config.json to {wanted}"
    values["fix"] = {"generation_config.json": {"eos_token_id": wanted}}
    if end and not subject.stops & set(end):
        yield Finding(
            "T01",
            "fail",
            evidence,
            f"the template ends {end[0]} ∉ {_braced(subject.stops)}: nothing stops there, and answers run on "
            "to the length limit",
            f"{fix}, and eos_token of the tokenizer to {tokenizer.convert_ids_to_tokens(end[0])!r} "
            "(--eos_token in TRL)",
            "huggingface/trl#2059, vllm-project/vllm#4180",
            {**values, "eos_token": tokenizer.convert_ids_to_tokens(end[0])},
        )
        return
    doubts = list(_doubts(subject, ends, end or (), show))
    if doubts:
        yield Finding("T01", "warn", evidence, "; ".join(doubts), fix, "huggingface/trl#7039", values)
    elif not subject.stops:
        why = "nothing ends an answer"
        yield Finding("T01", "warn", evidence, why, "declare an eos_token", "huggingface/trl#734", values)
    else:
        yield Finding("T01", "ok", evidence, values=values)


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


@check("T04")
def vocabulary_padding(subject: Subject) -> Results:
    """Tokens against rows of the embedding: fails when tokens have no row; warns of rows without a token
    (phantom ids), which can be sampled and never decoded.
    """
    used = set(subject.vocabulary.values())
    rows = _rows(subject)
    beyond = sorted(id for id in used if id >= rows)
    phantom = sorted(set(range(rows)) - used)
    values: dict[str, Any] = {"tokens": len(used), "rows": rows, "highest_id": max(used, default=-1)}
    seen = f"{len(used):,} tokens, highest id {max(used, default=-1):,}; {rows:,} rows in the embedding"
    if beyond:
        yield Finding(
            "T04",
            "fail",
            f"{seen}; {len(beyond)} tokens have no row: ids {ranges(beyond)}",
            "a text that holds one of them ends the run with an index error",
            f"resize the embedding to {max(used) + 1} rows and train the new ones, or take the tokens away",
            "hiyouga/LlamaFactory#8365",
            {**values, "beyond": beyond, "fix": {"resize_token_embeddings": max(used) + 1}},
        )
    elif phantom:
        yield Finding(
            "T04",
            "warn",
            f"{seen}; {len(phantom)} phantom ids {ranges(phantom)}",
            "the sampler can draw them; what is not drawn is not punished, and grows as the policy drifts",
            "mask their logits in every rollout: values.masks of --json has the settings of vLLM, SGLang and "
            "transformers",
            "vllm-project/vllm#13175, verl-project/verl#7882",
            {**values, "phantom": _pairs(phantom), "masks": masks(phantom)},
        )
    else:
        yield Finding("T04", "ok", f"{seen}; every row is a token's", values=values)


def masks(ids: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Settings that keep ids from being sampled, by engine; -100 is the lowest bias vLLM and SGLang take."""
    bias = {str(id): -100.0 for id in ids}
    return {
        "vllm": {"logit_bias": bias},
        "sglang": {"logit_bias": bias},
        "transformers": {"suppress_tokens": list(ids)},
    }


@check("T05")
def special_not_atomic(subject: Subject) -> Results:
    """Control strings that the template writes must be one token each; fails when one is spelt out."""
    template = subject.template
    texts = [
        text for text in (_rendered(template, one) for one in (plain(2), thinking(1), tool_use())) if text
    ]
    if not texts:
        raise Missing("no dummy conversation is rendered")
    strings = sorted({match for text in texts for match in _PIPED.findall(text)})
    tags = sorted({match for text in texts for match in _TAG.findall(text)} - {"<tools>", "</tools>"})
    spelt = {one: template.ids(one) for one in strings if len(template.ids(one)) > 1}
    in_use = {"<tool_call>": "tools", "</tool_call>": "tools", "<think>": "thinking", "</think>": "thinking"}
    loose = [tag for tag in tags if len(template.ids(tag)) > 1]
    needed = [tag for tag in loose if in_use.get(tag) in subject.uses]
    single = [one for one in (*strings, *tags) if len(template.ids(one)) == 1]
    hidden = [one for one in single if template.ids(one)[0] in template.special]
    values = {"spelt_out": {**spelt, **{tag: template.ids(tag) for tag in loose}}, "hidden": hidden}
    seen = (
        f"{len(single)} control strings are one token each; skip_special_tokens hides {len(hidden)} of them"
    )
    if spelt:
        name, ids = next(iter(spelt.items()))
        yield Finding(
            "T05",
            "fail",
            f"{len(spelt)} control strings of the template are no tokens: {', '.join(list(spelt)[:3])}; "
            f"{name} becomes {len(ids)} tokens {ids[:8]}",
            "the model reads and writes them as ordinary text, and nothing can stop at them",
            f"add them to the tokenizer as special tokens and train their rows: {', '.join(spelt)}",
            "modelscope/ms-swift#5998",
            {**values, "fix": {"additional_special_tokens": list(spelt)}},
        )
    elif needed:
        yield Finding(
            "T05",
            "warn",
            f"{', '.join(needed)} become several tokens, e.g. {template.ids(needed[0])}",
            "how a tag is split depends on what stands beside it, so rewards and stop strings can miss it",
            "compare decoded text, not ids, where a reward or stop looks for them",
            "modelscope/ms-swift#5924",
            values,
        )
    else:
        yield Finding("T05", "ok", seen, values=values)


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


@check("T07")
def round_trip(subject: Subject) -> Results:
    """The tokenizer as loaded against the file as saved, and text against its decoded tokens; fails when
    tokenizer.json gives other ids, or two chat templates differ.
    """
    tokenizer = subject.tokenizer
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in PROBES]
    saved = _saved_ids(subject)
    changed = [i for i, one in enumerate(saved or ()) if one != ids[i]]
    lost = [
        text
        for text, one in zip(PROBES, ids, strict=True)
        if tokenizer.decode(one, clean_up_tokenization_spaces=False).strip() != text
    ]
    if changed and saved is not None:
        text, index = PROBES[changed[0]], changed[0]
        yield Finding(
            "T07",
            "fail",
            f"{len(changed)} of {len(PROBES)} texts get other ids from tokenizer.json than from the class "
            f"{type(tokenizer).__name__} that transformers loads: {text[:20]!r} is {saved[index][:6]}... as "
            f"saved, {ids[index][:6]}... as loaded",
            "training and serving read the same text as different tokens",
            "set tokenizer_class of tokenizer_config.json to PreTrainedTokenizerFast, which takes it as is",
            "rule: engines without transformers read tokenizer.json",
            {"fix": {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}}},
        )
    templates = subject.templates
    if len(set(templates.values())) > 1:
        yield Finding(
            "T07",
            "fail",
            f"two chat templates that differ: {' and '.join(templates)}",
            "some tools read one and some the other: the model is trained on one and served with the other",
            "keep chat_template.jinja and take chat_template out of tokenizer_config.json",
            "hiyouga/LlamaFactory#6987",
            {"fix": {"tokenizer_config.json": {"chat_template": None}}},
        )
    if lost:
        yield Finding(
            "T07",
            "warn",
            f"{len(lost)} of {len(PROBES)} texts change when encoded and decoded: {lost[0][:40]!r}",
            "a reward that reads decoded text sees another one than was written",
            "give rewards the text the engine wrote, or take away the normaliser",
            "rule: decode(encode(text)) is the text",
        )
    if not (changed or lost or len(set(templates.values())) > 1):
        compared = "" if saved is None else ", and as tokenizer.json has them"
        yield Finding("T07", "ok", f"{len(PROBES)} texts come back from their tokens{compared}")


def _saved_ids(subject: Subject) -> list[list[int]] | None:
    """Ids of the probes as tokenizer.json alone gives them."""
    path = subject.folder / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    plain_tokenizer = Tokenizer.from_file(str(path))
    return [plain_tokenizer.encode(text, add_special_tokens=False).ids for text in PROBES]


def _rendered(template: Template, messages: Sequence[Mapping[str, Any]]) -> str | None:
    try:
        return template.text(messages)
    except Unrendered:
        return None


def _turn_end(subject: Subject) -> tuple[int, ...] | None:
    """What ends a turn; None without a template or where it renders nothing, which C01 says."""
    try:
        return subject.template.turn_end
    except (Missing, Unrendered):
        return None


def _unused(subject: Subject, token: str, ends: Iterable[int]) -> bool:
    id = subject.vocabulary.get(token)
    return id is not None and id not in set(ends)


def _rows(subject: Subject) -> int:
    """Rows of the embedding: as the weights have them, else as config.json says."""
    with suppress(Missing):
        if (rows := subject.weights.embedding_rows) is not None:
            return rows
    text = subject.config.get("text_config")
    size = subject.config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
    if size is None:
        raise Missing("no vocab_size in config.json")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= MOST_ROWS:
        raise DataError(
            f"{subject.folder}: vocab_size of config.json is {size!r}; a number of rows is expected"
        )
    return size


def _pairs(ids: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of sorted ids as half-open ranges."""
    found: list[tuple[int, int]] = []
    for id in ids:
        if found and found[-1][1] == id:
            found[-1] = (found[-1][0], id + 1)
        else:
            found.append((id, id + 1))
    return found


def ranges(ids: Sequence[int]) -> str:
    """``[451, 512)``; of many runs the first three and how many more."""
    pairs = _pairs(ids)
    more = f" and {len(pairs) - 3} more ranges" if len(pairs) > 3 else ""
    return ", ".join(f"[{start}, {end})" for start, end in pairs[:3]) + more


def _braced(ids: Iterable[int]) -> str:
    return "{" + ", ".join(map(str, sorted(ids))) + "}"
