"""The checks of the audit, each giving its findings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from holdtrue.data.corpus import Corpus, Row, quantiles
from holdtrue.data.reader import ReadReport
from holdtrue.records import Comparison, Group

Severity = Literal["fail", "warn", "info"]
EXAMPLES = 3

TokenCounts = Callable[[Sequence[Group]], Iterable[Sequence[int | str]]]
"""Tokens of every conversation (prompt and answer) of every group; a string is why it cannot be encoded."""

CONTROL_TOKEN = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<｜[^｜<>]{1,40}｜>|</?s>|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>|\[(?:CLS|SEP|PAD|MASK|BOS|EOS|UNK)\]"
)
"""Marks that tokenizers turn into control tokens: ChatML, Llama, Gemma, DeepSeek, BERT."""
ROLE_MARKER = re.compile(
    r"^[ \t]*(?:#{2,} *)?(?:Human|Assistant|User|System|Instruction|Response):(?=\s)", re.MULTILINE
)
"""A line that starts like a turn of a dialogue."""
BROKEN_TEXT = re.compile("\ufffd|â€[\u0080-\u024f\u2000-\u21ff]|Ã[\u0080-\u00bf]")
"""Replacement characters, and UTF-8 that was read as Latin-1 or Windows-1252."""

LENGTH_BIAS = (0.4, 0.6)
"""Outside of this range "the longer answer wins" is a bias worth a warning."""


@dataclass(frozen=True)
class Finding:
    """Something found in the data: how often, up to three places (``file:line``), and what to do."""

    name: str
    severity: Severity
    count: int
    what: str
    advice: str
    examples: tuple[str, ...] = ()


def reading(report: ReadReport, split: str) -> list[Finding]:
    """Rows that could not be used, by reason, and rows that were mended."""
    found = [
        Finding(
            f"rejected: {reason}",
            "warn",
            count,
            f"{split} rows left out: {reason}"
            + (f" ({report.examples[reason][0]['detail']})" if report.examples[reason][0]["detail"] else ""),
            "Mend the file, or accept that these rows are not used.",
            tuple(example["at"] for example in report.examples[reason]),
        )
        for reason, count in report.rejected.most_common()
    ]
    return found + [
        Finding(
            f"repaired: {what}", "info", count, f"{split} rows mended: {what}", "Nothing needs to be done."
        )
        for what, count in report.repaired.most_common()
    ]


def length_bias(measured: dict[str, Any], split: str) -> list[Finding]:
    """Whether the length alone tells which answer is preferred."""
    if not measured["count"]:
        return []
    low, high = measured["interval"]
    biased = low > LENGTH_BIAS[1] or high < LENGTH_BIAS[0]
    side = "longer" if measured["accuracy"] > 0.5 else "shorter"
    if not biased:
        return []
    share = max(measured["accuracy"], 1 - measured["accuracy"])
    return [
        Finding(
            "length bias",
            "warn",
            measured["count"],
            f'in {split}, "the {side} answer wins" is right for {share:.0%} of the comparisons',
            "Read every accuracy beside this baseline; a reward model can learn length and nothing else.",
        )
    ]


def few_prompts(counts: dict[str, Any], split: str) -> list[Finding]:
    """Many comparisons of few prompts, which are not independent."""
    comparisons, prompts = counts["comparisons"], counts["prompts"]
    if comparisons < 5 * prompts or not prompts:
        return []
    return [
        Finding(
            "few prompts",
            "info",
            prompts,
            f"{split} has {comparisons} comparisons of only {prompts} prompts",
            "Trust intervals that resample prompts, not comparisons.",
        )
    ]


def fit(
    groups: Sequence[Group], split: str, count_tokens: TokenCounts, max_length: int | None
) -> tuple[dict[str, Any], list[Finding]]:
    """What conversations of at most ``max_length`` tokens hold, and what would be dropped or cut."""
    tokens: list[int] = []
    refused: Counter[str] = Counter()
    over, dropped, comparisons, cut = 0, 0, 0, 0
    places: list[str] = []
    refused_places: list[str] = []
    for group, counts in zip(groups, count_tokens(groups), strict=True):
        place = str(group.source or split)
        known = [count for count in counts if isinstance(count, int)]
        reasons = [count for count in counts if isinstance(count, str)]
        tokens += known
        refused.update(reasons)
        beyond = [count - max_length for count in known if max_length is not None and count > max_length]
        over, cut = over + len(beyond), cut + sum(beyond)
        if beyond:
            places.append(place)
        if reasons:
            refused_places.append(place)
        usable = [isinstance(n, int) and (max_length is None or n <= max_length) for n in counts]
        comparisons += len(group.comparisons)
        dropped += sum(not (usable[c.first] and usable[c.second]) for c in group.comparisons)
    measured = {
        "max_length": max_length,
        "answers": len(tokens) + refused.total(),
        "answers_over": over,
        "comparisons": comparisons,
        "comparisons_dropped": dropped,
        "tokens_over": cut,
        "refused": dict(refused.most_common()),
        "tokens": quantiles(tokens),
    }
    found = []
    if over:
        found.append(
            Finding(
                "longer than max_length",
                "warn",
                over,
                f"{over} of {measured['answers']} {split} conversations exceed {max_length} tokens: "
                f"truncation 'drop' leaves out {dropped} of {comparisons} comparisons, "
                f"'left' and 'right' cut {cut} tokens",
                "Raise max_length if the model can take it, or choose data.truncation.",
                tuple(places[:EXAMPLES]),
            )
        )
    for reason, count in refused.most_common():
        found.append(
            Finding(
                "cannot be encoded",
                "warn",
                count,
                f"{split}: {reason}",
                "Change the turns or the chat template.",
                tuple(refused_places[:EXAMPLES]),
            )
        )
    return measured, found


def rows(corpus: Corpus, control_tokens: Iterable[str]) -> list[Finding]:
    """Every check that looks at rows one by one or against each other."""
    return [
        *_duplicates(corpus),
        *_leakage(corpus),
        *_contradictions(corpus),
        *_sides(corpus),
        *_texts(corpus, control_tokens),
    ]


def _finding(name: str, severity: Severity, found: Sequence[Row], what: str, advice: str) -> list[Finding]:
    """A finding about rows, or none when there are no such rows."""
    if not found:
        return []
    places = list(dict.fromkeys(row.place for row in found))
    return [Finding(name, severity, len(found), what, advice, tuple(places[:EXAMPLES]))]


def _claims(row: Row, number: Callable[[int], int] = int) -> list[Hashable]:
    """What a row says, in a form that does not depend on the order of its answers."""
    prompt = number(row.prompt)
    answers = [number(answer) for answer in row.answers]
    if not row.group.comparisons:
        return [(prompt, *answers)]
    return [_claim(prompt, answers, comparison) for comparison in row.group.comparisons]


def _claim(prompt: int, answers: Sequence[int], comparison: Comparison) -> Hashable:
    if comparison.preferred is None:
        return (prompt, *sorted((answers[comparison.first], answers[comparison.second])), "tie")
    better, worse = comparison.preferred
    return (prompt, answers[better], answers[worse], "over")


def repeats(corpus: Corpus) -> tuple[list[Row], list[Row]]:
    """Rows that say again what an earlier row of their split says: exactly, and nearly.

    A comparison on which two raters agree, or an answer with another rating, is no repetition.
    """
    seen: set[Hashable] = set()
    seen_near: set[Hashable] = set()
    exact, near = [], []
    for row in corpus.rows:
        said, nearly_said = _said(row), _said(row, corpus.near.__getitem__)
        if said <= seen:
            exact.append(row)
        elif nearly_said <= seen_near:
            near.append(row)
        seen |= said
        seen_near |= nearly_said
    return exact, near


def _said(row: Row, number: Callable[[int], int] = int) -> set[Hashable]:
    """The claims of a row with who made them, and its answers with their labels and ratings, if any."""
    by = [comparison.rater for comparison in row.group.comparisons] or [None]
    said: set[Hashable] = set(zip(_claims(row, number), by, strict=True))
    for answer, text in zip(row.group.answers, row.answers, strict=True):
        if answer.ratings or answer.label is not None:
            verdict = (answer.rater, answer.label, *sorted(answer.ratings.items()))
            said.add((number(row.prompt), number(text), *verdict))
    return {(row.split, one) for one in said}


def _duplicates(corpus: Corpus) -> list[Finding]:
    exact, near = repeats(corpus)
    return _finding(
        "duplicates",
        "warn",
        exact,
        "rows repeat an earlier row: same prompt, answers and preference",
        "Remove them, or give one row a weight; repeated rows count several times.",
    ) + _finding(
        "near duplicates",
        "info",
        near,
        "rows nearly repeat an earlier row (equal words, or 70 % of the runs of five words shared)",
        "Look at the examples; remove them if they are copies.",
    )


def _leakage(corpus: Corpus) -> list[Finding]:
    """Rows and prompts of the evaluation data that training has seen."""
    train, held_out = corpus.split("train"), corpus.split("eval")
    claims = {claim for row in train for claim in _claims(row)}
    prompts = {row.prompt for row in train}
    near_prompts = {corpus.near[prompt] for prompt in prompts}
    leaked, shared, near = [], [], []
    for row in held_out:
        if any(claim in claims for claim in _claims(row)):
            leaked.append(row)
        elif not corpus.texts[row.prompt].strip():
            continue
        elif row.prompt in prompts:
            shared.append(row)
        elif corpus.near[row.prompt] in near_prompts:
            near.append(row)
    return (
        _finding(
            "leaked rows",
            "fail",
            leaked,
            "eval rows are in the training data, with the same prompt, answers and preference",
            "Remove them from one side; accuracy on them measures memory.",
        )
        + _finding(
            "shared prompts",
            "warn",
            shared,
            "eval rows have a prompt of the training data, with other answers",
            "Split by prompt, so that accuracy is about new prompts.",
        )
        + _finding(
            "nearly shared prompts",
            "warn",
            near,
            "eval rows have nearly a prompt of the training data (equal words, or 70 % of the runs of five)",
            "Look at the examples; remove them if they are the same question.",
        )
    )


def _contradictions(corpus: Corpus) -> list[Finding]:
    """Comparisons of the same two answers to the same prompt with opposite preferences."""
    claims = {claim for row in corpus.rows for claim in _claims(row)}
    against = [
        row
        for row in corpus.rows
        for comparison in row.group.comparisons
        if comparison.preferred is not None
        and row.answers[comparison.first] != row.answers[comparison.second]
        and _claim(row.prompt, row.answers, _reversed(comparison)) in claims
    ]
    return _finding(
        "contradictions",
        "warn",
        against,
        "comparisons are contradicted by another: same prompt and answers, opposite preference",
        "Make them one row with a soft label, or a tie.",
    )


def _reversed(comparison: Comparison) -> Comparison:
    return Comparison(comparison.second, comparison.first, comparison.label)


def _sides(corpus: Corpus) -> list[Finding]:
    """Comparisons whose two answers hardly differ, or of which one is empty."""
    identical, folded, empty = [], [], []
    for row in corpus.rows:
        if any(not corpus.texts[answer].strip() for answer in row.answers):
            empty.append(row)
        for c in row.group.comparisons:
            first, second = row.answers[c.first], row.answers[c.second]
            if first == second:
                identical.append(row)
            elif corpus.near[first] == corpus.near[second] and (
                _folded(corpus.texts[first]) == _folded(corpus.texts[second])
            ):
                folded.append(row)
    return (
        _finding(
            "identical pairs", "warn", identical, "comparisons have twice the same answer", "Remove them."
        )
        + _finding(
            "sides equal when folded",
            "warn",
            folded,
            "comparisons have answers that differ in case or white space only",
            "Remove them unless that difference is what the reward should learn.",
        )
        + _finding(
            "empty answers",
            "warn",
            empty,
            "rows have an answer without text",
            "Keep them if annotators really saw silence; otherwise it is a scraping error.",
        )
    )


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _texts(corpus: Corpus, control_tokens: Iterable[str]) -> list[Finding]:
    """Control tokens, role markers and broken characters inside prompts and answers."""
    known = [re.escape(token) for token in control_tokens if token.strip()]
    control = re.compile("|".join([CONTROL_TOKEN.pattern, *known]))
    with_control = {i for i, text in enumerate(corpus.texts) if control.search(text)}
    with_role = {i for i, text in enumerate(corpus.texts) if ":" in text and ROLE_MARKER.search(text)}
    broken = {i for i, text in enumerate(corpus.texts) if not text.isascii() and BROKEN_TEXT.search(text)}

    def holding(texts: set[int], *, plain_prompts: bool = True) -> list[Row]:
        return [
            row
            for row in corpus.rows
            if not texts.isdisjoint(row.answers)
            or (row.prompt in texts and (plain_prompts or not isinstance(row.group.prompt, str)))
        ]

    return (
        _finding(
            "control tokens in text",
            "warn",
            holding(with_control),
            "rows hold text that tokenizers turn into control tokens, such as <|im_end|> or </s>",
            "Remove it: it can end a turn early or forge one, and answers rewarded for it are hacked.",
        )
        + _finding(
            "role markers in text",
            "info",
            holding(with_role, plain_prompts=False),
            "rows have a line that starts like a turn (Human:, ### Response:) inside a turn",
            "Check that dialogues were divided into turns, and that answers do not go on by themselves.",
        )
        + _finding(
            "broken characters",
            "info",
            holding(broken),
            "rows hold replacement characters or wrongly decoded text",
            "Read the source again as UTF-8.",
        )
    )
