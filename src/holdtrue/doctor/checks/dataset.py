"""X02-X09: what training data teaches: ends, repeats, cut answers, turns that should not be learned."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np

from holdtrue.data.examples import Example, content_of, texts_of
from holdtrue.data.near import RUN, near_classes
from holdtrue.doctor.checks import Results, check
from holdtrue.doctor.dialect import said
from holdtrue.doctor.encoding import Encoded, examples_of, places, readable
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.gopher import repeats, repetition
from holdtrue.doctor.loops import looped
from holdtrue.doctor.rendering import Unrendered
from holdtrue.doctor.subject import Missing, Subject
from holdtrue.doctor.tool_calls import TOOLS
from holdtrue.doctor.training_settings import is_of_rl
from holdtrue.intervals import wilson

DEEPEYES = "Visual-Agent/DeepEyes#131"
FEW = 0.01
"""Share of the examples above which cut targets and empty answers fail, and copies and text after the answer
warn (ours)."""
LOOPS = 0.005
"""Share of looped targets that warns (ours): good answers of strong models have 0 to 0.3 %."""
LEAN = 0.6
"""Share of pairs in which the longer answer wins that warns (ours; its interval must lie above one half)."""
OF_TRL_SFT = ("assistant_only_loss", "completion_only_loss", "packing", "dataset_text_field")
"""Settings of TRL's SFTTrainer, which labels by its own masks and appends EOS to raw text."""
TAGS = ("think", "answer", "tool_call", "tool_response")
PAID = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<tool_response>")
"""What only an environment should write; a reward that looks for it can be had by writing it."""
ENDED = re.compile(r"[.!?。！？…:;\"'”’)\]}>`*|~_-]\s*$")
"""How a text ends that was not cut."""
ALIKE = 1.5
"""Factor up to which two answers count as equally long: longer texts repeat more, whatever they say."""


MANY = 0.05
"""Share of looped targets that fails (ours)."""


@check("X02")
def no_end_label(subject: Subject) -> Results:
    """Examples whose target no ending token follows, or whose end the collator masks: fails."""
    encoded = [one for one in readable(subject) if one.target]
    if not encoded:
        raise Missing("no example has a target")
    ends, raw = set(subject.stops), any(one.example.text is not None for one in encoded)
    if any(one.example.text is None for one in encoded):
        try:
            ends |= set(subject.template.turn_end)
        except Unrendered as error:
            raise Missing(str(error)) from error
    if raw and _of_trl_sft(subject):  # its trainer appends EOS to raw text
        encoded = [one for one in encoded if one.example.text is None]
    pad = subject.tokenizer.pad_token_id if _masks_padding(subject) else None
    without = [one for one in encoded if not ends & _tail(one)]
    masked = [one for one in encoded if (tail := ends & _tail(one)) and tail <= {pad}]
    values = {
        "targets": len(encoded),
        "without_end": len(without),
        "masked": len(masked),
        "ends": sorted(ends),
    }
    if not without and not masked:
        yield Finding(
            "X02", "ok", f"{len(encoded)}/{len(encoded)} examples train an end of the answer", values=values
        )
        return
    named = subject.tokenizer.convert_ids_to_tokens(sorted(ends))
    if without:
        yield Finding(
            "X02",
            "fail",
            f"{len(encoded) - len(without)}/{len(encoded)} examples train an end of the answer "
            f"({', '.join(named)}); not {places(without)}",
            "the model never learns to stop",
            f"append {subject.tokenizer.eos_token} to the raw texts"
            if raw
            else "in chat_template.jinja end assistant turns with one of these tokens",
            "huggingface/trl#1623; OptimalScale/LMFlow#821",
            values,
        )
    if masked:
        yield Finding(
            "X02",
            "fail",
            f"{len(encoded) - len(without) - len(masked)}/{len(encoded)} examples train EOS: the padding "
            f"token {subject.tokenizer.pad_token} ({pad}) is the end, and a collator that masks padding by "
            "id (transformers' DataCollatorForLanguageModeling) masks it everywhere",
            "the model never learns to stop",
            "give the tokenizer a padding token of its own (T02 names one), or label by mask (TRL's "
            "SFTTrainer, holdtrue sft)",
            "mlabonne/llm-course#33; unslothai/unsloth#416",
            values | {"pad": pad},
        )


@check("X03")
def repeated_data(subject: Subject) -> Results:
    """Examples that are there twice, targets that are near duplicates or loop; warns, and fails when over
    one target in twenty loops."""
    examples = [one for one in examples_of(subject) if one.learned_texts]
    if not examples:
        raise Missing("no example has a target")
    keys = {blake2b(repr((one.messages, one.rejected, one.text)).encode()).digest() for one in examples}
    twice = len(examples) - len(keys)
    targets = [one.target or "" for one in examples]
    near = sum(first != i and len(targets[i].split()) >= RUN for i, first in enumerate(near_classes(targets)))
    loops = [one for one in examples if any(map(looped, one.learned_texts))]
    gopher = sum(repeats(text) is not None for text in targets)
    total = len(examples)
    values = {
        "targets": total,
        "same_examples": twice,
        "near_duplicate_targets": near,
        "looped_targets": len(loops),
        "gopher": gopher,
        "looped_at": [one.at for one in loops],
    }
    seen = (
        f"{twice} of {total} examples are exact copies of an earlier one, {near} targets nearly equal an "
        f"earlier one; {len(loops)} targets loop; {gopher} "
        "exceed a limit of Gopher's filter of web text (which good answers with lists do too)"
    )
    faults: list[tuple[str, str]] = []
    remedies: list[str] = []
    if twice > FEW * total:
        remedies.append("dedupe")
        faults.append(("what is there many times is learned by heart", "drop the copies (dedupe)"))
    if len(loops) > LOOPS * total:
        remedies.append("drop_repetitive")
        faults.append(
            (
                "targets that loop teach loops; degeneration grows with the repetition in the data",
                f"drop the looped targets (drop_repetitive): {places(loops)}",
            )
        )
    yield Finding(
        "X03",
        "fail" if len(loops) > MANY * total else "warn" if faults else "ok",
        seen,
        "; ".join(why for why, _ in faults),
        "; ".join(f for _, f in faults),
        "arXiv:2310.10226; arXiv:2112.11446 table A1" if faults else "",
        values | {"fix": {"remedies": remedies}},
    )


@check("X04")
def cut_targets(subject: Subject) -> Results:
    """Targets cut by the run's own limit (fails above 1 %), or cut when the data was made (warns)."""
    encoded = [one for one in readable(subject) if one.target]
    if not encoded:
        raise Missing("no example has a target")
    most = (subject.settings or {}).get("max_length")
    if isinstance(most, int) and not isinstance(most, bool) and most > 0:
        cut = [one for one in encoded if len(one.ids) > most]
        if cut:
            longest = max(len(one.ids) for one in cut)
            changes = subject.dialect.changes({"max_length": longest})
            yield Finding(
                "X04",
                "fail" if len(cut) > FEW * len(encoded) else "warn",
                f"{len(cut)} of {len(encoded)} examples are longer than {next(iter(changes))} {most} "
                f"(up to {longest}): {places(cut)}",
                "what is cut has no end, and the model learns that answers do not end",
                f"{said(changes)}, or drop these examples",
                "huggingface/trl#5697",
                {
                    "max_length": most,
                    "cut": len(cut),
                    "longest": longest,
                    "fix": {"settings": changes},
                },
            )
            return
    lengths = np.array([one.target.end - one.target.start for one in encoded if one.target])
    characters = np.array([len(one.example.target or "") for one in encoded])
    for what, sizes, least in (("tokens", lengths, 64), ("characters", characters, 256)):
        top = int(sizes.max())
        at_top = [one for one, size in zip(encoded, sizes, strict=True) if size == top]
        unended = [one for one in at_top if one.learned[-1].role != "assistant call"]
        unended = [one for one in unended if not ENDED.search(one.example.target or "")]
        if top >= least and len(at_top) >= 3 and 2 * len(unended) > len(at_top):
            yield Finding(
                "X04",
                "warn",
                f"{len(at_top)} of {len(encoded)} targets have exactly {top} {what}, the most of all, and "
                f"{len(unended)} of them stop in mid-sentence: {places(unended)}",
                "they were cut when the data was made; with an end label the model learns to stop anywhere",
                f"drop targets of {top} {what}, or make them again with a higher limit",
                "huggingface/trl#5697",
                {"length": top, "unit": what, "targets": len(at_top), "unended": len(unended)},
            )
            return
    yield Finding(
        "X04",
        "ok",
        f"no limit shows in the lengths of {len(encoded)} targets (longest {lengths.max()} tokens)",
        values={"longest": int(lengths.max()), "max_length": most},
    )


@check("X05")
def loss_on_tools(subject: Subject) -> Results:
    """Turns of tools that the loss would train on; fails when the settings are of TRL's SFT and do not mask
    them, warns without settings. Other programs, and all of them in RL, mask them by themselves."""
    examples = examples_of(subject)
    with_tools = [one for one in examples if _tool_turn_is_learned(one)]
    values = {"examples": len(with_tools)}
    if not with_tools:
        yield Finding("X05", "ok", f"no turn of a tool in {len(examples)} examples", values=values)
        return
    settings, engine = subject.settings, subject.dialect.engine
    masks = "assistant_only_loss is set" if (settings or {}).get("assistant_only_loss") else ""
    if engine != "trl" or is_of_rl(settings):
        masks = f"{engine} masks them" + (" in RL" if engine == "trl" else "")
    if masks:
        yield Finding("X05", "ok", f"{len(with_tools)} examples with turns of tools; {masks}", values=values)
        return
    yield Finding(
        "X05",
        "fail" if settings is not None else "warn",
        f"{len(with_tools)} of {len(examples)} examples hold turns of tools: {places(with_tools)}; "
        "assistant_only_loss " + ("is not set" if settings is not None else "is not known"),
        "the model learns to write what tools answer, and then answers in their place",
        "set assistant_only_loss to true (the template needs generation markers)",
        "verl-project/verl PR 1668; modelscope/ms-swift#5998",
        values | {"fix": {"settings": {"assistant_only_loss": True}}},
    )


@check("X06")
def broken_turns(subject: Subject) -> Results:
    """Empty answers fail; the same role twice in a row warns."""
    examples = [one for one in examples_of(subject) if one.text is None]
    empty = [one for one in examples if any(_is_empty(turn) for turn in one.messages)]
    twice = [one for one in examples if _same_role_twice(one)]
    values = {"empty": len(empty), "same_role_twice": len(twice)}
    if empty:
        yield Finding(
            "X06",
            "fail" if len(empty) > FEW * len(examples) else "warn",
            f"{len(empty)} of {len(examples)} examples hold an empty assistant turn: {places(empty)}",
            "the model learns to end at once",
            f"delete rows {places(empty)} (all: values.at of --json)",
            "QwenLM/Qwen3.8#216",
            values | {"at": [one.at for one in empty]},
        )
    if twice:
        yield Finding(
            "X06",
            "warn",
            f"{len(twice)} of {len(examples)} examples hold two turns of one role in a row: {places(twice)}",
            "templates render this in their own ways, and engines never do",
            f"join the turns of rows {places(twice)}, or delete the rows",
            "verl-project/verl#7412",
            values,
        )
    if not empty and not twice:
        yield Finding(
            "X06", "ok", f"{len(examples)} conversations, roles in turn and no answer empty", values=values
        )


@check("X07")
def reward_visible_tags(subject: Subject) -> Results:
    """Tags that rewards read: what only an environment should write in targets (fails), tags that are not
    closed and text after the last answer or tool call (warn)."""
    examples = [one for one in examples_of(subject) if one.learned_texts]
    counts = {tag: sum(f"<{tag}>" in (one.target or "") for one in examples) for tag in TAGS}
    paid = [one for one in examples if any(mark in text for text in one.learned_texts for mark in PAID)]
    unclosed = [one for one in examples if any(_unbalanced(one.target or "", tag) for tag in TAGS)]
    after = [one for one in examples if _after_last(one.target or "")]
    values = {"tags": counts, "paid": len(paid), "unclosed": len(unclosed), "text_after": len(after)}
    if paid:
        yield Finding(
            "X07",
            "fail",
            f"{len(paid)} targets hold what an environment writes ({', '.join(PAID)}): {places(paid)}",
            "the model learns to write it itself, and a reward that looks for it pays for nothing",
            f"delete rows {places(paid)}, or these strings from their answers",
            DEEPEYES,
            values,
        )
    if unclosed:
        yield Finding(
            "X07",
            "warn",
            f"{len(unclosed)} of {len(examples)} targets open a tag and do not close it, or the reverse: "
            f"{places(unclosed)}",
            "a reward that reads between tags finds nothing there",
            f"close the tags in rows {places(unclosed)}, or delete the rows",
            "QwenLM/Qwen3.8#216",
            values,
        )
    if len(after) > FEW * max(1, len(examples)):
        yield Finding(
            "X07",
            "warn",
            f"{len(after)} of {len(examples)} targets go on after the last answer or tool call: "
            f"{places(after)}",
            "a reward that stops reading there cannot tell what follows from junk",
            f"cut the answers of rows {places(after)} behind the tag",
            DEEPEYES,
            values,
        )
    if not paid and not unclosed and len(after) <= FEW * max(1, len(examples)):
        seen = ", ".join(f"<{tag}> in {count}" for tag, count in counts.items() if count) or "no tags"
        yield Finding("X07", "ok", f"{seen} of {len(examples)} targets", values=values)


@check("X08")
def lengths(subject: Subject) -> Results:
    """Lengths of prompts, targets and rejected answers in tokens: 5, 50, 95 % and the longest. A report."""
    encoded = readable(subject)
    sizes = {
        "whole": [len(one.ids) for one in encoded],
        "target": [one.target.end - one.target.start for one in encoded if one.target],
    }
    rejected = [content_of(one.example.rejected[-1]) for one in encoded if one.example.rejected]
    if rejected:
        backend = subject.tokenizer.backend_tokenizer
        sizes["rejected"] = [len(one) for one in backend.encode_batch(rejected, add_special_tokens=False)]
    values = {name: _percentiles(found) for name, found in sizes.items() if found}
    seen = "; ".join(f"{name} " + "/".join(map(str, found.values())) for name, found in values.items())
    yield Finding("X08", "ok", f"tokens at 5/50/95 % and longest: {seen}", values=values)


@check("X09")
def bias_of_pairs(subject: Subject) -> Results:
    """Pairs in which the longer, or the more repetitive answer is chosen far more often than not; warns."""
    pairs = [one for one in examples_of(subject) if one.rejected and one.target is not None]
    if not pairs:
        raise Missing("the data holds no pairs")
    both = [(one.learned_texts, texts_of(one.rejected[-1])) for one in pairs if one.rejected]
    chosen, rejected = (["\n".join(texts) for texts in side] for side in zip(*both, strict=True))
    longer = sum(
        1.0 if len(a) > len(b) else 0.5 * (len(a) == len(b)) for a, b in zip(chosen, rejected, strict=True)
    )
    alike = [
        (a, b) for a, b in zip(chosen, rejected, strict=True) if len(a) < ALIKE * len(b) < ALIKE**2 * len(a)
    ]
    gaps = np.array([repetition(a) - repetition(b) for a, b in alike])
    clear = gaps[np.abs(gaps) > 0.05]
    more = int((clear > 0).sum())
    loops = [sum(any(map(looped, texts)) for texts in side) for side in zip(*both, strict=True)]
    interval, of_loops = wilson(longer, len(pairs)), wilson(more, len(clear))
    values = {
        "pairs": len(pairs),
        "longer_chosen": longer / len(pairs),
        "interval": interval,
        "repetition_differs": len(clear),
        "more_repetitive_chosen": more / len(clear) if len(clear) else None,
        "looped_chosen": loops[0],
        "looped_rejected": loops[1],
    }
    seen = (
        f"the longer answer is chosen in {longer / len(pairs):.0%} of {len(pairs)} pairs "
        f"({interval[0]:.0%} to {interval[1]:.0%}); of equally long ones the more "
        f"repetitive one in {more} of {len(clear)} pairs that differ; "
        f"{loops[0]} chosen and {loops[1]} rejected answers loop"
    )
    faults: list[tuple[str, str]] = []
    if longer / len(pairs) > LEAN and interval[0] > 0.5:
        faults.append(
            (
                "a reward model learns that longer is better",
                "balance the lengths: holdtrue train ... --set 'data.transforms=[balance_length]'",
            )
        )
    repetitive = (more > LEAN * len(clear) and of_loops[0] > 0.5) or loops[0] > max(2, loops[1])
    if repetitive:
        faults.append(
            (
                "a reward model learns to like repetition",
                "drop pairs whose chosen answer repeats itself (drop_repetitive)",
            )
        )
    yield Finding(
        "X09",
        "warn" if faults else "ok",
        seen,
        "; ".join(why for why, _ in faults),
        "; ".join(f for _, f in faults),
        "PKU-Alignment/safe-rlhf#71" if faults else "",
        values | {"fix": {"remedies": ["drop_repetitive"] if repetitive else []}},
    )


def _tail(one: Encoded) -> set[int]:
    """Ids after the target; of raw text the last three, as white space may follow the end."""
    assert one.target is not None
    start = len(one.ids) - 3 if one.example.text is not None else one.target.end
    return set(one.ids[max(0, start) :].tolist())


def _of_trl_sft(subject: Subject) -> bool:
    return any(name in (subject.settings or {}) for name in OF_TRL_SFT)


def _masks_padding(subject: Subject) -> bool:
    """Whether labels equal to the padding id are masked, as transformers' collator does."""
    named = (subject.settings or {}).get("data_collator")
    return named == "DataCollatorForLanguageModeling" if named else not _of_trl_sft(subject)


def _tool_turn_is_learned(one: Example) -> bool:
    return any(turn["role"] in TOOLS for turn in one.messages[one.given :]) and one.target is not None


def _is_empty(turn: Any) -> bool:
    calls = turn.get("tool_calls") or turn.get("reasoning_content")
    return turn["role"] == "assistant" and not calls and not content_of(turn).strip()


def _same_role_twice(one: Example) -> bool:
    roles = [turn["role"] for turn in one.messages]
    return any(a == b and a not in TOOLS for a, b in pairwise(roles))


def _unbalanced(text: str, tag: str) -> bool:
    opened, closed = text.count(f"<{tag}>"), text.count(f"</{tag}>")
    return opened != closed and not (tag == "think" and closed == 1 and not opened)  # a template may open it


def _after_last(text: str) -> bool:
    """Whether words follow the last ``</answer>`` or ``</tool_call>``."""
    end = max(
        text.rfind(f"</{tag}>") + len(f"</{tag}>") if f"</{tag}>" in text else -1
        for tag in ("answer", "tool_call")
    )
    return end >= 0 and bool(text[end:].strip())


def _percentiles(sizes: Sequence[int]) -> dict[str, int]:
    values = [*np.percentile(sizes, (5, 50, 95)).astype(int).tolist(), max(sizes)]
    return dict(zip(("p5", "p50", "p95", "max"), values, strict=True))
