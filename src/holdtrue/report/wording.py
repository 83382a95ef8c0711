"""What the numbers of a run mean, in plain sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def percent(value: float) -> str:
    """0.6134 as ``61.3%``."""
    return f"{100 * value:.1f}%"


def span(bounds: Sequence[float]) -> str:
    """An interval of proportions as ``57.1–65.3%``."""
    return f"{100 * bounds[0]:.1f}–{100 * bounds[1]:.1f}%"


def number(value: float | None) -> str:
    """Three significant digits, with a minus sign that is as wide as a plus."""
    if value is None:
        return "undefined"
    return f"{value:.3g}".replace("-", "−")


def many(count: int, one: str, more: str | None = None) -> str:
    """``1 pair``, ``1,200 pairs``."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def duration(seconds: float) -> str:
    """Seconds as ``48 s``, ``12 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def headline(result: Row) -> str:
    """The one number, beside what a rule without any model would get."""
    if result["accuracy"] is None:
        return f"On {result['data']} nothing could be measured."
    longer, bounds = result["longer_answer_accuracy"], result["longer_answer_interval"]
    return (
        f"It picks the preferred answer in {percent(result['accuracy'])} of "
        f"{many(result['count'], 'comparison')} ({span(result['interval'])}); "
        f"always picking the longer answer gets {percent(longer)} ({span(bounds)})."
    )


def reading(result: Row) -> str:
    """What the headline means for somebody who wants to use the model."""
    if result["accuracy"] is None:
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
    advantage = result["advantage_interval"]
    if advantage is None:
        return "It is better than a coin flip; there are too few prompts to set it against the longer answer."
    if advantage[0] > 0:
        return "It is better than a coin flip, and better than length alone can explain."
    if advantage[1] < 0:
        return "It is better than a coin flip, but simply picking the longer answer would do better."
    return "It is better than a coin flip, but not clearly better than picking the longer answer."


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
