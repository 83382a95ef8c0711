"""The answer goes over to another script."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from typing import ClassVar

from holdtrue.doctor.detectors import Detector, Flag
from holdtrue.doctor.reading import Reading, quote

_SCRIPTS = {
    "Greek": ("\u0370-\u03ff\u1f00-\u1fff", "greek|greece"),
    "Cyrillic": (
        "\u0400-\u052f",
        "cyrillic|russia|ukrain|bulgaria|serbia|macedonia|belarus|kazakh|kyrgyz|tajik|mongol|slavic|soviet",
    ),
    "Armenian": ("\u0531-\u058f", "armenia"),
    "Hebrew": ("\u05d0-\u05ea", "hebrew|yiddish|israel|jew"),
    "Arabic": ("\u0620-\u06ff\u0750-\u077f", "arab|persian|farsi|iran|urdu|pakistan|pashto|kurd|islam|quran"),
    "Indic": (
        "\u0900-\u0dff",
        "india|hindi|sanskrit|bengal|bangla|tamil|telugu|marathi|gujarat|punjab|nepal",
    ),
    "Thai": ("\u0e01-\u0e5b\u0e80-\u0eff", "thai|lao"),
    "Georgian": ("\u10a0-\u10ff", "georgia"),
    "Hangul": ("\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3", "korea|hangul|k-pop"),
    "Kana": ("\u3041-\u30ff", "japan|hiragana|katakana|anime|manga|haiku|kana"),
    "Han": (
        "\u3400-\u4dbf\u4e00-\u9fff",
        "chin[ae]|mandarin|canton|japan|korea|taiwan|hong kong|kanji|hanzi",
    ),
}
"""Letters of each script, and words for who writes it, as they begin."""
_BLOCKS = re.compile("[\u0370-\u1fff\u3041-\ud7a3]")
"""Where all of them lie: most texts that are not ASCII have curly quotes alone, and are told by this."""
_TOGETHER = {"Han": "Kana", "Kana": "Han"}
"""Scripts of one language."""
_ASKED = re.compile(
    r"\btranslat|\btradu|\bübersetz|\bперев[еоё]|翻译|译成|翻訳|번역|[外俄日韩英法德]语|语言"
    r"|\blanguages?\b|\bmultilingual|\bforeign\b|\balphabets?\b|\bunicode\b",
    re.IGNORECASE,
)
_QUOTED = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$[^$\n]*\$|\"[^\"\n]*\"|“[^”\n]*”|«[^»\n]*»|‘[^’\n]*’|「[^」\n]*」|『[^』\n]*』"
    r"|《[^》\n]*》|\*[^*\n]+\*|\([^()\n]*\)|（[^（）\n]*）|\[[^\[\]\n]*\]|https?://\S+",
    re.DOTALL,
)
"""Code, mathematics, quotations, and what stands in brackets or is emphasised: words that are mentioned."""
_REFERENCES = ("reference", "ground_truth", "solution")


class ScriptSwitch(Detector):
    """Letters of a script that neither the prompt nor the row's reference answer has. Warns.

    ``least`` letters of it outside of code, quotations and brackets, and ``share`` of all letters there.
    Latin letters are at home in every text and never counted. A script is asked for where the prompt names
    who writes it, or speaks of languages or translating; a prompt without letters asks for none.
    """

    why: ClassVar = (
        "The policy mixes languages: nothing in the reward keeps it to the one it was asked in, and readers "
        "are lost."
    )
    fix: ClassVar = (
        "Add a reward for the share of the answer in the prompt's language, as DeepSeek-R1 did; look for "
        "mixed targets in the data."
    )
    source: ClassVar = "DeepSeek-R1 (2501.12948), section 2.3.2"

    least: int = 12
    """Letters; words that are mentioned have fewer, a sentence of Chinese has as many."""
    share: float = 0.02
    """Of the letters."""

    def check(self, reading: Reading) -> Iterator[Flag]:
        """The script with the most letters, from its first one on."""
        if reading.text.isascii() or not _BLOCKS.search(reading.text) or _ASKED.search(reading.prompt):
            return
        meta = reading.rollout.meta
        asked = "\n".join([reading.prompt, *(str(meta[name]) for name in _REFERENCES if meta.get(name))])
        if not any(map(str.isalpha, asked)):
            return
        letters = _letters(frozenset(name for name in _SCRIPTS if not _is_asked(name, asked)))
        if letters.search(reading.text) is None:
            return
        own = ""
        for start, end in reading.own:
            own = own.ljust(start) + reading.text[start:end]
        said = _QUOTED.sub(lambda match: " " * len(match.group()), own)
        runs: dict[str, list[re.Match[str]]] = defaultdict(list)
        for run in letters.finditer(said):
            runs[_script(run.group()[0])].append(run)
        sizes = {name: sum(len(run.group()) for run in found) for name, found in runs.items()}
        most = max(sizes, key=lambda name: sizes[name], default="")
        if not most or sizes[most] < self.least:
            return
        total = sum(map(str.isalpha, said))
        if sizes[most] >= self.share * total:
            start, end = runs[most][0].start(), runs[most][-1].end()
            yield self.flag(
                "warn",
                f"{sizes[most]} letters of {most} ({sizes[most] / total:.0%}), which the prompt has none of: "
                f"{quote(reading.text[start : start + 80])}",
                span=(start, end),
                signature=f"{most} letters",
                share=round(sizes[most] / total, 3),
                script=most,
            )


def _is_asked(script: str, text: str) -> bool:
    """Whether a text is in a script, in one used beside it, or names who writes it."""
    return _letters(frozenset({script, _TOGETHER.get(script, script)})).search(text) is not None or (
        re.search(rf"\b(?:{_SCRIPTS[script][1]})", text, re.IGNORECASE) is not None
    )


@cache
def _letters(scripts: frozenset[str]) -> re.Pattern[str]:
    """Runs of letters of some scripts; of none, what never matches."""
    return re.compile(f"[{''.join(_SCRIPTS[name][0] for name in sorted(scripts))}]+" if scripts else "(?!)")


@cache
def _script(letter: str) -> str:
    return next(name for name in _SCRIPTS if _letters(frozenset({name})).match(letter))
