"""What the numbers of a policy optimisation mean, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from holdtrue.intervals import student
from holdtrue.report import wording
from holdtrue.report.optimisation_course import Course, Row
from holdtrue.report.optimisation_figures import interval


@dataclass(frozen=True)
class Examined:
    """What the doctor found, empty where there is no answer yet.

    Attributes:
        by_step: in answers of steps from the first to the last.
        last: in answers of the last tenth of the steps up to the policy that was kept.
    """

    by_step: Mapping[str, Any]
    last: Mapping[str, Any]

    @property
    def rates(self) -> dict[str, Any]:
        """Step -> the share of degenerate answers."""
        return dict(self.by_step["rates"]["degenerate"]["by_step"]) if self.by_step else {}

    @property
    def ends(self) -> tuple[Row | None, Row | None]:
        """The shares of degenerate answers before the first step, and in the last ones."""
        return self.rates.get("0"), self.last["rates"]["degenerate"] if self.last else None

    @property
    def signals(self) -> list[Row]:
        """What is wrong with the last answers together."""
        return [one for one in self.last["signals"] if one["severity"] != "ok"] if self.last else []


def headline(course: Course) -> str:
    """From where to where the reward went, with an interval over prompts, and how far the policy is from its
    reference."""
    if not course.steps:
        return "No step stands: alarms took all of them back." if course.total else "No step is finished."
    start, end = course.rewards
    count, kl = wording.many(len(course.steps), "step"), course.mean("kl")
    drift = "" if kl is None else f"; the policy is {wording.number(kl)} nats from its reference"
    if not start or not end:
        return f"After {count} the reward is {wording.number(course.mean('reward'))}{drift}."
    if {round(fmean(values), 6) for values in (start, end)} == {0.5}:
        return (
            f"The reward compares answers to a prompt, so it is always ½ on average, in all {count}{drift}."
        )
    return f"{_change(start, end)} in {count}{drift}."


def _change(start: Sequence[float], end: Sequence[float]) -> str:
    """Rose, fell, or not shown to have changed: by the 95 % interval of the difference of means."""
    means = [wording.number(fmean(values)) for values in (start, end)]
    difference = fmean(end) - fmean(start)
    if min(len(start), len(end)) < 2:
        return f"The reward went from {means[0]} to {means[1]} (one prompt, so no interval)"
    # the half widths of two independent means add as their squares
    half = sum((student(values)[1] - fmean(values)) ** 2 for values in (start, end)) ** 0.5
    middle, low, high = (f"{difference + side * half:+.3g}".replace("-", "−") for side in (0, -1, 1))
    span = f"{middle}, 95% interval {low} to {high}"
    if abs(difference) <= half:
        return f"The reward is not shown to have changed: {means[0]} to {means[1]} ({span})"
    return f"The reward {'rose' if difference > 0 else 'fell'} from {means[0]} to {means[1]} ({span})"


def trust(course: Course, examined: Examined) -> str:
    """Whether the number on top may be believed, and why not."""
    if not course.steps:
        return ""
    grave: dict[str, int] = {}
    for row in course.alarms:
        if row["severity"] == "fail":
            grave.setdefault(row["cause"], row["onset_step"])
    causes = ", ".join(f"{cause} since step {step:,}" for cause, step in grave.items())
    against = [f"grave alarms stand ({causes})"] if grave else []
    first, last = examined.ends
    if first and last and last["interval"][0] > first["interval"][1]:
        against.append(f"{_degenerate(last)} of answers are degenerate, against {_degenerate(first)} before")
    against += [f"the doctor finds {one['id']}" for one in examined.signals if one["severity"] == "fail"]
    if against:
        return f"Do not trust it before reading the answers: {'; '.join(against)}."
    if not (first and last):
        return "No grave alarm stands."
    return (
        f"No grave alarm stands; the doctor finds {_degenerate(last)} of answers degenerate, and "
        f"{_degenerate(first)} of those before the first step."
    )


def _degenerate(one: Mapping[str, Any]) -> str:
    return f"{wording.percent(one['rate'])} ({wording.span(one['interval'])})"


def held_out(course: Course) -> str:
    """How the reward went on prompts that were not trained on."""
    if not course.steps:
        return ""
    if course.held_out is None:
        return "No evaluation on held-out prompts: the reward is known on prompts that were trained on alone."
    rows = {row["step"]: row for row in (course.evaluations[0], course.held_out)}
    way = (f"{wording.number(row['reward'])} ({_bounds(row)}) at step {step:,}" for step, row in rows.items())
    return f"On held-out prompts the reward is {', then '.join(way)}."


def _bounds(row: Row) -> str:
    low, high = (wording.number(bound) for bound in interval(row))
    return f"{low} to {high}"


def notes(course: Course) -> Iterator[str]:
    """What is unfinished or went wrong with the run itself."""
    status, path = course.info.get("status"), course.path
    if status == "running":
        yield "The run is still going on, or was killed: this page shows what there is so far."
    elif status == "failed" and not course.places:
        yield f"The run failed at its start ({course.info.get('error')}); mend that and start it again."
    elif status in ("interrupted", "failed"):
        how = "was interrupted" if status == "interrupted" else f"failed ({course.info.get('error')})"
        yield f"The run {how}; continue it with: holdtrue resume {path}"
    elif status != "finished":
        yield "The run did not begin: there is no word of it in run.json."
    for text in broken(course):
        yield f"{text}."
    if course.ended.get("stopped"):
        yield f"The run ended at an alarm: {course.ended['stopped']}."
    if course.ended.get("stopped_early"):
        yield "The run ended early, as the held-out score no longer rose (training.early_stopping_patience)."
    for row in course.rows:
        if row["event"] == "rollback" and row["text"] != course.ended.get("stopped"):
            yield f"{row['text']}."


def broken(course: Course) -> Iterator[str]:
    """How many lines of each file could not be read, and which."""
    for file, numbers in course.broken.items():
        lines = [f"{line:,}" for line in numbers[:5]] + ["..."] * (len(numbers) > 5)
        count, verb = wording.many(len(numbers), "line"), "is" if len(numbers) == 1 else "are"
        yield f"{file}: {count} could not be read and {verb} left out (line {', '.join(lines)})"


def advice(course: Course, examined: Examined) -> Iterator[str]:
    """What to do next, the gravest first."""
    told = set()
    for row in sorted(course.alarms, key=lambda row: row["severity"]):  # fail before warn
        if row["cause"] not in told:
            told.add(row["cause"])
            since = f"{row['cause']} since step {row['onset_step']:,}"
            yield f"{since}: {row['why']}. To do: {row['fix']}."
    for one in examined.signals:
        yield f"{one['id']}: {one['evidence']}. {one['why']} {one['fix']}"
    if course.steps and not course.settings["data"]["eval_fraction"]:
        yield "Hold prompts out (data.eval_fraction=0.1) to see the reward on others than those trained on."
    if course.ended:
        yield (
            "The reward is what was optimised, so it also rises while it is exploited. Judge the policy by "
            f"another one, on other prompts: holdtrue evaluate RM PROMPTS --policy {course.path}"
        )


def counts(course: Course) -> Iterator[tuple[str, str, str]]:
    """(what happened, answers, share) over all steps, those that were taken back with them."""
    steps = [row for row in course.rows if row["event"] == "train"]
    training, guard = course.settings["training"], course.settings["guard"]
    each = training["prompts_per_step"] * training["group"]
    total = each * len(steps)
    if not total:
        return
    ends = {why: round(sum(row[f"finish_{why}"] for row in steps) * each) for why in wording.ENDS}
    rows = [(wording.ENDS[why], count) for why, count in ends.items()]
    hits = ends["loop"] + ends["control"]
    rows.append(("left out of learning (guard, or no reward)", sum(row["excluded"] for row in steps)))
    rows.append(("without a reward", sum(row["nan_rewards"] for row in steps)))
    if guard["on_hit"] == "penalise":
        rows.append((f"penalised: reward {wording.number(guard['penalty'])} (guard.on_hit)", hits))
    if guard["no_end_reward"] is not None:
        said = f"reward {wording.number(guard['no_end_reward'])} for having no end (guard.no_end_reward)"
        rows.append((said, total - ends["stop"]))
    yield "answers", f"{total:,}", ""
    for what, count in rows:
        yield what, f"{count:,}", wording.percent(count / total)
    yield "updates skipped, not finite", f"{steps[-1]['skipped']:,}", ""
    yield "steps without an answer to learn from", f"{steps[-1]['unusable']:,}", ""


def tiles(course: Course, examined: Examined) -> Iterator[tuple[str, str, str]]:
    """(label, value, small print) of the key numbers beside the headline's."""
    if not course.steps:
        return
    if (row := course.held_out) is not None:
        yield "Held-out reward", wording.number(row["reward"]), f"{_bounds(row)}, step {row['step']:,}"
    if (kl := course.mean("kl")) is not None:
        yield "KL", wording.number(kl), "nats per answer, from the reference"
    first, last = examined.ends
    if last:
        before = f"; {wording.percent(first['rate'])} before the first step" if first else ""
        yield "Degenerate", wording.percent(last["rate"]), f"{wording.span(last['interval'])}{before}"
    grave = sum(row["severity"] == "fail" for row in course.findings)
    yield "Alarms", f"{len(course.findings):,}", f"{grave:,} of them grave"
    kept = course.ended["kept"]["why"] if course.ended else "the newest"
    yield "Kept", f"step {course.kept:,}", f"of {course.total:,}: {kept}"
    device = (course.info.get("policy") or {}).get("device") or ""
    yield "Time", wording.duration(course.steps[-1]["seconds"]), device
