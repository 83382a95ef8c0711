"""Audit: what is worth knowing of preference data before anyone pays for training on it.

Counts, lengths, duplicates, leakage between training and evaluation data, contradictions, length
bias, control tokens inside the text, and what a tokenizer and ``max_length`` would drop or cut.
Linear in the size of the data; near duplicates are explained in :mod:`holdtrue.data.near`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from holdtrue.data import checks
from holdtrue.data.checks import Finding, Severity, TokenCounts
from holdtrue.data.corpus import Row, gather, quantiles
from holdtrue.data.reader import ReadReport
from holdtrue.intervals import wilson
from holdtrue.records import Group

SEVERITIES: tuple[Severity, ...] = ("fail", "warn", "info")


@dataclass
class Audit:
    """What the audit measured, by split (``train``, and ``eval`` when given), and what it found.

    Attributes:
        counts: rows, kept, rejected and repaired by reason, prompts, answers, comparisons, ties.
        lengths: quantiles of characters (and tokens, when they were counted).
        longer_answer: accuracy of "the longer answer wins" with its 95 % Wilson interval.
        fit: what ``max_length`` tokens hold; null without a tokenizer.
        findings: the worst first.
    """

    files: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    lengths: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    longer_answer: dict[str, dict[str, Any]] = field(default_factory=dict)
    fit: dict[str, dict[str, Any]] | None = None
    findings: list[Finding] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """True when something was found that makes results worthless (leaked evaluation rows)."""
        return any(finding.severity == "fail" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Plain values, finite numbers only."""
        return asdict(self) | {"failed": self.failed}


def audit(
    train: Sequence[Group],
    eval_groups: Sequence[Group] = (),
    *,
    read: ReadReport | None = None,
    eval_read: ReadReport | None = None,
    count_tokens: TokenCounts | None = None,
    max_length: int | None = None,
    control_tokens: Iterable[str] = (),
) -> Audit:
    """Audit training data, and evaluation data against it when given.

    Args:
        read, eval_read: the reader's reports, for the rows that gave no group.
        count_tokens: counts tokens as training will; with ``max_length``, says what does not fit.
        control_tokens: special tokens of the model besides the well-known ones.
    """
    splits = {"train": (train, read)} | (
        {"eval": (eval_groups, eval_read)} if eval_groups or eval_read else {}
    )
    corpus = gather({name: groups for name, (groups, _) in splits.items()})
    result = Audit(fit=None if count_tokens is None else {})
    for name, (groups, report) in splits.items():
        result.files += [{"split": name, **file} for file in report.files] if report else []
        result.counts[name] = _counts(corpus.split(name), report)
        result.lengths[name] = _lengths(groups)
        result.longer_answer[name] = longer_answer(groups)
        if report:
            result.findings += checks.reading(report, name)
        result.findings += checks.length_bias(result.longer_answer[name], name)
        result.findings += checks.few_prompts(result.counts[name], name)
        if count_tokens is not None and result.fit is not None:
            fit, found = checks.fit(groups, name, count_tokens, max_length)
            result.fit[name] = fit
            result.findings += found
            result.lengths[name]["tokens"] = fit.pop("tokens")
    result.findings += checks.rows(corpus, control_tokens)
    result.findings.sort(key=lambda finding: (SEVERITIES.index(finding.severity), -finding.count))
    return result


def longer_answer(groups: Iterable[Group]) -> dict[str, Any]:
    """Accuracy of "the longer answer (in characters) is preferred", with its 95 % Wilson interval.

    Answers of equal length count 0.5; comparisons that are ties are left out.
    """
    right, count, equal = 0.0, 0, 0
    for group in groups:
        sizes = [len(answer.text) for answer in group.answers]
        for comparison in group.comparisons:
            if comparison.preferred is None:
                continue
            better, worse = comparison.preferred
            gap = sizes[better] - sizes[worse]
            count += 1
            equal += gap == 0
            right += 0.5 if gap == 0 else float(gap > 0)
    if not count:
        return {"accuracy": None, "interval": None, "count": 0, "equal": 0}
    return {
        "accuracy": right / count,
        "interval": list(wilson(right, count)),
        "count": count,
        "equal": equal,
    }


def _counts(rows: Sequence[Row], report: ReadReport | None) -> dict[str, Any]:
    comparisons = [comparison for row in rows for comparison in row.group.comparisons]
    return {
        "rows": report.rows if report else len(rows),
        "kept": len(rows),
        "rejected": dict(report.rejected.most_common()) if report else {},
        "repaired": dict(report.repaired.most_common()) if report else {},
        "prompts": len({row.prompt for row in rows}),
        "answers": sum(len(row.answers) for row in rows),
        "comparisons": len(comparisons),
        "ties": sum(c.preferred is None for c in comparisons),
        "soft_labels": sum(c.label not in (0.0, 0.5, 1.0) for c in comparisons),
        "margins": sum(c.margin is not None for c in comparisons),
        "turns": {str(n): k for n, k in sorted(Counter(_turns(row.group) for row in rows).items())},
    }


def _turns(group: Group) -> int:
    """Turns of the prompt; 0 for plain text."""
    return 0 if isinstance(group.prompt, str) else len(group.prompt)


def _lengths(groups: Sequence[Group]) -> dict[str, dict[str, float]]:
    lengths: dict[str, list[int]] = {"prompt": [], "preferred": [], "other": [], "answer": []}
    for group in groups:
        lengths["prompt"].append(len(group.prompt_text))
        sizes = [len(answer.text) for answer in group.answers]
        if not group.comparisons:
            lengths["answer"] += sizes
        for c in group.comparisons:
            if c.preferred is not None:
                for side, answer in zip(("preferred", "other"), c.preferred, strict=True):
                    lengths[side].append(sizes[answer])
    return {name: quantiles(values) for name, values in lengths.items() if values}
