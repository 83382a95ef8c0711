"""Accuracy by metadata column and by length gap, and how rewards go with length."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from holdtrue.correlation import pearson, ranks
from holdtrue.errors import SettingsError, unknown
from holdtrue.evaluation.accuracy import interval, score
from holdtrue.evaluation.pairs import Bools, Floats, Ints, Pairs
from holdtrue.records import Group

MISSING = "(missing)"
_MOST_VALUES = 20


def by_column(
    pairs: Pairs, groups: Sequence[Group], columns: Sequence[str], confidence: float
) -> dict[str, list[dict[str, Any]]]:
    """Accuracy of the decided comparisons for each value of metadata columns, most frequent value first.

    Without ``columns``: every column of plain values that takes 2 to 20 of them, fewer than there are
    comparisons (a column that differs in every row is a name, not a slice).

    Raises:
        SettingsError: a named column that no row has.
    """
    metas = [groups[index].meta for index in pairs.group]
    known = dict.fromkeys(key for group in groups for key in group.meta)
    tables = {}
    for name, parts in split(metas, columns, known).items():
        rows = [{"value": value} | _measure(pairs, part, confidence) for value, part in parts.items()]
        tables[name] = sorted(rows, key=lambda row: (-row["count"], row["value"]))
    return tables


def split(
    metas: Sequence[Mapping[str, Any]], columns: Sequence[str], known: Iterable[str]
) -> dict[str, dict[str, Bools]]:
    """By column and value the rows (N,) that have it, columns chosen as :func:`by_column` says.

    Raises:
        SettingsError: a column is named that is not among the known.
    """
    known = dict.fromkeys(known)
    for name in columns:
        if name not in known:
            raise SettingsError(unknown("slice", name, known) if known else _no_columns(name))
    found = {}
    for name in columns or known:
        values = [meta.get(name) for meta in metas]
        plain = not any(isinstance(value, dict | list | tuple) for value in values)
        column = np.array([_as_text(value) for value in values], dtype=object)
        distinct = dict.fromkeys(column)
        if columns or (plain and 2 <= len(distinct) <= min(_MOST_VALUES, len(metas) - 1)):
            found[name] = {value: np.asarray(column == value) for value in distinct}
    return found


def by_length_gap(pairs: Pairs, confidence: float) -> list[dict[str, Any]]:
    """Accuracy by how many characters longer the preferred answer is, shortest first.

    Equal lengths are one bucket; on either side of it are three, bounded by the terciles of the
    distance: (low, high] above zero, [low, high) below, None where there is no bound.
    """
    distance = np.abs(pairs.length_gap)
    apart = distance[distance > 0]
    bounds = np.unique(np.ceil(np.quantile(apart, [1 / 3, 2 / 3]))) if len(apart) else apart
    edges: list[float | None] = [0.0, *bounds.tolist(), None]
    bucket = np.sign(pairs.length_gap) * (1 + np.searchsorted(bounds, distance, side="left"))
    table = []
    for index in np.unique(bucket).astype(int):
        near, far = (edges[abs(index) - 1], edges[abs(index)]) if index else (0.0, 0.0)
        low, high = (near, far) if index >= 0 else (_negative(far), _negative(near))
        table.append({"low": low, "high": high} | _measure(pairs, bucket == index, confidence))
    return table


def length_correlation(lengths: Ints, rewards: Floats, pairs: Pairs) -> dict[str, float | None]:
    """Correlation of reward with length in characters; None where it is undefined.

    ``pearson`` and ``spearman`` are over all scored answers (N,). The ``within_pairs`` ones are between
    reward gap and length gap, each comparison taken in both orders, so that they do not depend on
    which answer stands first; they leave out what differs between prompts.
    """
    gaps = np.concatenate([pairs.gap, -pairs.gap])
    length_gaps = np.concatenate([pairs.length_gap, -pairs.length_gap])
    return {
        "pearson": pearson(lengths, rewards),
        "spearman": pearson(ranks(lengths), ranks(rewards)),
        "within_pairs_pearson": pearson(length_gaps, gaps),
        "within_pairs_spearman": pearson(ranks(length_gaps), ranks(gaps)),
    }


def _measure(pairs: Pairs, rows: Bools, confidence: float) -> dict[str, Any]:
    scores = score(pairs.gap[rows])
    low, high, method = interval(scores, pairs.prompt[rows], confidence)
    return {
        "count": len(scores),
        "accuracy": float(scores.mean()),
        "interval": [low, high],
        "interval_method": method,
    }


def _negative(edge: float | None) -> float | None:
    return 0.0 - edge if edge is not None else None


def _as_text(value: Any) -> str:
    if value is None:
        return MISSING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _no_columns(name: str) -> str:
    return f"slice {name!r} is not in the data: its rows have no other columns"
