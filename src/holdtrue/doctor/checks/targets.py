"""X02, X04, X08: targets: whether they end, whether they were cut, how long they are."""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence

import numpy as np

from holdtrue.doctor.checks import Results, check
from holdtrue.doctor.dialect import said
from holdtrue.doctor.encoding import Encoded, readable
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.rendering import Unrendered
from holdtrue.doctor.subject import Missing, Overview, Subject
from holdtrue.doctor.tallies import Places, of_encoded

FEW = 0.01
"""Share of the examples above which cut targets fail (ours)."""
SHORT = 256
"""Tokens; the cap under which a whole run was cut (huggingface/trl#5697)."""
OF_TRL_SFT = ("assistant_only_loss", "completion_only_loss", "packing", "dataset_text_field")
"""Settings of TRL's SFTTrainer, which labels by its own masks and appends EOS to raw text."""
ENDED = re.compile(r"[.!?。！？…:;\"'”’)\]}>`*|~_-]\s*$")
"""How a text ends that was not cut."""


@of_encoded
class Ends:
    """Targets, by what follows them: ``without`` an end of the answer, or with one that padding masks.

    An end is a declared one, or the template's; the template's alone where nothing declared is one of it.
    """

    def __init__(self, subject: Subject) -> None:
        self.ends = set(subject.turn_end or ()) if subject.stops_elsewhere else set(subject.stops)
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
    readable(subject)
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
    ours = (subject.turn_end or ())[:1]
    end = subject.tokenizer.convert_ids_to_tokens(ours[0]) if ours else subject.tokenizer.eos_token
    wrong = f"; the declared {subject.tokenizer.eos_token} is none, T01" if subject.stops_elsewhere else ""
    if without:
        yield Finding(
            "X02",
            "fail",
            f"{total - len(without)}/{total} examples train an end of the answer "
            f"({', '.join(named)}{wrong}); not {without}",
            "the model never learns to stop",
            f"end these raw texts with {end}{', in place of another end' if wrong else ''}"
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
    readable(subject)
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


def cut_by(subject: Subject, cap: float) -> tuple[float | None, int | None]:
    """Share of the data's answers that reach a cap, and the length that 95 % of them do not exceed; None
    where no data tell it."""
    try:
        lengths = np.array(subject.counted(Lengths).target)
    except Missing:
        return None, None
    if not len(lengths):
        return None, None
    return float(np.mean(lengths >= cap)), int(np.percentile(lengths, 95))


def cap_to_advise(subject: Subject, cap: int) -> int:
    """The longest completion that every check advises: twice what 95 % of the answers need, where it cuts
    one in twenty; of no data twice a short cap; else the cap."""
    _, p95 = cut_by(subject, cap)
    if p95 is None:
        return 2 * cap if cap <= SHORT else cap
    return 2 * p95 if p95 >= cap else cap


@check("X08")
def lengths(subject: Subject) -> Results:
    """Lengths of prompts, targets and rejected answers in tokens: 5, 50, 95 % and the longest. A report."""
    readable(subject)
    found = subject.counted(Lengths)
    sizes = {"whole": found.whole, "target": found.target, "rejected": found.rejected}
    values = {name: _percentiles(these) for name, these in sizes.items() if these}
    seen = "; ".join(f"{name} " + "/".join(map(str, these.values())) for name, these in values.items())
    yield Finding("X08", "ok", f"tokens at 5/50/95 % and longest: {seen}", values=values)


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


def _percentiles(sizes: Sequence[int]) -> dict[str, int]:
    values = [*np.percentile(sizes, (5, 50, 95)).astype(int).tolist(), max(sizes)]
    return dict(zip(("p5", "p50", "p95", "max"), values, strict=True))
