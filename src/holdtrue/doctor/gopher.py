"""How much of a text repeats itself, by the measures Gopher's data were filtered with.

Rae et al., 2021 (arXiv:2112.11446), table A1; counted as datatrove's ``gopher_repetition_filter`` counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

LINES, LINE_CHARACTERS = 0.30, 0.20
TOP = {2: 0.20, 3: 0.18, 4: 0.16}
DUPLICATE = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
"""n -> largest share of a text's characters in its most frequent run of n words, or in repeated runs."""

_WORD = re.compile(r"\w+|[^\w\s]")
_PARAGRAPH = re.compile(r"\n{2,}")
MIN_WORDS = 50
"""Shorter texts are not judged: of five words, two that are equal are 40 %."""


def repeats(text: str) -> str | None:
    """The first measure a text exceeds, such as ``"36 % of the characters in repeated runs of 5 words"``."""
    text = text.strip()
    words = _WORD.findall(text)
    if len(words) < MIN_WORDS:
        return None
    for what, parts in (("paragraphs", _PARAGRAPH.split(text)), ("lines", text.splitlines())):
        parts = [part.strip() for part in parts if part.strip()]
        again = _again(parts)
        if len(again) / len(parts) > LINES:
            return f"{len(again) / len(parts):.0%} of the {what} repeat an earlier one"
        if (share := sum(map(len, again)) / len(text)) > LINE_CHARACTERS:
            return f"{share:.0%} of the characters in repeated {what}"
    for n, most in TOP.items():
        runs = Counter(zip(*(words[i:] for i in range(n)), strict=False))
        run, count = runs.most_common(1)[0]
        share = count * (sum(map(len, run)) + n - 1) / len(text)
        if count > 1 and share > most and any(word.isalnum() for word in run):
            return f"{share:.0%} of the characters in {' '.join(run)!r}, {count} times"
    return _long_runs(text, words)


def _long_runs(text: str, words: Sequence[str]) -> str | None:
    for n, most in DUPLICATE.items():
        share = _duplicate_characters(words, n) / len(text)
        if share > most:
            return f"{share:.0%} of the characters in repeated runs of {n} words"
        if share <= min(DUPLICATE.values()):  # longer runs repeat no more than shorter ones
            return None
    return None


def _again(parts: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]


def _duplicate_characters(words: Sequence[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    count = i = 0
    while i <= len(words) - n:
        run = tuple(words[i : i + n])
        if run in seen:
            count += sum(map(len, run)) + n - 1
            i += n
        else:
            seen.add(run)
            i += 1
    return count


def repetition(text: str, n: int = 4) -> float:
    """1 - (different runs of ``n`` words) / (runs of ``n`` words); 0 below ``n`` words (seq-rep-n)."""
    words = _WORD.findall(text)
    runs = list(zip(*(words[i:] for i in range(n)), strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
