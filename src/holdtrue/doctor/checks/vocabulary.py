"""T04, T05, T07: does the vocabulary agree with the rows of the model, the template and its own file?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
