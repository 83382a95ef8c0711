"""Evaluation: how well rewards agree with raters, measured on comparisons the model was not trained on.

Knows of a reward model only the numbers it gave. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdtrue.evaluation import aspects as by_aspect
from holdtrue.evaluation import baselines, best_of_n, calibration, pointwise, slices
from holdtrue.evaluation.accuracy import interval, score
from holdtrue.evaluation.bag_of_words import BagOfWords
from holdtrue.evaluation.pairs import Floats, Ints, Pairs, collect, finite
from holdtrue.records import Group
from holdtrue.settings import EvaluationSettings

_HISTOGRAM_BINS = 30
_MOST_POINTS = 2000
_MOST_MISTAKES = 20
_LONGEST_TEXT = 4000
NOT_FINITE = "no finite reward"


def evaluate(
    groups: Sequence[Group],
    rewards: Sequence[NDArray[np.floating]],
    settings: EvaluationSettings,
    name: str,
    unscored: Mapping[str, int],
    bag_of_words: BagOfWords | str = "no training pairs are at hand",
    aspects: Mapping[str, Sequence[NDArray[np.floating]]] | None = None,
) -> dict[str, Any]:
    """Everything measured on one data set, as one JSON object. Deterministic.

    ``count`` comparisons that raters decided give ``accuracy`` (unweighted; a tie in rewards counts 0.5
    and is counted in ``ties``), the accuracy of ``baselines`` and the slices. Comparisons that raters
    tied (``label_ties``) join only the calibration. Groups of 3 answers or more with a rating give
    ``best_of_n``. A number that is undefined, such as the accuracy of no comparison, is None.

    ``labels`` and ``ratings`` measure single answers against what raters said of them, where they did.

    Args:
        groups: prompts with answers and comparisons.
        rewards: for each group (N answers,), NaN where an answer could not be scored.
        settings: slices, bins, level of the intervals.
        name: what the data set is called.
        unscored: answers without a reward, by reason. Those no reason accounts for are counted
            as ``no finite reward``.
        bag_of_words: the baseline fitted on the model's training pairs, or why there is none.
        aspects: by name what rewards were made of, in their shape; each one that answers are rated in gets a
            row in ``aspects`` (:mod:`holdtrue.evaluation.aspects`).

    Raises:
        SettingsError: a slice names a column that no row has.
        ValueError: rewards and groups do not match.
    """
    parts = {key: finite(columns) for key, columns in (aspects or {}).items()}
    shapes = [(len(group.answers),) for group in groups]
    if [np.shape(row) for row in rewards] != shapes:
        raise ValueError(f"{name}: each group needs one reward per answer")
    scored = finite(rewards)
    lengths = [np.array([len(answer.text) for answer in group.answers], dtype=np.int64) for group in groups]
    pairs = collect(groups, scored, lengths)
    decided = pairs.take(pairs.decided)
    rules = baselines.measure(decided, groups, bag_of_words, settings.confidence)
    longer = rules["longer_answer"]
    all_rewards, all_lengths = np.concatenate(scored), np.concatenate(lengths)
    known = ~np.isnan(all_rewards)
    return {
        "data": name,
        **_measure_accuracy(decided, settings.confidence),
        "longer_answer_accuracy": longer["accuracy"],
        "longer_answer_interval": longer["interval"],
        "advantage_interval": longer["advantage_interval"],
        "baselines": rules,
        "best_of_n": best_of_n.measure(groups, scored, lengths, settings.confidence),
        "label_ties": len(pairs) - len(decided),
        **_measure_calibration(pairs, settings),
        "slices": slices.by_column(decided, groups, settings.slices, settings.confidence),
        "length_gap": slices.by_length_gap(decided, settings.confidence),
        "length_correlation": slices.length_correlation(all_lengths[known], all_rewards[known], pairs),
        "answers": len(all_rewards),
        "reward": _describe(all_rewards[known]),
        "histogram": _histogram(groups, scored, decided),
        "margins": _margins(decided.gap),
        "aspects": by_aspect.measure(groups, parts, settings.confidence) if parts else None,
        "points": _points(scored, lengths, decided),
        "mistakes": _mistakes(groups, scored, decided, parts),
        "labels": pointwise.labels(groups, scored, settings.confidence),
        "ratings": pointwise.ratings(groups, scored),
        "unscored": _reasons(unscored, int((~known).sum())),
        "unscored_comparisons": pairs.unscored,
    }


def _measure_accuracy(pairs: Pairs, confidence: float) -> dict[str, Any]:
    measured: dict[str, Any] = {
        "accuracy": None,
        "interval": None,
        "interval_method": None,
        "confidence": confidence,
        "count": len(pairs),
        "prompts": len(np.unique(pairs.prompt)),
        "ties": int((pairs.gap == 0).sum()),
    }
    if not len(pairs):
        return measured
    ours = score(pairs.gap)
    low, high, method = interval(ours, pairs.prompt, confidence)
    return measured | {
        "accuracy": float(ours.mean()),
        "interval": [low, high],
        "interval_method": method,
    }


def _measure_calibration(pairs: Pairs, settings: EvaluationSettings) -> dict[str, Any]:
    if not len(pairs):
        nothing = dict.fromkeys(("loss", "ece", "brier", "temperature"))
        return {**nothing, "temperature_bounded": False, "reliability": []}
    size, outcome = calibration.favourite(pairs)
    table = calibration.reliability(size, outcome, settings.bins, settings.confidence)
    temperature, bounded = calibration.fit_temperature(size, outcome)
    return {
        "loss": calibration.log_loss(size, outcome),
        "ece": calibration.ece(table),
        "brier": calibration.brier(size, outcome),
        "temperature": temperature,
        "temperature_bounded": bounded,
        "reliability": table,
    }


def _describe(rewards: Floats) -> dict[str, float | None]:
    if not len(rewards):
        return dict.fromkeys(("mean", "std", "min", "max"))
    return {
        "mean": float(rewards.mean()),
        "std": float(rewards.std()),
        "min": float(rewards.min()),
        "max": float(rewards.max()),
    }


def _histogram(groups: Sequence[Group], rewards: Sequence[Floats], pairs: Pairs) -> dict[str, list[Any]]:
    """Rewards of preferred and other answers, one entry per decided comparison, over the same bins."""
    chosen = np.array([rewards[g][i] for g, i in zip(pairs.group, pairs.preferred, strict=True)])
    rejected = np.array([rewards[g][i] for g, i in zip(pairs.group, pairs.other, strict=True)])
    edges = _edges(np.concatenate([chosen, rejected]))
    return {
        "edges": edges.tolist(),
        "chosen": np.histogram(chosen, edges)[0].tolist() if len(edges) else [],
        "rejected": np.histogram(rejected, edges)[0].tolist() if len(edges) else [],
    }


def _edges(values: Floats) -> Floats:
    if not len(values):
        return np.array([])
    low, high = float(values.min()), float(values.max())
    # A range too narrow to be divided in floating point gets one bin around it.
    edges = np.linspace(low, high, _HISTOGRAM_BINS + 1)
    if np.all(np.diff(edges) > 0):
        return edges
    room = max(abs(low), 1.0) * 1e-3
    return np.array([low - room, high + room])


def _margins(gap: Floats) -> dict[str, list[Any]]:
    """Histogram of the gaps with an edge at 0, so that no bar mixes right and wrong.

    Bars are [low, high); ties, which are neither, stand in the bar that begins at 0.
    """
    if not len(gap):
        return {"edges": [], "counts": []}
    low, high = min(0.0, float(gap.min())), max(0.0, float(gap.max()))
    width = (high - low) / _HISTOGRAM_BINS
    if not (width > 0 and np.isfinite(1 / width)):
        return {"edges": [0.0, 1.0], "counts": [len(gap)]}
    first, last = int(np.floor(low / width)), int(np.floor(high / width)) + 1
    bars = np.clip(np.floor(gap / width).astype(np.int64), first, last - 1)
    counts = np.bincount(bars - first, minlength=last - first)
    return {"edges": (np.arange(first, last + 1) * width).tolist(), "counts": counts.tolist()}


def _points(rewards: Sequence[Floats], lengths: Sequence[Ints], pairs: Pairs) -> list[list[Any]]:
    """[length, reward, is preferred] of answers, evenly thinned out to 2000."""
    places = zip(pairs.group.tolist(), pairs.preferred.tolist(), pairs.other.tolist(), strict=True)
    seen = dict.fromkeys(
        (g, i, right) for g, good, bad in places for i, right in ((good, True), (bad, False))
    )
    kept = list(seen)
    if len(kept) > _MOST_POINTS:
        kept = [kept[i] for i in np.linspace(0, len(kept) - 1, _MOST_POINTS).round().astype(int)]
    return [[int(lengths[g][i]), float(f"{rewards[g][i]:.6g}"), right] for g, i, right in kept]


def _mistakes(
    groups: Sequence[Group],
    rewards: Sequence[Floats],
    pairs: Pairs,
    aspects: Mapping[str, Sequence[Floats]],
) -> list[dict[str, Any]]:
    """The comparisons with the largest gap the wrong way, worst first; the preferred answer's index first."""
    worst = [row for row in np.argsort(pairs.gap, kind="stable")[:_MOST_MISTAKES] if pairs.gap[row] < 0]
    table = []
    for row in worst:
        index, i, j = int(pairs.group[row]), int(pairs.preferred[row]), int(pairs.other[row])
        group = groups[index]
        values = {name: [float(columns[index][k]) for k in (i, j)] for name, columns in aspects.items()}
        table.append(
            {
                "group": index,
                "answers": [i, j],
                "prompt": _cut(group.prompt_text),
                "chosen": _cut(group.answers[i].text),
                "rejected": _cut(group.answers[j].text),
                "reward_chosen": float(rewards[index][i]),
                "reward_rejected": float(rewards[index][j]),
                "gap": float(pairs.gap[row]),
                "file": group.source.file if group.source else None,
                "line": group.source.line if group.source else None,
                **({"aspects": values} if values else {}),
            }
        )
    return table


def _cut(text: str) -> str:
    if len(text) <= _LONGEST_TEXT:
        return text
    return f"{text[:_LONGEST_TEXT]} [… {len(text) - _LONGEST_TEXT} more characters]"


def _reasons(given: Mapping[str, int], missing: int) -> dict[str, int]:
    reasons = {reason: int(count) for reason, count in given.items() if count}
    unexplained = missing - sum(reasons.values())
    if unexplained > 0:
        reasons[NOT_FINITE] = reasons.get(NOT_FINITE, 0) + unexplained
    return reasons
