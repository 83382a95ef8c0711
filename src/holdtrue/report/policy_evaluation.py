"""The page of a policy's evaluation: its numbers beside another's, slices, and answers side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from holdtrue.records import Rollout, flatten
from holdtrue.report import wording
from holdtrue.report.page import render
from holdtrue.rundir import write_text

Row = Mapping[str, Any]


def write_policy_report(path: Path, value: Row, shown: Sequence[Sequence[Rollout]], ranked: int) -> None:
    """Write the page of what :func:`holdtrue.policy_evaluation.evaluate_policies` returns.

    ``shown`` are answers of each policy to the same prompt; the first ``ranked`` were chosen by reward, the
    others at random.
    """
    contents = {
        "name": path.resolve().parent.name,
        "headline": headline(value),
        "how": how(value),
        "notes": [*left_out(value), *value["notes"]],
        "policies": (names := short_names(value)),
        "paths": [one["policy"] for one in value["policies"]],
        "measures": list(measures(value)),
        "against": list(against(value)),
        "slices": [(name, *slice_table(value, rows)) for name, rows in value["slices"].items()],
        "transcripts": [_transcript(names, row, n < ranked) for n, row in enumerate(shown)],
        "compared": value["against"] is not None,
        "judge": value["judges"][0],
    }
    write_text(path, render(contents, {}, "policy_evaluation.jinja"))


def short_names(value: Row) -> list[str]:
    """The last part of each policy's path, or the whole path where these are alike."""
    paths = [one["policy"] for one in value["policies"]]
    short = [Path(path).name for path in paths]
    return short if all(short) and len({*short}) == len(short) else paths


def headline(value: Row) -> str:
    """Who wins by the first judge, or the mean reward."""
    judge, prompts = value["judges"][0], wording.many(value["prompts"], "prompt")
    names = short_names(value)
    if value["against"] is None:
        found = value["policies"][0]["rewards"][judge]
        return f"{names[0]}: mean reward {mean(found)} by {judge}, on {prompts}."
    rate = value["against"][judge]["win_rate"]
    if rate["mean"] is None:
        return f"{judge} gave no prompt a reward for both policies, so nobody wins."
    low, high = rate["interval"]
    how = "better than" if low > 0.5 else "worse than" if high < 0.5 else "not shown to differ from"
    return f"{names[0]} is {how} {names[1]}: it wins {share(rate)} by {judge}, on {prompts}."


def how(value: Row) -> str:
    """How the answers were drawn."""
    drawn = value["decoding"]
    cuts = f", top k {drawn['top_k']}" if drawn["top_k"] else ""
    cuts += f", top p {drawn['top_p']:g}" if drawn["top_p"] < 1 else ""
    most = wording.many(drawn["max_new_tokens"], "token")
    return (
        f"{wording.many(value['group'], 'answer')} to each prompt, seed {value['seed']}, temperature "
        f"{drawn['temperature']:g}{cuts}, at most {most}; "
        f"{100 * value['confidence']:g}% intervals over prompts"
    )


def left_out(value: Row) -> Iterator[str]:
    """The prompts that were not asked, by reason."""
    if value["left_out"]:
        said = ", ".join(f"{count:,} {reason}" for reason, count in value["left_out"].items())
        yield f"Prompts left out: {said}."


def measures(value: Row) -> Iterator[tuple[str, list[str]]]:
    """(what, a cell for each policy)."""
    policies = value["policies"]
    for judge in policies[0]["rewards"]:
        found = [one["rewards"][judge] for one in policies]
        yield f"mean reward, {judge}", [mean(one) for one in found]
        if found[0]["success"] is not None:
            yield f"reward ≥ {value['success']:g}, {judge}", [share(one["success"]) for one in found]
        if any(one["unscored"] for one in found):
            yield f"without a reward, {judge}", [f"{one['unscored']:,} answers" for one in found]
    yield "length in tokens", [mean(one["length"]) for one in policies]
    for part, always, names in (("finish", "stop", wording.ENDS), ("flags", "degenerate", {})):
        for name in policies[0][part]:
            found = [one[part].get(name) for one in policies]
            if name == always or any(one and one["mean"] for one in found):
                yield names.get(name, name.replace("_", " ")), [share(one) for one in found]
    yield "seconds per answer", [f"{one['seconds_per_answer']:.3g}" for one in policies]


def against(value: Row) -> Iterator[tuple[str, str, str]]:
    """(judge, win rate of the first policy, mean difference of rewards)."""
    for judge, found in (value["against"] or {}).items():
        yield judge, share(found["win_rate"]), mean(found["difference"], sign=True)


def slice_table(value: Row, rows: Sequence[Row]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Heads and cells of one column's slices, by the first judge."""
    judge = value["judges"][0]
    absolute = judge in value["policies"][0]["rewards"]
    names = short_names(value)
    heads = ["value", "prompts", *([f"{names[0]} wins"] if value["against"] is not None else [])]
    heads += [f"reward, {name}" for name in names if absolute]
    heads += [f"degenerate, {name}" for name in names]
    cells = []
    for row in rows:
        line = [str(row["value"]), f"{row['prompts']:,}"]
        line += [share(row["against"][judge]["win_rate"])] if row["against"] is not None else []
        line += [mean(one["rewards"][judge]) for one in row["policies"] if absolute]
        line += [share(one["flags"]["degenerate"]) for one in row["policies"]]
        cells.append(tuple(line))
    return heads, cells


def mean(found: Row, sign: bool = False) -> str:
    """A mean with its interval, ``0.31 (0.28 to 0.33)``."""
    if found["mean"] is None:
        return "none"
    form = "{:+.3g}" if sign else "{:.3g}"
    bounds = " (too few prompts)"
    if found["interval"] is not None:
        bounds = " ({} to {})".format(*(form.format(bound) for bound in found["interval"]))
    return f"{form.format(found['mean'])}{bounds}".replace("-", "−")


def share(found: Row | None) -> str:
    """A share with its interval."""
    if found is None:
        return "not looked for"
    if found["mean"] is None:
        return "none"
    return f"{wording.percent(found['mean'])} ({wording.span(found['interval'])})"


def _transcript(names: Sequence[str], sides: Sequence[Rollout], ranked: bool) -> Row:
    rewards = [one.reward for one in sides]
    both = len(sides) == 2 and None not in rewards
    return {
        "prompt": flatten(sides[0].prompt, roles=True),
        "ranked": ranked,
        "difference": rewards[0] - rewards[1] if both else None,  # type: ignore[operator]
        "sides": [
            {
                "policy": name,
                "text": one.text,
                "facts": f"reward {wording.number(one.reward)} · "
                f"{wording.many(len(one.completion_ids or ()), 'token')} · "
                f"{wording.ENDS.get(one.finish or '', '')}",
            }
            for name, one in zip(names, sides, strict=True)
        ],
    }
