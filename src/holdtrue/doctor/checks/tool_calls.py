"""X11: data in which a tool call that failed is made again and again."""

from __future__ import annotations

from typing import Any

from holdtrue.data.examples import Example
from holdtrue.doctor.checks import Results, check
from holdtrue.doctor.detectors.tool_error_loop import ToolErrorLoop
from holdtrue.doctor.findings import Finding
from holdtrue.doctor.reading import Reading, quote
from holdtrue.doctor.subject import Subject
from holdtrue.doctor.tallies import Places, of_examples
from holdtrue.doctor.tool_calls import failed_runs
from holdtrue.records import Rollout

MOST = ToolErrorLoop().most
"""Same calls that fail alike from which on it is a loop. A second attempt is right where the fault may pass
(a busy server); clients that retry by themselves commonly stop after three (as AWS's SDKs by default)."""
FEW = 0.01
"""Share of the examples above which it fails (ours)."""


@of_examples
class CallsAgain:
    """Examples in which a failed call is made again and again, and every such stretch."""

    def __init__(self, subject: Subject) -> None:
        self.held = Places()
        self.spans: list[dict[str, Any]] = []

    def see(self, one: Example) -> None:
        runs = [run for run in failed_runs(one.messages) if len(run) >= MOST]
        found = [
            {
                "at": one.at,
                "turns": (run[0].start, run[-1].end),
                "calls": len(run),
                "call": ", ".join(run[0].calls),
                "error": run[0].answers[0],
            }
            for run in runs
        ] or _inside(one.target or "", one.at)
        self.spans += found
        if found:
            self.held.add(one.at)


@check("X11")
def failed_calls_again(subject: Subject) -> Results:
    """The same tool call with the same arguments, three times or more in a row with the same "
    "error: warns, and
    fails above 1 % of the examples. Between turns, and inside an answer that is one text.
    """
    seen = subject.counted(CallsAgain)
    held, spans, total = seen.held, seen.spans, len(subject.examples or ())
    values = {"examples": len(held), "spans": spans}
    if not held:
        none = f"no tool call fails {MOST} times in a row in {total} examples"
        yield Finding("X11", "ok", none, values=values)
        return
    worst = max(spans, key=lambda span: int(span["calls"]))
    where = (
        "turns {} to {}".format(*worst["turns"])
        if "turns" in worst
        else "characters {} to {}".format(*worst["characters"])
    )
    yield Finding(
        "X11",
        "fail" if len(held) > FEW * total else "warn",
        f"{len(held)} of {total} examples make a call again that failed before, {MOST} "
        f"times or more: "
        f"{held}; most in {worst['at']}, {where}: {quote(worst['call'])} x {worst['calls']}",
        "the model learns to answer an error with the same call, which is a loop",
        "keep one of each (dedupe_failed_calls); delete rows whose answer holds all of it in one text",
        "Visual-Agent/DeepEyes#131; deepseek-ai/DeepSeek-V3#1630",
        values
        | {"fix": {"remedies": ["dedupe_failed_calls"]} if any("turns" in span for span in spans) else {}},
    )


def _inside(text: str, at: str) -> list[dict[str, Any]]:
    """Where an answer of one text calls alike, as the detector of rollouts sees it."""
    flags = ToolErrorLoop().check(Reading(Rollout("", text)))
    return [
        {
            "at": at,
            "characters": (flag.start, flag.end),
            "calls": flag.values["calls"],
            "call": flag.values["call"],
        }
        for flag in flags
        if flag.severity == "fail"
    ]
