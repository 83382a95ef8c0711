"""Control tokens inside an answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from holdtrue.doctor.detectors import Detector, Flag
from holdtrue.doctor.reading import CONTROL, Reading, quote

QUOTES = ("`", '"', "'", "*", "\u201c", "\u201d")
_EXPLAINED = re.compile(r"token|template|chatml|prompt format", re.IGNORECASE)
_RENDERED = re.compile(
    r"<\|im_start\|>(?:system|user|assistant)|<\|start_header_id\|>|\[INST\]|<start_of_turn>"
)
"""In a prompt that is given as the engine read it, control tokens are no words about control tokens."""
_HINTS = ("<|", "<｜", "s>", "INST]", "SYS>>", "_of_turn>", "<pad>", "<unk>")
"""One of these is in every match of CONTROL; they are faster to look for."""


class CtrlTokenInBody(Detector):
    """Control tokens (``<|im_start|>``, an end token that is not the last) inside what the policy wrote.

    Decided on token ids where they and their tokenizer are known: a text that quotes a control token is then
    fine. Otherwise decided on the decoded text, where one that the prompt names, or that stands in quotes,
    only warns. Any such token fails.
    """

    why: ClassVar = (
        "The policy has learned to write the marks of a conversation: it talks to itself, loops, and "
        "may be paid for it."
    )
    fix: ClassVar = (
        "Ban control and phantom ids when sampling, with log-probabilities renormalised the same way in "
        "training; make the reward see them (veto); look for them in the data (doctor check --data)."
    )
    source: ClassVar = (
        "Visual-Agent/DeepEyes#131; GPO and SimPO models on AlpacaEval leak <|start_header_id|>"
    )

    def check(self, reading: Reading) -> Iterator[Flag]:
        """All control tokens of the body as one flag, from the first to the last."""
        if reading.vocabulary is not None and len(reading.body):
            yield from self._in_ids(reading)
        else:
            yield from self._in_text(reading)

    def _in_ids(self, reading: Reading) -> Iterator[Flag]:
        vocabulary = reading.vocabulary
        assert vocabulary is not None
        wrote = reading.policy_wrote
        marked = np.isin(reading.body, [*vocabulary.control, *vocabulary.ends]) & wrote
        # an end token may close a turn of several
        closes = np.isin(reading.body, list(vocabulary.ends)) & wrote & ~np.append(wrote[1:], True)
        places = np.flatnonzero(marked & ~closes)
        if not len(places):
            return
        if reading.rollout.loss_mask is None and len(reading.own) > 1:
            yield from self._in_text(reading)  # tools' turns, and no mask that tells them from the policy's
            return
        first, last = int(places[0]), int(places[-1]) + 1
        counts = Counter(reading.body[places].tolist())
        most = counts.most_common(1)[0][0]
        yield self.flag(
            "fail",
            f"{_listed({vocabulary.names([id]): count for id, count in counts.items()})} "
            f"among {len(reading.body)} tokens, the first at {first}",
            span=reading.characters(first, last),
            tokens=(first, last),
            signature=f"control token {vocabulary.names([most])}",
            counts={str(id): count for id, count in counts.items()},
        )

    def _in_text(self, reading: Reading) -> Iterator[Flag]:
        text = reading.text
        if ("<" not in text and "[" not in text) or not any(mark in text for mark in _HINTS):
            return
        struck = ("<s>", "</s>") if "<s>" in text and "</s>" in text else ()  # HTML, or code that holds it
        places = [place for place in reading.find(CONTROL) if place.group() not in struck]
        if not places:
            return
        free = list(_unnamed(reading, places))
        counts = Counter(place.group() for place in free or places)
        first = (free or places)[0]
        yield self.flag(
            "fail" if free else "warn",
            f"{_listed(counts)}; the first after "
            f"{quote(text[max(first.start() - 40, 0) : first.start()])}"
            + ("" if free else ", quoted or named in the prompt"),
            span=(first.start(), (free or places)[-1].end()),
            signature=f"control token {counts.most_common(1)[0][0]}",
            counts=dict(counts),
        )


def _listed(counts: Counter[str] | dict[str, int]) -> str:
    return ", ".join(f"{token} x {count}" for token, count in counts.items())


def _unnamed(reading: Reading, places: Sequence[re.Match[str]]) -> Iterator[re.Match[str]]:
    """Those not talked about: no word of the prompt, not in quotes, in backticks or in a block of code.

    Reads the text once however many places there are.
    """
    text, prompt = reading.text, reading.prompt
    tokens = {place.group() for place in places}
    named = set() if _RENDERED.search(prompt) else {token for token in tokens if token in prompt}
    explained, last_fence = _EXPLAINED.search(text) is not None, text.rfind("```")
    fences = ticks = at = last_tick = 0
    line_end, inline = -1, dict[str, bool]()
    for place in places:
        token, start, end = place.group(), place.start(), place.end()
        fences += text.count("```", at, start)
        if start > line_end:
            line = text.rfind("\n", max(line_end, 0), start) + 1
            found = text.find("\n", start)
            line_end = found if found >= 0 else len(text)
            last_tick, ticks, inline = text.rfind("`", line, line_end), text.count("`", line, start), {}
        else:
            ticks += text.count("`", at, start)
        at = start
        quoted = text[start - 1 : start] in QUOTES and text[end : end + 1] in QUOTES
        block = explained and fences % 2 == 1 and end <= last_fence
        within = inline.setdefault(token, ticks % 2 == 1 and end <= last_tick)
        if not (within or quoted or block or token in named):
            yield place
