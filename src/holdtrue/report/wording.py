"""What the numbers of a run mean, in plain sentences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def percent(value: float) -> str:
    """0.6134 as ``61.3%``."""
    return f"{100 * value:.1f}%"


def span(bounds: Sequence[float]) -> str:
    """An interval of proportions as ``57.1–65.3%``."""
    return f"{100 * bounds[0]:.1f}–{100 * bounds[1]:.1f}%"


def lead(bounds: Sequence[float]) -> str:
    """An interval of a difference of proportions as ``−1.2 to +3.4 points``."""
    low, high = (f"{100 * bound:+.1f}".replace("-", "−") for bound in bounds)
    return f"{low} to {high} points"


def number(value: float | None) -> str:
    """Three significant digits, with a minus sign that is as wide as a plus."""
    if value is None:
        return "undefined"
    return f"{value:.3g}".replace("-", "−")


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign: ``−1.2``."""
    return signed(100 * difference, 1)


def signed(value: float, digits: int = 4) -> str:
    """A difference with its sign, the minus as wide as the plus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def measured(found: Mapping[str, Any] | None, sign: bool = False) -> str:
    """A mean with its interval."""
    if not found or found["mean"] is None:
        return "–"
    form = "{:+.2f}" if sign else "{:.2f}"
    if not found["interval"]:
        return form.format(found["mean"])
    low, high = found["interval"]
    return f"{form.format(found['mean'])} [{form.format(low)}, {form.format(high)}]"


def setting(value: Any) -> str:
    """A setting's value, numbers to four digits."""
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def ways(how: Mapping[str, Any]) -> list[str]:
    """How a remedy is carried out, a line for each engine: a command, or settings as in one line of YAML."""
    lines = []
    for engine, way in how.items():
        told = (
            way
            if isinstance(way, str)
            else ", ".join(f"{key}: {json.dumps(one)}" for key, one in way.items())
        )
        lines.append(f"{engine}: {told}")
    return lines


def many(count: int, one: str, more: str | None = None) -> str:
    """``1 pair``, ``1,200 pairs``."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def duration(seconds: float) -> str:
    """Seconds as ``48 s``, ``12 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


ENDS = {
    "stop": "ended by an end token",
    "length": "cut at the longest length",
    "loop": "ended as it looped",
    "control": "ended at a control token",
}
"""How an answer ended, by the word the engine has for it."""
BASELINES = {
    "longer_answer": "picking the longer answer",
    "shorter_answer": "picking the shorter answer",
    "bag_of_words": "a bag of words",
}
"""What each baseline does, in words."""


def strongest(result: Row) -> tuple[str, Row]:
    """Name and numbers of the baseline with the highest accuracy, the first of equal ones."""
    measured = {name: row for name, row in result["baselines"].items() if row["accuracy"] is not None}
    name = max(measured, key=lambda name: measured[name]["accuracy"])
    return name, measured[name]


def headline(result: Row) -> str:
    """The one number, beside what the best rule without any model would get."""
    if result["accuracy"] is None:
        return _of_single_answers(result) or f"On {result['data']} nothing could be measured."
    name, rule = strongest(result)
    return (
        f"It picks the preferred answer in {percent(result['accuracy'])} of "
        f"{many(result['count'], 'comparison')} ({span(result['interval'])}); "
        f"{BASELINES[name]} gets {percent(rule['accuracy'])} ({span(rule['interval'])})."
    )


def _of_single_answers(result: Row) -> str | None:
    """The one number where nothing could be compared: how well it follows what raters said of answers."""
    for key, what, unit in (
        ("labels", "good answers from bad ones", "answer"),
        ("steps", "right steps from wrong ones", "step"),
    ):
        found = result.get(key)
        if found and found["auc"] is not None:
            low, high = found["auc_interval"]
            return (
                f"It tells {what} with an AUC of {found['auc']:.3f} ({low:.3f}–{high:.3f}; 0.5 is chance), "
                f"measured on {many(found['count'], unit)}."
            )
    ratings = result.get("ratings")
    if ratings and ratings["pearson"] is not None:
        count = many(ratings["count"], "answer")
        return f"Its rewards correlate with the ratings of {count} by {number(ratings['pearson'])} (Pearson)."
    rows = (result.get("aspects") or {}).values()
    follow = sorted(row["pearson"] for row in rows if row.get("pearson") is not None)
    if follow:
        spread = number(follow[0]) + (f" to {number(follow[-1])}" if len(follow) > 1 else "")
        return f"Aspect by aspect its numbers correlate with the ratings by {spread} (Pearson)."
    return None


def reading(result: Row) -> str:
    """What the headline means for somebody who wants to use the model."""
    if result["accuracy"] is None:
        if not (result["unscored_comparisons"] or result["label_ties"]) and _of_single_answers(result):
            return "The data compares no answers, so there is no accuracy."
        return (
            f"No comparison that raters decided has a reward on both sides: "
            f"{result['unscored_comparisons']} lack one, {result['label_ties']} are ties."
        )
    low, high = result["interval"]
    if high < 0.5:
        return "That is worse than a coin flip: check whether chosen and rejected are swapped."
    if low <= 0.5:
        return (
            "The interval reaches a coin flip, so these comparisons do not show that it has learned anything."
        )
    name, rule = strongest(result)
    advantage = rule["advantage_interval"]
    if advantage is None:
        return (
            f"It is better than a coin flip; there are too few prompts to set it against {BASELINES[name]}."
        )
    if advantage[0] > 0:
        return f"It is better than a coin flip, and better than {BASELINES[name]}, the best rule without it."
    if advantage[1] < 0:
        return f"It is better than a coin flip, but {BASELINES[name]} would do better."
    return f"It is better than a coin flip, but not clearly better than {BASELINES[name]}."


def single_answers(result: Row) -> Iterator[tuple[str, list[tuple[str, str, str]], str]]:
    """(of what, (measure, value, interval) each, of how many) for what raters said of single answers."""
    for key, good, unit in (("labels", "good", "answer"), ("steps", "right_steps", "step")):
        found = result.get(key)
        if found:
            rows = [("right at 0", percent(found["right_at_zero"]), span(found["right_at_zero_interval"]))]
            if found["auc"] is not None:
                low, high = found["auc_interval"]
                rows.insert(0, ("AUC", f"{found['auc']:.3f}", f"{low:.3f}–{high:.3f}"))
            of = f"{many(found['count'], unit)}, {found[good]:,} {'good' if key == 'labels' else 'right'}"
            unmatched = found.get("unmatched")
            yield key, rows, f"{of}; {unmatched:,} judged where the model reads no step" if unmatched else of
    ratings = result.get("ratings")
    if ratings:
        names = {"pearson": "Pearson", "spearman": "Spearman", "within_prompts": "Pearson within prompts"}
        rows = [(words, number(ratings[name]), "") for name, words in names.items()]
        rows.append(("root mean squared error", number(ratings["rmse"]), ""))
        yield "ratings", rows, many(ratings["count"], "answer")


def best_of_n(best: Row) -> str:
    """What the best-of-n curve shows, by its last point."""
    last = best["curve"][-1]
    rated = [number(last[key]) for key in ("rating", "random", "oracle")]
    lists = f"{many(best['groups'], 'list')} of answers to {many(best['prompts'], 'prompt')}"
    left_out = f"; {best['left_out']:,} with fewer are left out" if best["left_out"] else ""
    return (
        f"Of {last['n']} answers, the one with the highest reward is rated {rated[0]} on average, a random "
        f"one {rated[1]}, the best one {rated[2]}{_lead(last)}. Exact over all draws from {lists}{left_out}."
    )


def _lead(last: Row) -> str:
    lead = last["lead_interval"]
    if lead is None:
        return ""
    if lead[0] > 0:
        return ": better than picking at random"
    return ": worse than picking at random" if lead[1] < 0 else ": not clearly better than picking at random"


def calibration(result: Row) -> str:
    """What the reliability diagram shows."""
    temperature = result["temperature"]
    if temperature is None:
        return "All rewards of a pair are equal, so there is nothing to calibrate."
    if result["temperature_bounded"]:
        return (
            "Dividing the gaps by any number does not calibrate them: the best one lies at the end of the "
            f"range searched ({temperature:.3g}), since the ordering is perfect or no better than chance."
        )
    if temperature > 1.1:
        how = "Too sure of itself: dividing its rewards by"
    elif temperature < 0.9:
        how = "Not sure enough of itself: dividing its rewards by"
    else:
        how = "About as sure as it should be; dividing its rewards by"
    return f"{how} {temperature:.3g} calibrates them best."


def slices(result: Row, rows: int, most: int) -> str:
    """What the chart of slices shows; it has room for ``most`` rows, the whole data set being one."""
    level = f"With {100 * result['confidence']:g}% intervals."
    what = "Lengths are of the preferred answer against the other, in characters."
    cut = f" The first {most - 1} of {rows} rows; the table below has all." if rows >= most else ""
    return f"{level} {what}{cut}"


def notes(info: Row, metrics: Sequence[Row], evaluation: Row | None) -> list[str]:
    """What a reader has to know before trusting the page: what is missing, unfinished or went wrong."""
    said = []
    status = info.get("status")
    if not info:
        said.append("The run left no run.json: it ended before training began, or was made by hand.")
    elif status != "finished":
        words = {
            "running": "The run is still going on, or was killed",
            "interrupted": "The run was interrupted and can be resumed",
            "failed": "The run failed",
            "pruned": "The run was stopped early, as other trials of its sweep did better",
        }
        state = words.get(str(status), f"The state of the run is not known ({status})")
        said.append(f"{state}: this page shows what there is so far.")
    if info.get("stopped_early"):
        said.append("Training stopped early because validation no longer improved.")
    train = [row for row in metrics if row.get("event") == "train"]
    if info.get("fit"):
        said.append("The head was fitted in closed form, so there are no training steps.")
    elif not train:
        said.append("No training step was logged, so there are no curves.")
    elif not any(row.get("event") == "eval" for row in metrics):
        said.append("The run was not validated while training, so the curves show training data only.")
    skipped = max((row.get("skipped") or 0 for row in train), default=0)
    if skipped:
        steps = many(skipped, "step")
        said.append(
            f"{steps} had a non-finite loss or gradient and {'was' if skipped == 1 else 'were'} skipped."
        )
    reason = info.get("model", {}).get("layout_reason")
    if reason:
        said.append(f"Batches were padded instead of sharing prompts: {reason}.")
    if evaluation is None:
        said.append(
            "The model has not been evaluated yet: run “holdtrue evaluate”, then make the report again."
        )
    elif _differ(evaluation.get("model_hash"), info.get("model_hash")):
        said.append("The evaluation is of another model than the one in this run: evaluate again.")
    return said


def _differ(first: Any, second: Any) -> bool:
    return bool(first and second and first != second)
