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
    "Greek": ("\u0370-\u03ff\u1f00-\u1fff", "gree[ck]|griech|gr[ie]eg|grec|cyprus"),
    "Cyrillic": (
        "\u0400-\u052f",
        "cyrillic|kyrill|russ|rus[oa]|u[ck]rain|ucran|b[uo]lgar|[sc]erb|ma[ck]edon|belarus|ka[sz]a[ck]h|kyrgyz"
        "|tajik|mongol|uzbek|tatar|slavic|soviet|moscow",
    ),
    "Armenian": ("\u0531-\u058f", "armen"),
    "Hebrew": ("\u05d0-\u05ea", "h?ebr|hébr|yiddish|israel|jew|torah"),
    "Arabic": (
        "\u0620-\u06ff\u0750-\u077f",
        "[aá]rab|persi|farsi|dari\\b|iran|urdu|pakistan|pashto|afghan|kurd|sindhi|uyghur|islam|muslim|qu?ran",
    ),
    "Indic": (
        "\u0900-\u0dff",
        "india|hind|sanskrit|devanagari|vedic|bengal|bangla|tamil|telugu|kannada|mala[iy]al|marathi|konkani"
        "|gujarat|punjab|gurmukhi|odia|oriya|odisha|assam|sinhal|sri lanka|nepal|maithili|bhojpuri|dogri"
        "|kashmir|sindhi|manipuri|meitei",
    ),
    "Thai": ("\u0e01-\u0e5b\u0e80-\u0eff", "thai|tailand|lao"),
    "Georgian": ("\u10a0-\u10ff", "georgi"),
    "Hangul": ("\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3", "[ck]or[eé]a|hangul|k-?pop|k-drama|seoul"),
    "Kana": ("\u3041-\u30ff", "jap[aoó]n|giappon|hiragana|katakana|anime|manga|haiku|kana\\b"),
    "Han": (
        "\u3400-\u4dbf\u4e00-\u9fff",
        "chin[aeo]|cin(?:a|es)|mandarin|canton|jap[aoó]n|giappon|[ck]or[eé]a|taiwan|hong kong|beijing|pinyin"
        "|kanji|han ?zi|hanja|han characters",
    ),
}
"""Where the letters of each script lie, and words for who writes it, as they begin in English and its
neighbours."""
_BLOCKS = re.compile("[\u0370-\u1fff\u3041-\ud7a3]")
"""Where all of them lie: most texts that are not ASCII have curly quotes alone, and are told by this."""
_TOGETHER = {"Han": "Kana", "Kana": "Han"}
"""Scripts of one language."""
_ASKED = re.compile(
    r"\btranslat|\btradu|\bübersetz|\bперев[еоё]|翻译|译成|翻譯|譯成|翻訳|번역|[外俄日韩韓英法德泰][语語文]|语言|語言"
    r"|\bпо-\w+ски\b|\blanguages?\b|\bmultilingual|\bforeign\b|\balphabets?\b|\bunicode\b",
    re.IGNORECASE,
)
_ENGLISH = re.compile(
    r"\b(?:the|and|what|how|why|who|when|where|which|with|you|your|this|that|there|any|were|does|did|should"
    r"|write|tell|give|make|find|solve|explain|describe|design|please)\b",
    re.IGNORECASE,
)
_ACCENTED = re.compile("[\u0386-\u0390\u03aa-\u03b0\u03ca-\u03ce\u1f00-\u1fff]")
_QUOTED = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$[^$]*\$\$|\$[^$\n]*\$|\\\[(?:[^\\]|\\(?![\[\]]))*\\\]|\"[^\"\n]*\""
    r"|“[^“”\n]*”|«[^«»\n]*»|‘[^‘’\n]*’|「[^「」\n]*」|『[^『』\n]*』|《[^《》\n]*》|\*[^*\n]+\*"
    r"|\([^()\n]*\)|（[^（）\n]*）|\[[^\[\]\n]*\]|https?://\S+",
    re.DOTALL,
)
"""Code, mathematics, quotations, and what stands in brackets or is emphasised: words that are mentioned. None
of them but code reaches past another of its own opening marks: a loop of these takes linear time."""
_REFERENCES = ("reference", "ground_truth", "solution")


class ScriptSwitch(Detector):
    """Letters of a script that neither the prompt nor the row's reference answer has. Warns.

    ``least`` letters of it outside of code, quotations and brackets, and ``share`` of all letters there.
    Latin letters are at home in every text and never counted; nor are Greek words without an accent, which
    are symbols. A script is asked for where the prompt names who writes it, or speaks of languages or
    translating; a prompt without letters asks for none. Other languages than English may ask in words that
    are not known here, so an answer to them that is in the script for the most part is left alone.
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
            if _count(run.group()):
                runs[_script(run.group()[0])].append(run)
        sizes = {name: sum(_count(run.group()) for run in found) for name, found in runs.items()}
        most = max(sizes, key=lambda name: sizes[name], default="")
        if not most or sizes[most] < self.least:
            return
        share = sizes[most] / sum(map(str.isalpha, said))
        if share >= self.share and (share < 0.5 or _ENGLISH.search(reading.prompt)):
            start, end = runs[most][0].start(), runs[most][-1].end()
            yield self.flag(
                "warn",
                f"{sizes[most]} letters of {most} ({share:.0%}), which the prompt has none of: "
                f"{quote(reading.text[start : start + 80])}",
                span=(start, end),
                signature=f"{most} letters",
                share=round(share, 3),
                script=most,
            )


def _count(run: str) -> int:
    """Letters of a run, whose range has digits, points and marks too; of symbols none."""
    symbols = _script(run[0]) == "Greek" and not _ACCENTED.search(run)
    return 0 if symbols else sum(map(str.isalpha, run))


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
