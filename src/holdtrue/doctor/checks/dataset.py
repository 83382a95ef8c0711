"""X02-X09: what training data teaches: ends, repeats, cut answers, turns that should not be learned."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from holdtrue.data.examples import Example, content_of, texts_of
from holdtrue.data.near import RUN, NearDuplicates
from holdtrue.doctor.checks import Results, check
from holdtrue.doctor.dialect import said
from holdtrue.doctor.encoding import Encoded, rendering
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.gopher import repeats, repetition
from holdtrue.doctor.loops import looped
from holdtrue.doctor.rendering import Unrendered
from holdtrue.doctor.subject import Missing, Overview, Subject
from holdtrue.doctor.tallies import Distinct, Places, of_encoded, of_examples, shown
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


@of_encoded
class Ends:
    """Targets, by what follows them: ``without`` an end of the answer, or with one that padding masks."""

    def __init__(self, subject: Subject) -> None:
        self.ends = set(subject.stops)
        if subject.counted(Overview).talks:
            try:
                self.ends |= set(subject.template.turn_end)
            except Unrendered as error:
                raise Missing(str(error)) from error
        self.pad = subject.tokenizer.pad_token_id if _masks_padding(subject) else None
        self._skips_raw = _of_trl_sft(subject)  # its trainer appends EOS to raw text
        self.targets = self.raw = self.masked = 0
        self.without = Places()

    def see(self, one: Encoded) -> None:
        if one.target is None:
            return
        raw = one.example.text is not None
        self.raw += raw
        if raw and self._skips_raw:
            return
        self.targets += 1
        ends = self.ends & _tail(one)
        if not ends:
            self.without.add(one.example.at)
        self.masked += bool(ends) and ends <= {self.pad}


@check("X02")
def no_end_label(subject: Subject) -> Results:
    """Examples whose target no ending token follows, or whose end the collator masks: fails."""
    rendering(subject)
    seen = subject.counted(Ends)
    total, without, masked, ends = seen.targets, seen.without, seen.masked, seen.ends
    if not total and not seen.raw:
        raise Missing("no example has a target")
    values = {
        "targets": total,
        "without_end": len(without),
        "masked": masked,
        "ends": sorted(ends),
    }
    if not without and not masked:
        yield Finding("X02", "ok", f"{total}/{total} examples train an end of the answer", values=values)
        return
    named = subject.tokenizer.convert_ids_to_tokens(sorted(ends))
    if without:
        yield Finding(
            "X02",
            "fail",
            f"{total - len(without)}/{total} examples train an end of the answer "
            f"({', '.join(named)}); not {without}",
            "the model never learns to stop",
            f"append {subject.tokenizer.eos_token} to the raw texts"
            if seen.raw
            else "in chat_template.jinja end assistant turns with one of these tokens",
            "huggingface/trl#1623; OptimalScale/LMFlow#821",
            values,
        )
    if masked:
        yield Finding(
            "X02",
            "fail",
            f"{total - len(without) - masked}/{total} examples train EOS: the padding token "
            f"{subject.tokenizer.pad_token} ({seen.pad}) is the end, and a collator that masks padding by "
            "id (transformers' DataCollatorForLanguageModeling) masks it everywhere",
            "the model never learns to stop",
            "give the tokenizer a padding token of its own (T02 names one), or label by mask (TRL's "
            "SFTTrainer, holdtrue sft)",
            "mlabonne/llm-course#33; unslothai/unsloth#416",
            values | {"pad": seen.pad},
        )


MOST_COMPARED = 200_000
"""Targets among which near duplicates are looked for; each takes some 5 kB until they are found."""


@of_examples
class Repeats:
    """Copies among the examples, near duplicates among their first targets, and targets that repeat
    themselves."""

    def __init__(self, subject: Subject) -> None:
        self.targets = self.gopher = 0
        self.looped_at: list[str] = []
        self._different = Distinct()
        self._near = NearDuplicates()
        self._judged = bytearray()

    def see(self, one: Example) -> None:
        if not one.learned_texts:
            return
        target = one.target or ""
        self.targets += 1
        self._different.add(repr((one.messages, one.rejected, one.text)))
        if self.targets <= MOST_COMPARED:
            self._near.add(target)
            self._judged.append(len(target.split()) >= RUN)
        if any(map(looped, one.learned_texts)):
            self.looped_at.append(one.at)
        self.gopher += repeats(target) is not None

    @property
    def copies(self) -> int:
        """Examples that are exact copies of an earlier one."""
        return self.targets - len(self._different)

    @property
    def near(self) -> int:
        """Targets of several words that nearly equal an earlier one."""
        classes = enumerate(self._near.classes())
        return sum(first != i and bool(self._judged[i]) for i, first in classes)


@check("X03")
def repeated_data(subject: Subject) -> Results:
    """Examples that are there twice, targets that are near duplicates or loop; warns, and fails when over
    one target in twenty loops."""
    found = subject.counted(Repeats)
    total, twice, near, loops = found.targets, found.copies, found.near, found.looped_at
    if not total:
        raise Missing("no example has a target")
    values = {
        "targets": total,
        "same_examples": twice,
        "near_duplicate_targets": near,
        "looped_targets": len(loops),
        "gopher": found.gopher,
        "looped_at": loops,
    }
    among = f" (of the first {MOST_COMPARED:,})" if total > MOST_COMPARED else ""
    seen = (
        f"{twice} of {total} examples are exact copies of an earlier one, {near} targets nearly equal an "
        f"earlier one{among}; {len(loops)} targets loop; {found.gopher} "
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
                f"drop the looped targets (drop_repetitive): {shown(loops)}",
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


class Longest:
    """The largest size of targets, in ``unit``: how many have it, and which of these stop in mid-sentence."""

    def __init__(self, unit: str, least: int) -> None:
        self.unit, self.least = unit, least
        self.size = self.count = 0
        self.unended = Places()

    def see(self, size: int, one: Encoded) -> None:
        if size > self.size:
            self.size, self.count, self.unended = size, 0, Places()
        if size == self.size:
            self.count += 1
            if one.learned[-1].role != "assistant call" and not ENDED.search(one.example.target or ""):
                self.unended.add(one.example.at)

    @property
    def is_limit(self) -> bool:
        """Whether it looks like a limit at which answers were cut."""
        return self.size >= self.least and self.count >= 3 and 2 * len(self.unended) > self.count


@of_encoded
class Limits:
    """Examples beyond the run's own limit, and the targets that are the longest of all."""

    def __init__(self, subject: Subject) -> None:
        self.limit = (subject.settings or {}).get("max_length")
        self._most = float("inf")
        if isinstance(self.limit, int) and not isinstance(self.limit, bool) and self.limit > 0:
            self._most = self.limit
        self.targets = self.longest = 0
        self.cut = Places()
        self.tops = Longest("tokens", 64), Longest("characters", 256)

    def see(self, one: Encoded) -> None:
        if one.target is None:
            return
        self.targets += 1
        self.longest = max(self.longest, len(one.ids))
        if len(one.ids) > self._most:
            self.cut.add(one.example.at)
        tokens, characters = self.tops
        tokens.see(one.target.end - one.target.start, one)
        characters.see(len(one.example.target or ""), one)


@check("X04")
def cut_targets(subject: Subject) -> Results:
    """Targets cut by the run's own limit (fails above 1 %), or cut when the data was made (warns)."""
    rendering(subject)
    seen = subject.counted(Limits)
    total, most, cut, longest = seen.targets, seen.limit, seen.cut, seen.longest
    if not total:
        raise Missing("no example has a target")
    if cut:
        changes = subject.dialect.changes({"max_length": longest})
        yield Finding(
            "X04",
            "fail" if len(cut) > FEW * total else "warn",
            f"{len(cut)} of {total} examples are longer than {next(iter(changes))} {most} "
            f"(up to {longest}): {cut}",
            "what is cut has no end, and the model learns that answers do not end",
            f"{said(changes)}, or drop these examples",
            "huggingface/trl#5697",
            {"max_length": most, "cut": len(cut), "longest": longest, "fix": {"settings": changes}},
        )
        return
    for top in seen.tops:
        if top.is_limit:
            yield Finding(
                "X04",
                "warn",
                f"{top.count} of {total} targets have exactly {top.size} {top.unit}, the most of all, and "
                f"{len(top.unended)} of them stop in mid-sentence: {top.unended}",
                "they were cut when the data was made; with an end label the model learns to stop anywhere",
                f"drop targets of {top.size} {top.unit}, or make them again with a higher limit",
                "huggingface/trl#5697",
                {"length": top.size, "unit": top.unit, "targets": top.count, "unended": len(top.unended)},
            )
            return
    tokens = seen.tops[0].size
    yield Finding(
        "X04",
        "ok",
        f"no limit shows in the lengths of {total} targets (longest {tokens} tokens)",
        values={"longest": tokens, "max_length": most},
    )


@of_examples
class ToolTurns:
    """Examples that hold turns of tools, and a target."""

    def __init__(self, subject: Subject) -> None:
        self.at = Places()

    def see(self, one: Example) -> None:
        if _tool_turn_is_learned(one):
            self.at.add(one.at)


@check("X05")
def loss_on_tools(subject: Subject) -> Results:
    """Turns of tools that the loss would train on; fails when the settings are of TRL's SFT and do not mask
    them, warns without settings. Other programs, and all of them in RL, mask them by themselves."""
    with_tools, total = subject.counted(ToolTurns).at, len(subject.examples or ())
    values = {"examples": len(with_tools)}
    if not with_tools:
        yield Finding("X05", "ok", f"no turn of a tool in {total} examples", values=values)
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
        f"{len(with_tools)} of {total} examples hold turns of tools: {with_tools}; "
        "assistant_only_loss " + ("is not set" if settings is not None else "is not known"),
        "the model learns to write what tools answer, and then answers in their place",
        "set assistant_only_loss to true (the template needs generation markers)",
        "verl-project/verl PR 1668; modelscope/ms-swift#5998",
        values | {"fix": {"settings": {"assistant_only_loss": True}}},
    )


@of_examples
class Turns:
    """Conversations with an empty answer, and with two turns of one role in a row."""

    def __init__(self, subject: Subject) -> None:
        self.talks = 0
        self.empty_at: list[str] = []
        self.twice = Places()

    def see(self, one: Example) -> None:
        if one.text is not None:
            return
        self.talks += 1
        if any(map(_is_empty, one.messages)):
            self.empty_at.append(one.at)
        if _same_role_twice(one):
            self.twice.add(one.at)


@check("X06")
def broken_turns(subject: Subject) -> Results:
    """Empty answers fail; the same role twice in a row warns."""
    found = subject.counted(Turns)
    empty, twice, total = found.empty_at, found.twice, found.talks
    values = {"empty": len(empty), "same_role_twice": len(twice)}
    if empty:
        yield Finding(
            "X06",
            "fail" if len(empty) > FEW * total else "warn",
            f"{len(empty)} of {total} examples hold an empty assistant turn: {shown(empty)}",
            "the model learns to end at once",
            f"delete rows {shown(empty)} (all: values.at of --json)",
            "QwenLM/Qwen3.8#216",
            values | {"at": empty},
        )
    if twice:
        yield Finding(
            "X06",
            "warn",
            f"{len(twice)} of {total} examples hold two turns of one role in a row: {twice}",
            "templates render this in their own ways, and engines never do",
            f"join the turns of rows {twice}, or delete the rows",
            "verl-project/verl#7412",
            values,
        )
    if not empty and not twice:
        yield Finding("X06", "ok", f"{total} conversations, roles in turn and no answer empty", values=values)


@of_examples
class Tags:
    """Targets with tags that rewards read, and what is wrong with these."""

    def __init__(self, subject: Subject) -> None:
        self.targets = 0
        self.counts = dict.fromkeys(TAGS, 0)
        self.paid, self.unclosed, self.after = Places(), Places(), Places()

    def see(self, one: Example) -> None:
        if not one.learned_texts:
            return
        target = one.target or ""
        self.targets += 1
        for tag in TAGS:
            self.counts[tag] += f"<{tag}>" in target
        if any(mark in text for text in one.learned_texts for mark in PAID):
            self.paid.add(one.at)
        if any(_unbalanced(target, tag) for tag in TAGS):
            self.unclosed.add(one.at)
        if _after_last(target):
            self.after.add(one.at)


@check("X07")
def reward_visible_tags(subject: Subject) -> Results:
    """Tags that rewards read: what only an environment should write in targets (fails), tags that are not
    closed and text after the last answer or tool call (warn)."""
    found = subject.counted(Tags)
    counts, paid, unclosed, after, total = (
        found.counts,
        found.paid,
        found.unclosed,
        found.after,
        found.targets,
    )
    values = {"tags": counts, "paid": len(paid), "unclosed": len(unclosed), "text_after": len(after)}
    if paid:
        yield Finding(
            "X07",
            "fail",
            f"{len(paid)} targets hold what an environment writes ({', '.join(PAID)}): {paid}",
            "the model learns to write it itself, and a reward that looks for it pays for nothing",
            f"delete rows {paid}, or these strings from their answers",
            DEEPEYES,
            values,
        )
    if unclosed:
        yield Finding(
            "X07",
            "warn",
            f"{len(unclosed)} of {total} targets open a tag and do not close it, or the reverse: {unclosed}",
            "a reward that reads between tags finds nothing there",
            f"close the tags in rows {unclosed}, or delete the rows",
            "QwenLM/Qwen3.8#216",
            values,
        )
    if len(after) > FEW * max(1, total):
        yield Finding(
            "X07",
            "warn",
            f"{len(after)} of {total} targets go on after the last answer or tool call: {after}",
            "a reward that stops reading there cannot tell what follows from junk",
            f"cut the answers of rows {after} behind the tag",
            DEEPEYES,
            values,
        )
    if not paid and not unclosed and len(after) <= FEW * max(1, total):
        seen = ", ".join(f"<{tag}> in {count}" for tag, count in counts.items() if count) or "no tags"
        yield Finding("X07", "ok", f"{seen} of {total} targets", values=values)


@of_encoded
class Lengths:
    """Lengths in tokens, 4 bytes each: of whole examples, targets and rejected answers."""

    def __init__(self, subject: Subject) -> None:
        self.whole, self.target, self.rejected = array("i"), array("i"), array("i")

    def see(self, one: Encoded) -> None:
        if one.fault is not None:
            return
        self.whole.append(len(one.ids))
        if one.target:
            self.target.append(one.target.end - one.target.start)
        if one.rejected is not None:
            self.rejected.append(one.rejected)


@check("X08")
def lengths(subject: Subject) -> Results:
    """Lengths of prompts, targets and rejected answers in tokens: 5, 50, 95 % and the longest. A report."""
    rendering(subject)
    found = subject.counted(Lengths)
    sizes = {"whole": found.whole, "target": found.target, "rejected": found.rejected}
    values = {name: _percentiles(these) for name, these in sizes.items() if these}
    seen = "; ".join(f"{name} " + "/".join(map(str, these.values())) for name, these in values.items())
    yield Finding("X08", "ok", f"tokens at 5/50/95 % and longest: {seen}", values=values)


@of_examples
class Pairs:
    """Which answer of the pairs is chosen: the longer one, the more repetitive one, one that loops.

    Attributes:
        longer: pairs in which the longer answer is chosen; equally long ones count one half.
        clear: pairs of about equal length that differ in repetition; ``more``: the more repetitive is chosen.
        loops: chosen answers that loop, and rejected ones.
    """

    def __init__(self, subject: Subject) -> None:
        self.pairs = self.clear = self.more = 0
        self.longer = 0.0
        self.loops = [0, 0]

    def see(self, one: Example) -> None:
        if not one.rejected or one.target is None:
            return
        both = one.learned_texts, texts_of(one.rejected[-1])
        chosen, rejected = map("\n".join, both)
        self.pairs += 1
        self.longer += 1.0 if len(chosen) > len(rejected) else 0.5 * (len(chosen) == len(rejected))
        if len(chosen) < ALIKE * len(rejected) < ALIKE**2 * len(chosen):
            gap = repetition(chosen) - repetition(rejected)
            self.clear += abs(gap) > 0.05
            self.more += gap > 0.05
        for side, texts in enumerate(both):
            self.loops[side] += any(map(looped, texts))


@check("X09")
def bias_of_pairs(subject: Subject) -> Results:
    """Pairs in which the longer, or the more repetitive answer is chosen far more often than not; warns."""
    found = subject.counted(Pairs)
    pairs, longer, clear, more, loops = found.pairs, found.longer, found.clear, found.more, found.loops
    if not pairs:
        raise Missing("the data holds no pairs")
    interval, of_loops = wilson(longer, pairs), wilson(more, clear)
    values = {
        "pairs": pairs,
        "longer_chosen": longer / pairs,
        "interval": interval,
        "repetition_differs": clear,
        "more_repetitive_chosen": more / clear if clear else None,
        "looped_chosen": loops[0],
        "looped_rejected": loops[1],
    }
    seen = (
        f"the longer answer is chosen in {longer / pairs:.0%} of {pairs} pairs "
        f"({interval[0]:.0%} to {interval[1]:.0%}); of equally long ones the more "
        f"repetitive one in {more} of {clear} pairs that differ; "
        f"{loops[0]} chosen and {loops[1]} rejected answers loop"
    )
    faults: list[tuple[str, str]] = []
    if longer / pairs > LEAN and interval[0] > 0.5:
        faults.append(
            (
                "a reward model learns that longer is better",
                "balance the lengths: holdtrue train ... --set 'data.transforms=[balance_length]'",
            )
        )
    repetitive = (more > LEAN * clear and of_loops[0] > 0.5) or loops[0] > max(2, loops[1])
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
